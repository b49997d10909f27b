"""Plugins that return nonsense, end in every way, or change what others use."""

import builtins
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.core import Context, Measurement, Model
from harness.registry import method, task

sys.path.append(str(Path(__file__).parent))
from _hostile import DEATHS, ENDS, NONSENSE, SENSE, SPOILS, forever, remove_here


@task("toy_nonsense", kind="classifier")
class ToyNonsense:
    """Yields what ``how`` says."""

    how: str = "whole"

    def protocol(self) -> dict[str, Any]:
        return {"how": self.how}

    def fingerprint(self) -> str:
        return ""

    def evaluate(self, model: Model) -> Any:
        return SENSE[self.how]() if self.how in SENSE else NONSENSE[self.how][0]()


@method("toy_records", ratio_of="zeros")
class ToyRecords:
    """Records what ``how`` says, in ``fit`` or in ``compress``."""

    how: str
    when: str = "compress"

    def fit(self, model: Model, ctx: Context) -> None:
        if self.when == "fit":
            ctx.record(*NONSENSE[self.how][0]())

    def compress(self, fitted: None, ratio: float, ctx: Context) -> nn.Module:
        if self.when == "compress" and ratio == 0.5:
            ctx.record(*NONSENSE[self.how][0]())
        return ctx.dense()


@method("toy_ends", ratio_of="zeros")
class ToyEnds:
    """Ends as ``how`` says, in ``compress`` at ratio 0.5 or in ``fit``."""

    how: str
    when: str = "compress"

    def fit(self, model: Model, ctx: Context) -> None:
        if self.when == "fit":
            self._end()

    def compress(self, fitted: None, ratio: float, ctx: Context) -> nn.Module:
        if self.when == "compress" and ratio == 0.5:
            self._end()
        return ctx.dense()

    def _end(self) -> None:
        sys.stderr.write("\x1b[1mlast words\x1b[0m\n")
        (ENDS | DEATHS)[self.how][0]()


@method("toy_damages", ratio_of="zeros")
class ToyDamages:
    """Changes at ratio 0.5 what all ratios use; elsewhere zeroes what fits.

    Args:
        what: ``fitted``, ``list``, ``dense``, ``data``, ``numpy``, ``hook``, ``mode``
            or ``fit``.
    """

    what: str

    def fit(self, model: Model, ctx: Context) -> dict[str, Any]:
        if self.what == "fit":
            model.net.fc.weight.data.mul_(2)
        return {
            "weight": model.net.fc.weight.detach().clone(),
            "ranks": [1, 2],
            "array": np.ones(3),
        }

    def compress(self, fitted: dict[str, Any], ratio: float, ctx: Context) -> nn.Module:
        net = ctx.dense()
        with torch.no_grad():
            net.fc.weight.copy_(fitted["weight"] * fitted["array"][0])
            if ratio == 0.5:
                self._damage(fitted, ctx.model.net)
        return net

    def _damage(self, fitted: dict[str, Any], net: nn.Module) -> None:
        if self.what == "fitted":
            fitted["weight"].mul_(2)
        elif self.what == "list":
            fitted["ranks"].append(3)
            fitted["ranks"].remove(1)
        elif self.what == "dense":
            net.fc.weight.zero_()
        elif self.what == "data":
            net.fc.weight.data[0, 0] = 100
        elif self.what == "numpy":
            fitted["array"][0] = 5
        elif self.what == "hook":
            net.fc.register_forward_hook(lambda *_: None)
        elif self.what == "mode":
            net.train()


@task("toy_rewrites", kind="classifier")
class ToyRewrites:
    """Zeroes the network that it measures."""

    def protocol(self) -> dict[str, Any]:
        return {}

    def fingerprint(self) -> str:
        return ""

    def evaluate(self, model: Model) -> Iterator[Measurement]:
        with torch.no_grad():
            model.net.fc.weight.zero_()
        yield Measurement(metric="zero", value=0.0, goal="min")


@method("toy_spoils", ratio_of="zeros")
class ToySpoils:
    """Leaves its process spoilt as ``how`` says; ``thread`` and ``here`` for good."""

    how: str

    def compress(self, fitted: None, ratio: float, ctx: Context) -> nn.Module:
        net = ctx.dense()
        if self.how == "thread":
            forever()
        elif self.how == "here":
            remove_here()
        else:
            SPOILS[self.how]()
        return net


@task("toy_judge", kind="classifier")
class ToyJudge:
    """Refuses to measure in a spoilt process."""

    def protocol(self) -> dict[str, Any]:
        return {}

    def fingerprint(self) -> str:
        return ""

    def evaluate(self, model: Model) -> Iterator[Measurement]:
        spoilt = {
            "dtype": torch.get_default_dtype() is not torch.float32,
            "device": torch.empty(1).device.type != "cpu",
            "sum": torch.ones(3).sum().item() != 3,
            "denormal": (torch.tensor(1e-310, dtype=torch.float64) * 1).item() == 0,
            "numpy": np.mean([1.0, 3.0]) != 2,
            "int": builtins.int is not True.real.__class__,
            "directory": os.getcwd() == "/",
            "environment": "TOY_SPOILT" in os.environ,
            "threads": torch.get_num_threads() == 7,
            "stdout": sys.stdout is None,
            "warnings": any(one[0] == "error" for one in warnings.filters),
            "forward": nn.Linear(1, 1)(torch.ones(1)).numel() != 1,
        }
        found = [name for name, is_so in spoilt.items() if is_so]
        assert not found, f"the process is spoilt: {found}"
        yield Measurement(metric="judged", value=1.0, goal="max")
