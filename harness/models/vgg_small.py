"""VGG-small for CIFAR: 14,031,754 weights, 616.97 million MACs (arXiv:2309.13443)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from harness.models._classifier import Classifier, Stack
from harness.models._convnet import check_width, conv_stack, scaled, units
from harness.registry import model

_PLAN = (128, 128, "M", 256, 256, "M", 512, 512, "M")


@model(
    "vgg_small", kind="classifier", gives={"convs", "linears", "exits"}, trained=True
)
class VggSmall(Classifier):
    """Six convolutions, an exit point after each, two hidden linear layers.

    Args:
        width: Share of the filters and hidden neurons of the published network.
    """

    width: float = 1.0

    roles: ClassVar[Mapping[str, str]] = {
        r"conv\d+": "conv",
        r"fc\d+": "linear",
        r"relu\d+": "exit_point",
        "head": "head",
    }

    smallest: ClassVar[int] = 8

    def __post_init__(self) -> None:
        """Check the width."""
        check_width(self.width)

    def layers(self, shape: Mapping[str, Any]) -> nn.Module:
        """The network for a task's shape."""
        channels, height, width = shape["input"]
        stack = OrderedDict(conv_stack(scaled(_PLAN, self.width), channels, bias=False))
        stack["flatten"] = nn.Flatten()
        features = units(512, self.width) * (height // 8) * (width // 8)
        hidden = units(1024, self.width)
        for number in (1, 2):
            stack[f"fc{number}"] = nn.Linear(features, hidden)
            stack[f"fc_norm{number}"] = nn.BatchNorm1d(hidden)
            stack[f"fc_relu{number}"] = nn.ReLU()
            features = hidden
        stack["head"] = nn.Linear(features, shape["classes"])
        return Stack(stack)
