"""CIFAR-100: small colour photographs of 100 classes (Krizhevsky 2009)."""

from __future__ import annotations

from typing import ClassVar

from harness.registry import task
from tasks._images.hub import HubImages


@task("cifar100", kind="classifier", gives={"training_data"})
class Cifar100(HubImages):
    """Top-1 accuracy on the test images; 100 fine classes."""

    name: ClassVar[str] = "cifar100"
    hub: ClassVar[str] = "uoft-cs/cifar100"
    config: ClassVar[str] = "cifar100"
    side: ClassVar[int] = 32
    channels: ClassVar[int] = 3
    mean: ClassVar[tuple[float, ...]] = (0.5071, 0.4865, 0.4409)
    std: ClassVar[tuple[float, ...]] = (0.2673, 0.2564, 0.2762)
    labels: ClassVar[str] = "fine_label"
