"""Plugins and switches that harm a run from inside; see tests/chaos."""

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

import harness.running.driver
import harness.running.session
import harness.running.step_sign
import harness.running.worker
import results.storage.leases
import results.storage.store
from harness.core import Context, Measurement, Model
from harness.registry import method, model, task
from results.storage.folder import LocalFolder


@method("toy_stuck", ratio_of="zeros")
class ToyStuck:
    """At ratio 0.5, the first time, its process does not answer any more.

    Args:
        how: ``call``, a call into C that never returns and holds the interpreter, or
            ``stop``, a process that the kernel does not schedule.
        once: A file that remembers that it did.
    """

    how: str
    once: str

    def compress(self, fitted: None, ratio: float, ctx: Context) -> nn.Module:
        if ratio == 0.5 and not Path(self.once).exists():
            Path(self.once).write_text(str(os.getpid()))
            if self.how == "call":
                ctypes.PyDLL(None).sleep(600)
            else:
                os.kill(os.getpid(), signal.SIGSTOP)
        return ctx.dense()


@method("toy_hog", ratio_of="zeros")
class ToyHog:
    """At ratio 0.5, the first time, takes more memory than there is.

    Args:
        megabytes: How much; half of it is allowed.
        once: A file that remembers that it did.
        allowed: ``half`` by a limit of the process, or ``all``, for the kernel to
            decide.
    """

    megabytes: int
    once: str
    allowed: str = "half"

    def compress(self, fitted: None, ratio: float, ctx: Context) -> nn.Module:
        if ratio == 0.5 and not Path(self.once).exists():
            Path(self.once).touch()
            before = resource.getrlimit(resource.RLIMIT_AS)
            has = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
            limit = has + self.megabytes * 2**19
            if self.allowed == "half":
                resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
            try:
                held = [b"x" * 2**24 for _ in range(self.megabytes // 16)]
                raise AssertionError(f"{len(held)} blocks could be had")
            finally:
                resource.setrlimit(resource.RLIMIT_AS, before)
        return ctx.dense()


@method("toy_prints", ratio_of="zeros", stochastic=True)
class ToyPrints:
    """Prints a megabyte in each trial."""

    def compress(self, fitted: None, ratio: float, ctx: Context) -> nn.Module:
        sys.stdout.write("x" * 2**20)
        return ctx.dense()


@model("toy_trained", kind="classifier", gives={"linears"}, trained=True)
class ToyTrained:
    """A linear layer that is set, not trained."""

    def revision(self) -> str:
        return "1"

    def build(self, shape: dict[str, Any], seed: int) -> Model:
        net = nn.Sequential()
        net.add_module("fc", nn.Linear(8, 4, bias=False))
        return Model(
            name="toy_trained",
            net=net,
            kind="classifier",
            roles={"fc": "linear"},
            example=lambda: {"input": torch.ones(1, 8)},
        )

    def train(self, model: Model, ctx: Context) -> None:
        with torch.no_grad():
            model.net.fc.weight.fill_(float(1 + ctx.seed))


@task("toy_data", kind="classifier", gives={"training_data"})
class ToyData:
    """The sum of the weights, after ``seconds``."""

    seconds: float = 0.1

    def protocol(self) -> dict[str, Any]:
        return {}

    def fingerprint(self) -> str:
        return "ones"

    def training(self) -> str:
        return "ones"

    def data(self) -> Any:
        return SimpleNamespace(shape={"inputs": 8, "classes": 4})

    def evaluate(self, model: Model) -> Iterator[Measurement]:
        time.sleep(self.seconds)
        total = model.net.fc.weight.detach().double().sum().item()
        yield Measurement(metric="total", value=total, goal="max")


def slow_store(seconds: float) -> None:
    """Every write into a folder takes so long."""
    write = LocalFolder.write

    def late(self: LocalFolder, path: str, data: Any) -> None:
        time.sleep(seconds)
        write(self, path, data)

    LocalFolder.write = late


def other_clock(ahead: str) -> None:
    """The clock of the harness in this process is ahead by so much.

    Args:
        ahead: Seconds, or the path of a file with them, which is read at each look.
    """
    file = Path(ahead)

    def shift() -> float:
        return float(file.read_text() if file.is_absolute() else ahead)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(seconds=shift())

    shifted = {
        "time": lambda: time.time() + shift(),
        "time_ns": lambda: time.time_ns() + int(shift() * 1e9),
    }
    for module in (
        harness.running.worker,
        harness.running.driver,
        harness.running.session,
    ):
        module.datetime = Clock
    for module in (
        results.storage.leases,
        results.storage.store,
        harness.running.step_sign,
    ):
        module.time = SimpleNamespace(**{**vars(time), **shifted})


if "SABOTAGE_SLOW_STORE" in os.environ:
    slow_store(float(os.environ["SABOTAGE_SLOW_STORE"]))
if "SABOTAGE_CLOCK" in os.environ:
    other_clock(os.environ["SABOTAGE_CLOCK"])
