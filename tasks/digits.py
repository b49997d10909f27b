"""Scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, without a download."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from harness.core import BenchError
from harness.registry import task
from harness.toolkit import identity
from harness.toolkit.images import Images
from tasks._images.classification import ImageTask, missing

_TEST = 360  # images; the rest is split into training and validation


@task("digits", kind="classifier", gives={"training_data"})
class Digits(ImageTask):
    """Ten classes; the 360 test images are the same for every split seed."""

    name: ClassVar[str] = "digits"
    by_content: ClassVar[bool] = True
    side: ClassVar[int] = 8

    def fingerprint(self) -> str:
        """The content of the table that scikit-learn ships (UCI's test images)."""
        return f"sklearn-digits:{identity.of_file(_file())}:test{_TEST}"

    def read(self) -> tuple[Images, Images, int]:
        """The images with values 0 to 16 stretched to 0 to 255."""
        pixels, labels = _arrays(identity.of_file(_file()))
        images = pixels.mul(255 / 16).round().to(torch.uint8)
        whole = Images(
            pixels=images.view(-1, 1, 8, 8),
            labels=labels,
            mean=(0.3053,),  # of all images
            std=(0.3760,),
        )
        # A fixed seed, whatever `split_seed` is: it only divides what is not test.
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        return whole.take(order[_TEST:]), whole.take(order[:_TEST]), 10


def _file() -> Path:
    """The table of pixels and labels inside the installed package."""
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise missing("digits", "scikit-learn")
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


@cache
def _arrays(content: str) -> tuple[Tensor, Tensor]:
    """Read the table.

    It is read here and not by ``load_digits``, so that what is identified is what is
    read, and the import of scikit-learn is saved.

    Args:
        content: The identity of the table; another content is read again.

    Returns:
        Pixels of shape ``(n, 64)`` with values 0 to 16, and labels of shape ``(n,)``.

    Raises:
        BenchError: If the file is damaged.
    """
    path = _file()
    try:
        table = np.loadtxt(path, delimiter=",")
    except (OSError, ValueError, EOFError) as why:
        raise BenchError(
            f"{path} ({content}) cannot be read: {why}; install scikit-learn again"
        ) from why
    return torch.from_numpy(table[:, :-1]), torch.from_numpy(table[:, -1]).long()
