"""MNIST: 60,000 and 10,000 handwritten digits of 28 x 28 (LeCun et al. 1998)."""

from __future__ import annotations

from typing import ClassVar

from harness.registry import task
from tasks._images.hub import HubImages


@task("mnist", kind="classifier", gives={"training_data"})
class Mnist(HubImages):
    """Top-1 accuracy on the 10,000 test digits; 10 classes."""

    name: ClassVar[str] = "mnist"
    hub: ClassVar[str] = "ylecun/mnist"
    config: ClassVar[str] = "mnist"
    side: ClassVar[int] = 28
    channels: ClassVar[int] = 1
    mean: ClassVar[tuple[float, ...]] = (0.1307,)
    std: ClassVar[tuple[float, ...]] = (0.3081,)
