"""VGG-19 for CIFAR: 20,086,692 weights and 398.18 million MACs with 100 classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from harness.models._vgg import VGG, VGG19
from harness.registry import model


@model("vgg19", kind="classifier", gives={"convs", "exits"}, trained=True)
class Vgg19(VGG):
    """16 convolutions and the head (TPP's layout)."""

    plan: ClassVar[Sequence[int | str]] = VGG19
