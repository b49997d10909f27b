"""VGG-small for CIFAR: 14,031,754 weights, 616.97 million MACs (arXiv:2309.13443)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from harness.models._classifier import Classifier, Stack
from harness.models._convnet import conv_stack
from harness.registry import model

_PLAN = (128, 128, "M", 256, 256, "M", 512, 512, "M")


@model(
    "vgg_small", kind="classifier", gives={"convs", "linears", "exits"}, trained=True
)
class VggSmall(Classifier):
    """Six convolutions, an exit point after each, two hidden linear layers."""

    roles: ClassVar[Mapping[str, str]] = {
        r"conv\d+": "conv",
        r"fc\d+": "linear",
        r"relu\d+": "exit_point",
        "head": "head",
    }

    smallest: ClassVar[int] = 8

    def layers(self, shape: Mapping[str, Any]) -> nn.Module:
        """The network for a task's shape."""
        channels, height, width = shape["input"]
        stack = OrderedDict(conv_stack(_PLAN, channels, bias=False))
        stack["flatten"] = nn.Flatten()
        features = 512 * (height // 8) * (width // 8)
        for number in (1, 2):
            stack[f"fc{number}"] = nn.Linear(features, 1024)
            stack[f"fc_norm{number}"] = nn.BatchNorm1d(1024)
            stack[f"fc_relu{number}"] = nn.ReLU()
            features = 1024
        stack["head"] = nn.Linear(features, shape["classes"])
        return Stack(stack)
