"""Labelled images in memory, batched by index: what image tasks read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from harness.core import BenchError

# Smaller sets are normalised once, on the device; larger ones stay where they are (a
# file, mapped into memory) and are normalised batch by batch.
_NORMALISED_BYTES = 1 << 30
_ON_DEVICE_BYTES = 4 << 30

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """One split of a labelled image set.

    Args:
        pixels: Shape ``(n, channels, height, width)``: uint8 in [0, 255], or float32
            that is normalised already (``to`` makes it so).
        labels: Shape ``(n,)``, int64 in ``[0, classes)``.
        mean: Of each channel, as a share of 255.
        std: Of each channel, as a share of 255.
        augment: Changes a normalised training batch; None leaves it.
        device: Where batches go, from wherever the pixels are; None leaves them there.
    """

    pixels: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment | None = None
    device: torch.device | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def batch(
        self, index: Tensor, rng: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Normalised images and labels at ``index``.

        Args:
            index: Positions, shape ``(batch,)``, int64.
            rng: Draws the augmentation; None leaves the images as they are.

        Returns:
            Float32 images of shape ``(batch, channels, height, width)``, and labels.
        """
        # Pixels that are in a file stay there; only the batch moves to the device.
        index = index.to(self.pixels.device)
        pixels = self.pixels.index_select(0, index).to(self.device)
        images = self._normalised(pixels)
        if rng is not None and self.augment is not None:
            images = self.augment(images, rng)
        return images, self.labels.index_select(0, index).to(self.device)

    def _normalised(self, pixels: Tensor) -> Tensor:
        if pixels.is_floating_point():
            return pixels
        images, shape = pixels.float(), (1, -1, 1, 1)
        # In place, on the copy that ``float`` made. Mean and deviation are shares of
        # 255.
        images.sub_(255 * images.new_tensor(self.mean).view(shape))
        return images.div_(255 * images.new_tensor(self.std).view(shape))

    def to(self, device: torch.device) -> Images:
        """The same images, on ``device`` and normalised if they are few enough.

        Args:
            device: Where batches go in any case.

        Returns:
            The images; more than 4 GiB of pixels stay where they are.
        """
        if self.pixels.numel() > _ON_DEVICE_BYTES:
            return replace(self, device=device)
        pixels = self.pixels.to(device)
        # Float32 takes four bytes where uint8 takes one.
        if 4 * pixels.numel() <= _NORMALISED_BYTES:
            pixels = self._normalised(pixels)
        return replace(self, pixels=pixels, labels=self.labels.to(device))

    def take(self, index: Tensor) -> Images:
        """The images at ``index`` only."""
        return replace(self, pixels=self.pixels[index], labels=self.labels[index])

    def plain(self) -> Images:
        """The same images without augmentation."""
        return replace(self, augment=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageData:
    """The splits of an image task.

    Args:
        train: Images that training reads.
        validation: What decides: early stopping, thresholds, the best epoch.
        test: Images that the task measures on.
        classes: Number of classes of the labels.
    """

    train: Images
    validation: Images
    test: Images
    classes: int

    @property
    def shape(self) -> dict[str, Any]:
        """What a model is built from: number of classes, and shape of an image."""
        return {
            "classes": self.classes,
            "input": [int(n) for n in self.train.pixels.shape[1:]],
        }

    def to(self, device: torch.device) -> ImageData:
        """The same splits on ``device``."""
        return replace(
            self,
            train=self.train.to(device),
            validation=self.validation.to(device),
            test=self.test.to(device),
        )

    def check(self, name: str) -> ImageData:
        """These splits, if they can be learnt from.

        Args:
            name: Of the task, for the messages.

        Returns:
            ``self``.

        Raises:
            BenchError: If there is one class only, a label out of range, a split
                without images, or a class without training images.
        """
        if self.classes < 2:
            raise BenchError(f"{name} has {self.classes} class; a classifier needs 2")
        errors = []
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        for split, images in splits.items():
            # Labels first: the count of each class below needs them in their range.
            errors += _label_errors(f"{name}, split {split}", images, self.classes)
        if errors:
            raise BenchError(*errors)
        counts = torch.bincount(self.train.labels, minlength=self.classes)
        for empty in (counts == 0).nonzero().flatten().tolist():
            errors.append(f"{name} has no training image of class {empty}")
        if errors:
            raise BenchError(*errors)
        return self


def _label_errors(where: str, images: Images, classes: int) -> list[str]:
    if not len(images):
        return [f"{where} has no images"]
    low, high = int(images.labels.min()), int(images.labels.max())
    if low < 0 or high >= classes:
        return [f"{where} has labels from {low} to {high}; allowed: 0 to {classes - 1}"]
    return []


def flip_and_crop(images: Tensor, rng: torch.Generator) -> Tensor:
    """Random horizontal flip, and random crop after padding by an eighth.

    At 32 x 32 that is CIFAR's standard, four pixels of zeros on each side.

    Args:
        images: Normalised, shape ``(batch, channels, height, width)``.
        rng: Random generator on the CPU.

    Returns:
        New images of the same shape, each changed on its own.
    """
    n, _, height, width = images.shape
    pad = height // 8
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    top = torch.randint(0, 2 * pad + 1, (n,), generator=rng)
    left = torch.randint(0, 2 * pad + 1, (n,), generator=rng)
    flip = torch.randint(0, 2, (n,), generator=rng).bool()
    rows = top[:, None] + torch.arange(height)  # (batch, height)
    columns = torch.arange(width).expand(n, width)
    # A flip reads the columns of the cropped window from right to left: (batch, width).
    columns = left[:, None] + torch.where(flip[:, None], columns.flip(1), columns)
    device = images.device
    which = torch.arange(n, device=device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=device)[None, :, None, None]
    rows, columns = rows.to(device), columns.to(device)
    # Advanced indexing broadcasts the four indices to (batch, channels, height, width).
    return padded[which, channel, rows[:, None, :, None], columns[:, None, None, :]]


def shift(images: Tensor, rng: torch.Generator) -> Tensor:
    """Random shift by up to two pixels, for digits, which must not be mirrored."""
    n, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    top = torch.randint(0, 5, (n,), generator=rng)[:, None] + torch.arange(height)
    left = torch.randint(0, 5, (n,), generator=rng)[:, None] + torch.arange(width)
    device = images.device
    which = torch.arange(n, device=device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=device)[None, :, None, None]
    top, left = top.to(device), left.to(device)
    return padded[which, channel, top[:, None, :, None], left[:, None, None, :]]


AUGMENTS: Mapping[str, Augment | None] = {
    "none": None,
    "flip_and_crop": flip_and_crop,
    "shift": shift,
}
