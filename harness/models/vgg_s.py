"""VGG-S for CIFAR-10, DropBack's VGG: 14,987,200 weights (arXiv:1806.06949)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from harness.models._classifier import Classifier, Stack
from harness.models._convnet import conv_stack
from harness.models._vgg import ROLES
from harness.registry import model

_PLAN = (
    *(64, 0.3, 64, "M", 128, 0.4, 128, "M", 256, 0.4, 256, 0.4, 256, "M"),
    *(512, 0.4, 512, 0.4, 512, "M", 512, 0.4, 512, 0.4, 512, "M"),
)


@model("vgg_s", kind="classifier", gives={"convs", "linears", "exits"}, trained=True)
class VggS(Classifier):
    """13 convolutions with dropout, one hidden layer; only norms have biases."""

    roles: ClassVar[Mapping[str, str]] = ROLES
    smallest: ClassVar[int] = 32

    def layers(self, shape: Mapping[str, Any]) -> nn.Module:
        """The network for a task's shape; images of 32 x 32 leave one pixel."""
        channels, height, width = shape["input"]
        stack = OrderedDict(conv_stack(_PLAN, channels, bias=False))
        stack["flatten"] = nn.Flatten()
        stack["fc_dropout1"] = nn.Dropout(0.5)
        pixels = (height // 32) * (width // 32)
        stack["fc1"] = nn.Linear(512 * pixels, 512, bias=False)
        stack["fc_norm1"] = nn.BatchNorm1d(512)
        stack["fc_relu1"] = nn.ReLU()
        stack["fc_dropout2"] = nn.Dropout(0.5)
        stack["head"] = nn.Linear(512, shape["classes"], bias=False)
        return Stack(stack)
