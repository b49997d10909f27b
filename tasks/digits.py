"""Scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, without a download."""

from __future__ import annotations

from typing import ClassVar

import torch

from harness.registry import task
from harness.toolkit.images import Images
from tasks._images.classification import ImageTask, missing

_TEST = 360  # images; the rest is split into training and validation
_IMAGES = 1797


@task("digits", kind="classifier", gives={"training_data"})
class Digits(ImageTask):
    """Ten classes; the 360 test images are the same for every split seed."""

    name: ClassVar[str] = "digits"

    def fingerprint(self) -> str:
        """The UCI test set of optical digits, as scikit-learn ships it."""
        from importlib.util import find_spec

        if find_spec("sklearn") is None:
            raise missing("digits", "scikit-learn")
        return f"sklearn-digits:{_IMAGES}:test{_TEST}"

    def read(self) -> tuple[Images, Images, int]:
        """The images with values 0 to 16 stretched to 0 to 255."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as why:
            raise missing("digits", "scikit-learn") from why
        pixels, labels = load_digits(return_X_y=True)
        images = torch.from_numpy(pixels).mul(255 / 16).round().to(torch.uint8)
        whole = Images(
            pixels=images.view(-1, 1, 8, 8),
            labels=torch.from_numpy(labels).long(),
            mean=(0.3053,),  # of all images
            std=(0.3760,),
        )
        order = torch.randperm(_IMAGES, generator=torch.Generator().manual_seed(0))
        return whole.take(order[_TEST:]), whole.take(order[:_TEST]), 10
