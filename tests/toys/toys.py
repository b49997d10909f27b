"""Plugins that cost nothing or fail on purpose; loaded through SHRINKGRID_PLUGINS."""

import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.core import Context, Measurement, Model, Unsupported
from harness.registry import method, model, task
from harness.toolkit import identity


@model("toy", kind="classifier", gives={"linears"})
class Toy:
    """Eight inputs, four outputs, known weights."""

    scale: float = 1.0

    def revision(self) -> str:
        return "1"

    def load(self) -> Model:
        count("load")
        net = nn.Sequential()
        net.add_module("fc", nn.Linear(8, 4, bias=False))
        weights = torch.arange(1.0, 33.0).view(4, 8) * self.scale
        net.load_state_dict({"fc.weight": weights})
        return Model(
            name="toy",
            net=net,
            kind="classifier",
            roles={"fc": "linear"},
            example=lambda: {"input": torch.ones(1, 8)},
        )


@task("toy_sum", kind="classifier")
class ToySum:
    """The sum of the weights, divided by ``by``."""

    by: float = 1.0

    def protocol(self) -> dict[str, Any]:
        return {"by": self.by}

    def fingerprint(self) -> str:
        return "ones"

    def evaluate(self, model: Model) -> Iterator[Measurement]:
        count("evaluate")
        total = model.net.fc.weight.detach().double().sum().item() / self.by
        yield Measurement(
            metric="total", value=total, goal="max", values=[total, 1.0], chance=1.5
        )


@task("toy_file", kind="classifier", gives={"training_data"})
class ToyFile:
    """The length of a file, which grows while ``append`` is measured.

    Args:
        path: The file.
        append: Written to the file's end during the evaluation.
    """

    path: str
    append: str = ""

    def protocol(self) -> dict[str, Any]:
        return {}

    def fingerprint(self) -> str:
        return identity.of_file(Path(self.path))

    def training(self) -> str:
        return self.fingerprint()

    def data(self) -> str:
        return Path(self.path).read_text()

    def evaluate(self, model: Model) -> Iterator[Measurement]:
        read = self.data()
        with Path(self.path).open("a") as file:
            file.write(self.append)
        yield Measurement(metric="length", value=len(read), goal="max")


@method("toy_drop", ratio_of="zeros", needs={"linears"})
class ToyDrop:
    """Zeroes the first weights."""

    def fit(self, model: Model, ctx: Context) -> int:
        count("fit")
        ctx.trained.add(2, 64)
        return model.net.fc.weight.numel()

    def compress(self, fitted: int, ratio: float, ctx: Context) -> nn.Module:
        count("compress")
        ctx.trained.add(1, 32)
        net = ctx.dense()
        with torch.no_grad():
            net.fc.weight.view(-1)[: int(ratio * fitted)] = 0
        return net


@method("toy_noop", ratio_of="zeros", stochastic=True)
class ToyNoop:
    """Does nothing, once for every seed."""

    def compress(self, fitted: None, ratio: float, ctx: Context) -> nn.Module:
        return ctx.model.net


@method("toy_trouble", ratio_of="zeros")
class ToyTrouble:
    """Ends in ``how`` at ratio 0.5, well elsewhere; ``once`` only the first time.

    Args:
        how: What goes wrong.
        once: A file that remembers that it did.
    """

    how: str = "raise"
    once: str = ""

    def compress(self, fitted: None, ratio: float, ctx: Context) -> nn.Module:
        if ratio == 0.5 and not (self.once and Path(self.once).exists()):
            if self.once:
                Path(self.once).touch()
            return _TROUBLE[self.how](ctx)
        return ctx.dense()


def _raise(ctx: Context) -> nn.Module:
    secret = os.environ.get("TOY_API_TOKEN", "")
    raise RuntimeError(f"broken on purpose {secret}")


def _nan(ctx: Context) -> nn.Module:
    net = ctx.dense()
    with torch.no_grad():
        net.fc.weight.fill_(math.nan)
    return net


def _oom(ctx: Context) -> nn.Module:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 PiB")


def _unsupported(ctx: Context) -> nn.Module:
    raise Unsupported("nothing here to compress")


def _sleep(ctx: Context) -> nn.Module:
    time.sleep(60)
    return ctx.dense()


def _kill(ctx: Context) -> nn.Module:
    os.kill(os.getpid(), signal.SIGKILL)
    return ctx.dense()


_TROUBLE = {
    "raise": _raise,
    "nan": _nan,
    "oom": _oom,
    "unsupported": _unsupported,
    "sleep": _sleep,
    "kill": _kill,
}


@task("toy_slow", kind="classifier")
class ToySlow:
    """Takes ``seconds``."""

    seconds: float = 0.1

    def protocol(self) -> dict[str, Any]:
        return {}

    def fingerprint(self) -> str:
        return ""

    def evaluate(self, model: Model) -> Iterator[Measurement]:
        time.sleep(self.seconds)
        yield Measurement(metric="seconds", value=self.seconds, goal="min")


@task("toy_samples", kind="classifier")
class ToySamples:
    """A number whose samples are none."""

    def protocol(self) -> dict[str, Any]:
        return {}

    def fingerprint(self) -> str:
        return ""

    def evaluate(self, model: Model) -> Iterator[Measurement]:
        samples = [1.0, math.inf]
        yield Measurement(metric="m", value=1.0, goal="min", values=samples)


def count(what: str) -> None:
    """Leave a mark for tests that count how often a step ran."""
    folder = os.environ.get("TOY_COUNTS")
    if folder:
        Path(folder, f"{what}-{time.monotonic_ns()}-{os.getpid()}").touch()
