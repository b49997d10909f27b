"""Any two files whose lines translate each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from harness.registry import task
from tasks._translation.aligned import Words, content, read_aligned
from tasks._translation.task import TranslationTask


@task("parallel_text", kind="seq2seq", gives={"training_data"})
class ParallelTextTask(TranslationTask):
    """Your own translations, split at random, once for a ``split_seed``.

    Args:
        source: File with one sentence a line, words parted by spaces, UTF-8.
        target: File of its translations, line by line.
        dev: Share of the lines that decides when to stop.
        test: Share of the lines that is measured.
        split_seed: Fixes which lines they are.
    """

    source: str
    target: str
    dev: float = 0.1
    test: float = 0.1
    split_seed: int = 0

    name: ClassVar[str] = "parallel_text"

    def __post_init__(self) -> None:
        """Refuse shares that leave a split empty.

        Raises:
            ValueError: With every option that is out of range.
        """
        super().__post_init__()
        if not (self.dev > 0 and self.test > 0 and self.dev + self.test < 1):
            raise ValueError(
                f"dev is {self.dev} and test is {self.test}; both must be above 0, "
                "and together below 1"
            )

    def read(self) -> Mapping[str, tuple[Words, Words]]:
        """The three splits."""
        sides = read_aligned(Path(self.source), Path(self.target))
        n = len(sides[0])
        rng = torch.Generator().manual_seed(self.split_seed)
        order = torch.randperm(n, generator=rng).tolist()
        test, dev = round(n * self.test), round(n * (self.test + self.dev))
        parts = {"test": order[:test], "dev": order[test:dev], "train": order[dev:]}
        return {
            split: (
                [sides[0][i] for i in sorted(which)],
                [sides[1][i] for i in sorted(which)],
            )
            for split, which in parts.items()
        }

    def fingerprint(self) -> str:
        """Digest of the two files."""
        return content([Path(self.source), Path(self.target)])

    def protocol(self) -> dict[str, Any]:
        """As the other tasks', with the split."""
        split = {"dev": self.dev, "test": self.test, "split_seed": self.split_seed}
        return super().protocol() | {"split": split}

    def training(self) -> str:
        """As the other tasks', with the split."""
        return f"{super().training()}:{(self.dev, self.test, self.split_seed)}"
