"""Networks that torch.compile has compiled, for tasks that measure language models."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from harness.core import BenchError, Measurement, Unsupported
from harness.toolkit import devices
from tasks import _speed


@dataclass(frozen=True, kw_only=True)
class Compilable(_speed.Speed):
    """The options of measurements that may compile the network first.

    Args:
        compile: Whether ``torch.compile`` compiles the network before it is measured,
            for the one shape of its inputs.
    """

    compile: bool = False

    def protocol(self) -> dict[str, Any]:
        """As ``Speed.protocol``; networks that are not compiled say nothing of it."""
        fields = super().protocol()
        # Absent and not false: trials that were stored before this option existed keep
        # their identity.
        if not self.compile:
            del fields["compile"]
        return fields


def compiled(net: nn.Module) -> Any:
    """The network, to be compiled at its first call, once for each shape of inputs."""
    # Compiled code belongs to the code of a class: that of an earlier network would
    # count towards the number of variants, after which torch compiles no more.
    torch.compiler.reset()
    return torch.compile(net, dynamic=False)


def first(name: str, run: Callable[[], object]) -> Measurement:
    """Run once, so that everything is compiled before the measurement.

    Args:
        name: Name of the model, for messages.
        run: Runs the network on inputs of all shapes that are measured.

    Returns:
        ``compile_time``: the seconds that this run took.

    Raises:
        BenchError: If torch finds no C++ compiler.
        Unsupported: If torch cannot compile this network.
    """
    # Only here: these imports take a second.
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InvalidCxxCompiler

    began = time.perf_counter()
    try:
        run()
    except TorchDynamoException as why:
        cause = getattr(why, "inner_exception", why)  # of the backend
        if isinstance(cause, InvalidCxxCompiler):
            raise BenchError(
                "`compile: true` needs a C++ compiler, and torch found none: install "
                "g++, name a compiler in the variable CXX, or leave `compile` out"
            ) from why
        said = str(cause).strip().partition("\n")[0]
        raise Unsupported(
            f"torch.compile cannot compile {name}: {type(cause).__name__}: {said}"
        ) from why
    devices.synchronize(devices.pick())
    spent = time.perf_counter() - began
    return Measurement(metric="compile_time", value=spent, unit="s")
