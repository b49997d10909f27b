"""ResNet-20 for CIFAR: 269,722 weights and 40.55 million MACs with ten classes."""

from __future__ import annotations

from typing import ClassVar

from harness.models._resnet import CifarResNet
from harness.registry import model


@model("resnet20", kind="classifier", gives={"convs", "exits"}, trained=True)
class ResNet20(CifarResNet):
    """Three stages of 3 basic blocks."""

    blocks: ClassVar[int] = 3
