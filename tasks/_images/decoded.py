"""Images decoded once to arrays on disk, and mapped into memory afterwards."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Below this a split is read whole: gathering batches from a page cache is slower.
_READ_WHOLE_BYTES = 2 << 30

Decoded = tuple[Tensor, Tensor]


def cache_folder() -> Path:
    """The folder of decoded images, below ``XDG_CACHE_HOME``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "shrinkgrid" / "images"


def once(
    key: str, shape: tuple[int, ...], rows: Callable[[], Iterator[tuple[Any, int]]]
) -> Decoded:
    """Return pixels and labels of a split; the first call on a machine decodes them.

    Args:
        key: Identity of the split's content; each key has a file of its own.
        shape: ``(n, channels, height, width)``.
        rows: Yields uint8 arrays of ``shape[1:]`` with their labels, ``n`` of them.

    Returns:
        Uint8 pixels, memory-mapped above 2 GiB, and int64 labels.
    """
    digest = hashlib.sha256(key.encode()).hexdigest()[:24]
    folder = cache_folder() / digest
    if not (folder / "labels.npy").is_file():
        _decode(folder, shape, rows())
    # Copy on write: torch wants memory that it may write to, and the file must not
    # change.
    pixels = np.load(folder / "pixels.npy", mmap_mode="c", allow_pickle=False)
    if pixels.nbytes <= _READ_WHOLE_BYTES:
        pixels = np.array(pixels)
    labels = np.load(folder / "labels.npy", allow_pickle=False)
    return torch.from_numpy(pixels), torch.from_numpy(labels)


def _decode(
    folder: Path, shape: tuple[int, ...], rows: Iterator[tuple[Any, int]]
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Written beside its place and renamed at the end: a folder of this name is always
    # whole, also after a process that was killed.
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        half = Path(beside) / "half"
        half.mkdir()
        pixels = np.lib.format.open_memmap(
            half / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape
        )
        labels = np.empty(shape[0], dtype=np.int64)
        for position, (image, label) in enumerate(rows):
            pixels[position], labels[position] = image, label
        pixels.flush()
        np.save(half / "labels.npy", labels)
        try:
            half.rename(folder)
        except OSError:  # another process was first, with the same content
            if not (folder / "labels.npy").is_file():
                raise
