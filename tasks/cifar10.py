"""CIFAR-10: small colour photographs (Krizhevsky 2009)."""

from __future__ import annotations

from typing import ClassVar

from harness.registry import task
from tasks._images.hub import HubImages


@task("cifar10", kind="classifier", gives={"training_data"})
class Cifar10(HubImages):
    """Top-1 accuracy on the test images; 10 classes."""

    name: ClassVar[str] = "cifar10"
    hub: ClassVar[str] = "uoft-cs/cifar10"
    config: ClassVar[str] = "plain_text"
    side: ClassVar[int] = 32
    channels: ClassVar[int] = 3
    mean: ClassVar[tuple[float, ...]] = (0.4915, 0.4821, 0.4464)
    std: ClassVar[tuple[float, ...]] = (0.2470, 0.2435, 0.2616)
