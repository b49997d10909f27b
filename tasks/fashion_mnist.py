"""Fashion-MNIST: clothes in the format of MNIST (arXiv:1708.07747)."""

from __future__ import annotations

from typing import ClassVar

from harness.registry import task
from tasks._images.hub import HubImages


@task("fashion_mnist", kind="classifier", gives={"training_data"})
class FashionMnist(HubImages):
    """Top-1 accuracy on the 10,000 test images; 10 classes."""

    name: ClassVar[str] = "fashion_mnist"
    hub: ClassVar[str] = "zalando-datasets/fashion_mnist"
    config: ClassVar[str] = "fashion_mnist"
    side: ClassVar[int] = 28
    channels: ClassVar[int] = 1
    mean: ClassVar[tuple[float, ...]] = (0.2860,)
    std: ClassVar[tuple[float, ...]] = (0.3530,)
