"""Image tasks whose data is a Hugging Face data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from harness.core import BenchError
from harness.toolkit.hub import settle
from harness.toolkit.images import Images
from tasks._images import decoded
from tasks._images.classification import ImageTask


@dataclass(frozen=True, kw_only=True)
class HubImages(ImageTask):
    """An image task read through ``datasets``, from its cache where offline."""

    hub: ClassVar[str]
    config: ClassVar[str]
    side: ClassVar[int]
    channels: ClassVar[int]
    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]
    labels: ClassVar[str] = "label"  # column with the classes

    def fingerprint(self) -> str:
        """Name, revision and rows of the data set, from its metadata alone."""
        builder = _builder(self.hub, self.config)
        rows = "+".join(
            f"{name}{split.num_examples}" for name, split in builder.info.splits.items()
        )
        return f"{self.hub}/{self.config}@{builder.hash[:12]}:{rows}"

    def read(self) -> tuple[Images, Images, int]:
        """Both splits, decoded once on this machine."""
        builder = _builder(self.hub, self.config)
        classes = builder.info.features[self.labels].num_classes
        return self._split_of("train"), self._split_of("test"), classes

    def _split_of(self, split: str) -> Images:
        n = _builder(self.hub, self.config).info.splits[split].num_examples
        shape = (n, self.channels, self.side, self.side)
        pixels, labels = decoded.once(
            f"{self.fingerprint()}/{split}/{shape}", shape, lambda: self._rows(split)
        )
        return Images(pixels=pixels, labels=labels, mean=self.mean, std=self.std)

    def _rows(self, split: str) -> Iterator[tuple[Any, int]]:
        settle()
        import datasets

        rows = datasets.load_dataset(self.hub, self.config, split=split)
        features = rows.features
        # The column is `img` in one data set and `image` in another.
        picture = next(k for k, f in features.items() if isinstance(f, datasets.Image))
        mode = "L" if self.channels == 1 else "RGB"
        for row in rows:
            # (height, width), or (height, width, 3); then channels first.
            image = np.asarray(row[picture].convert(mode), dtype=np.uint8)
            image = image.reshape(self.side, self.side, self.channels)
            yield image.transpose(2, 0, 1), row[self.labels]


@cache
def _builder(hub: str, config: str) -> Any:
    settle()
    import datasets

    try:
        return datasets.load_dataset_builder(hub, config)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as why:
        raise BenchError(
            f"data set {hub} ({config}) is not available: {why}. Run `shrinkgrid "
            "prepare GRID` on a machine with a network, or set HF_DATASETS_CACHE to a "
            "cache that contains it"
        ) from why
