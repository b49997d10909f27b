"""Perceptrons with hidden layers of any width: MLP-100-100, LeNet-300-100."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from harness.models._classifier import Classifier, Stack
from harness.registry import model


@model("mlp", kind="classifier", gives={"linears", "exits"}, trained=True)
class MLP(Classifier):
    """Linear layers with ReLU; on MNIST, 89,610 weights at the default widths.

    Args:
        hidden: Widths of the hidden layers; ``[300, 100]`` is LeNet-300-100
            (LeCun et al. 1998), with 266,610 weights on MNIST.
    """

    hidden: tuple[int, ...] = (100, 100)

    roles: ClassVar[Mapping[str, str]] = {
        r"fc\d+": "linear",
        r"relu\d+": "exit_point",
        "head": "head",
    }

    def __post_init__(self) -> None:
        """Refuse widths that are not positive.

        Raises:
            ValueError: If one is not.
        """
        if not all(width > 0 for width in self.hidden):
            raise ValueError(f"hidden is {list(self.hidden)}; widths are at least 1")

    def layers(self, shape: Mapping[str, Any]) -> nn.Module:
        """The network for a task's shape."""
        stack: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        width = math.prod(shape["input"])
        for number, units in enumerate(self.hidden, 1):
            stack[f"fc{number}"] = nn.Linear(width, units)
            stack[f"relu{number}"] = nn.ReLU()
            width = units
        stack["head"] = nn.Linear(width, shape["classes"])
        return Stack(stack)
