"""VGG-16 for CIFAR: 14,991,946 weights and 313.46 million MACs with ten classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from harness.models._vgg import VGG, VGG16
from harness.registry import model


@model("vgg16", kind="classifier", gives={"convs", "linears", "exits"}, trained=True)
class Vgg16(VGG):
    """13 convolutions, one hidden linear layer (HRank's layout)."""

    plan: ClassVar[Sequence[int | str]] = VGG16
    fc: ClassVar[tuple[int, ...]] = (512,)
