"""A model, a method and a task that cost nothing: what is left is the engine."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from harness.core import Context, Measurement, Model
from harness.registry import method, model, task


@model("noop", kind="classifier")
class NoopModel:
    """One weight."""

    def revision(self) -> str:
        """Always the same."""
        return "1"

    def load(self) -> Model:
        """A linear layer of one weight."""
        return Model(
            name="noop",
            net=nn.Linear(1, 1, bias=False),
            kind="classifier",
            roles={},
            example=lambda: {"input": torch.ones(1, 1)},
        )


@method("noop", ratio_of="parameters", stochastic=True)
class NoopMethod:
    """Leaves the network as it is."""

    def compress(self, fitted: None, ratio: float, ctx: Context) -> nn.Module:
        """The dense network itself."""
        return ctx.model.net


@task("noop", kind="classifier")
class NoopTask:
    """Measures nothing: the number 1."""

    def protocol(self) -> dict[str, Any]:
        """No protocol."""
        return {}

    def fingerprint(self) -> str:
        """No data."""
        return ""

    def evaluate(self, model: Model) -> Iterator[Measurement]:
        """The number 1."""
        yield Measurement(metric="one", value=1.0, goal="max")
