"""ResNet-56 for CIFAR: 853,018 weights and 125.49 million MACs with ten classes."""

from __future__ import annotations

from typing import ClassVar

from harness.models._resnet import CifarResNet
from harness.registry import model


@model("resnet56", kind="classifier", gives={"convs", "exits"}, trained=True)
class ResNet56(CifarResNet):
    """Three stages of 9 basic blocks."""

    blocks: ClassVar[int] = 9
