"""A small VGG-style network for small grey images; trains on digits in seconds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from harness.models._classifier import Classifier, Stack
from harness.models._convnet import averaged, conv_stack
from harness.registry import model


@model("digits_convnet", kind="classifier", gives={"convs", "exits"}, trained=True)
class DigitsConvnet(Classifier):
    """Four 3 x 3 convolutions in two blocks, global average pooling, one linear layer.

    Args:
        widths: Of the four convolutions.
    """

    widths: tuple[int, int, int, int] = (16, 16, 32, 32)

    roles: ClassVar[Mapping[str, str]] = {
        r"conv\d+": "conv",
        "relu1|relu2|relu3": "exit_point",
        "head": "head",
    }

    def __post_init__(self) -> None:
        """Refuse widths that are not positive.

        Raises:
            ValueError: If one is not.
        """
        if not all(width > 0 for width in self.widths):
            raise ValueError(f"widths is {list(self.widths)}; widths are at least 1")

    smallest: ClassVar[int] = 2

    def layers(self, shape: Mapping[str, Any]) -> nn.Module:
        """The network for a task's shape."""
        plan = (*self.widths[:2], "M", *self.widths[2:])
        stack = OrderedDict(conv_stack(plan, shape["input"][0], bias=False))
        stack |= averaged(self.widths[3], shape["classes"])
        return Stack(stack)
