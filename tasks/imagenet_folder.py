"""ImageNet-1k, or any images sorted into one folder for each class."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from harness.core import BenchError
from harness.registry import task
from harness.toolkit import identity
from harness.toolkit.images import Images
from tasks._images import decoded
from tasks._images.classification import ImageTask

_TYPES = {".jpeg", ".jpg", ".png", ".bmp", ".webp"}
_NAMED = 10  # broken files that a message lists


@task("imagenet_folder", kind="classifier", gives={"training_data"})
class ImageNetFolder(ImageTask):
    """Top-1 and top-5 accuracy on ``path``/val, trained on ``path``/train.

    Args:
        path: Folder with ``train/CLASS/*`` and ``val/CLASS/*``.
        side: Images are scaled so that the shorter side is ``side * 8 / 7`` pixels
            (256 at 224), and cropped in the middle to ``side`` x ``side``.
    """

    path: str
    side: int = 224

    name: ClassVar[str] = "imagenet_folder"

    def paths(self) -> tuple[str, ...]:
        """The option ``path``, whose images the fingerprint covers."""
        return ("path",)

    def fingerprint(self) -> str:
        """The names and the content of every image; the classes are in the names."""
        root = Path(self.path)
        named = {
            name: root / name for part in _listing(self.path).values() for name in part
        }
        return f"folder:{identity.of_files(named).removeprefix('sha256:')}"

    def protocol(self) -> dict[str, Any]:
        """How the numbers are made; the path of the folder is not part of it."""
        return {**super().protocol(), "side": self.side, "crop": "center 7/8"}

    def read(self) -> tuple[Images, Images, int]:
        """Both splits, decoded once on this machine."""
        files = _listing(self.path)
        classes = sorted({Path(f).parts[1] for f in files["train"]})
        strange = sorted({Path(f).parts[1] for f in files["val"]} - set(classes))
        if strange:
            raise BenchError(
                f"{self.path}/val has classes that train has not: {', '.join(strange)}"
            )
        return self._part("train", classes), self._part("val", classes), len(classes)

    def _part(self, split: str, classes: list[str]) -> Images:
        files = _listing(self.path)[split]
        labels = [classes.index(Path(f).parts[1]) for f in files]
        shape = (len(files), 3, self.side, self.side)
        pixels, kept = decoded.once(
            f"{self.fingerprint()}/{split}/{shape}",
            shape,
            lambda: zip(self._pictures(files), labels, strict=True),
        )
        return Images(
            pixels=pixels, labels=kept, mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        )  # fmt: skip

    def _pictures(self, files: list[str]) -> Iterator[Any]:
        broken: list[str] = []

        def decode(name: str) -> Any:
            from PIL import Image

            try:
                with Image.open(Path(self.path) / name) as image:
                    return _crop(image.convert("RGB"), self.side)
            except (OSError, SyntaxError, ValueError) as why:
                # Reading goes on, so that one error names all broken files. The image
                # of zeros is never used.
                broken.append(f"{Path(self.path) / name} cannot be read: {why}")
                return np.zeros((3, self.side, self.side), dtype=np.uint8)

        with ThreadPoolExecutor() as pool:
            for start in range(0, len(files), 1024):  # bounds what waits in memory
                yield from pool.map(decode, files[start : start + 1024])
        if broken:
            more = [f"and {len(broken) - _NAMED} more"] if len(broken) > _NAMED else []
            raise BenchError(*sorted(broken)[:_NAMED], *more)


def _crop(image: Any, side: int) -> Any:
    width, height = image.size
    scale = side * 8 / 7 / min(width, height)
    wide, high = (max(side, round(n * scale)) for n in (width, height))
    image = image.resize((wide, high))
    left, top = (wide - side) // 2, (high - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)


def _listing(path: str) -> dict[str, list[str]]:
    """Image files of each split, relative to ``path``, in order."""
    root = Path(path)
    files: dict[str, list[str]] = {}
    for split in ("train", "val"):
        # The order of a folder differs between file systems, and the held-out images
        # are drawn by position.
        found = sorted(
            p for p in root.glob(f"{split}/*/*") if p.suffix.lower() in _TYPES
        )
        if not found:
            raise BenchError(
                f"{root / split} has no images: imagenet_folder wants "
                f"PATH/{split}/CLASS/NAME.jpeg"
            )
        files[split] = [str(p.relative_to(root)) for p in found]
    return files
