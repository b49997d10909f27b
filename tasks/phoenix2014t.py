"""RWTH-PHOENIX-Weather 2014T, gloss to German (Camgoz et al., CVPR 2018)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from harness.core import BenchError
from harness.registry import task
from tasks._translation.aligned import Words, content, read_aligned
from tasks._translation.task import SPLITS, TranslationTask

VARIABLE = "SHRINKGRID_PHOENIX2014T"
WHERE = (
    "the text of RWTH-PHOENIX-Weather 2014T (CC BY-NC-SA 3.0, not for commercial use) "
    "is in the folder Data of github.com/neccam/nslt; name its copy by the option "
    f"`folder` or the environment variable {VARIABLE}"
)


@task("phoenix2014t", kind="seq2seq", gives={"training_data"})
class Phoenix2014T(TranslationTask):
    """7,096 / 519 / 642 weather sentences, lower case, split at white space.

    Args:
        folder: Folder with ``phoenix2014T.{train,dev,test}.{gloss,de}``; None takes
            the environment variable ``SHRINKGRID_PHOENIX2014T``.
    """

    folder: str | None = None

    name: ClassVar[str] = "phoenix2014t"
    by_content: ClassVar[bool] = True

    def read(self) -> Mapping[str, tuple[Words, Words]]:
        """The three splits, as published."""
        paths = self._paths()
        return {
            split: read_aligned(*paths[2 * i : 2 * i + 2])
            for i, split in enumerate(SPLITS)
        }

    def paths(self) -> tuple[str, ...]:
        """The option ``folder``, whose files the fingerprint covers."""
        return ("folder",)

    def fingerprint(self) -> str:
        """Digest of the six files."""
        return content(self._paths())

    def _paths(self) -> list[Path]:
        named = self.folder or os.environ.get(VARIABLE)
        if not named:
            raise BenchError(f"phoenix2014t has no folder: {WHERE}")
        paths = [
            Path(named) / f"phoenix2014T.{split}.{side}"
            for split in SPLITS
            for side in ("gloss", "de")
        ]
        missing = [p.name for p in paths if not p.is_file()]
        if missing:
            raise BenchError(f"{named} lacks {', '.join(missing)}: {WHERE}")
        return paths
