"""Your own parallel text: files whose lines translate each other."""

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
    """Your own translations: one pair of files, or one each for train, dev and test.

    A split without files of its own is drawn from the lines of ``source`` and
    ``target``, at random, once for a ``split_seed``.

    Args:
        source: File with one sentence in a line, words separated by spaces, UTF-8.
        target: File of its translations, line by line.
        dev_source: The same for the sentences that decide when to stop.
        dev_target: File with the translations of ``dev_source``.
        test_source: The same for the sentences that are measured.
        test_target: File with the translations of ``test_source``.
        dev: Share of the lines that becomes dev, in (0, 1), without dev files.
        test: Share of the lines that becomes test, in (0, 1), without test files.
        split_seed: Decides which lines are drawn.
    """

    source: str
    target: str
    dev_source: str | None = None
    dev_target: str | None = None
    test_source: str | None = None
    test_target: str | None = None
    dev: float = 0.1
    test: float = 0.1
    split_seed: int = 0

    name: ClassVar[str] = "parallel_text"
    by_content: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse shares that leave a split empty, and files without a counterpart.

        Raises:
            ValueError: With every option that is wrong.
        """
        super().__post_init__()
        wrong = []
        for split in ("dev", "test"):
            given = [getattr(self, f"{split}_{side}") for side in ("source", "target")]
            usual = type(self).__dataclass_fields__[split].default
            share = getattr(self, split)
            if given.count(None) == 1:
                wrong.append(f"give both {split}_source and {split}_target, or neither")
            elif None not in given and share != usual:
                wrong.append(
                    f"{split} is {share}, but {split}_source has all of {split}"
                )
        shares = self._shares()
        if not all(share > 0 for share in shares.values()) or sum(shares.values()) >= 1:
            said = " and ".join(f"{k} is {v}" for k, v in shares.items())
            wrong.append(f"{said}; each must be above 0, and together below 1")
        if wrong:
            raise ValueError("; ".join(wrong))

    def read(self) -> Mapping[str, tuple[Words, Words]]:
        """The three splits."""
        sides = read_aligned(Path(self.source), Path(self.target))
        n = len(sides[0])
        rng = torch.Generator().manual_seed(self.split_seed)
        order = torch.randperm(n, generator=rng).tolist()
        parts, start, share = {}, 0, 0.0
        for split, more in self._shares().items():
            share += more
            # Bounds are rounded and not sizes, so that no line is left out or used
            # twice.
            parts[split] = order[start : round(n * share)]
            start = round(n * share)
        whole = {
            split: (
                [sides[0][i] for i in sorted(which)],
                [sides[1][i] for i in sorted(which)],
            )
            for split, which in (parts | {"train": order[start:]}).items()
        }
        return whole | {
            split: read_aligned(*files) for split, files in self._own_files().items()
        }

    def paths(self) -> tuple[str, ...]:
        """The options that are files, which the fingerprint covers."""
        sides = ("source", "target")
        return tuple(f"{split}{s}" for split in ("", "dev_", "test_") for s in sides)

    def fingerprint(self) -> str:
        """Digest of all files, in the order of the options."""
        files = [Path(self.source), Path(self.target)]
        return content(
            [*files, *(f for own in self._own_files().values() for f in own)]
        )

    def protocol(self) -> dict[str, Any]:
        """As for every translation task, with the split."""
        own = dict.fromkeys(self._own_files(), "own files")
        # The seed decides nothing where every split has its own files.
        seed = {"split_seed": self.split_seed} if self._shares() else {}
        return super().protocol() | {"split": self._shares() | own | seed}

    def training(self) -> str:
        """As for every translation task, with the split."""
        # One pair of files may be the dev set of one task and the test set of another,
        # whose network must not be chosen by it.
        own = "".join(f":{split}" for split in self._own_files())
        return f"{super().training()}:{(self.dev, self.test, self.split_seed)}{own}"

    def _shares(self) -> dict[str, float]:
        """Shares of the lines that are drawn; test first, as it always was."""
        own = self._own_files()
        return {k: getattr(self, k) for k in ("test", "dev") if k not in own}

    def _own_files(self) -> dict[str, tuple[Path, Path]]:
        """The splits with files of their own."""
        pairs = {
            "dev": (self.dev_source, self.dev_target),
            "test": (self.test_source, self.test_target),
        }
        return {
            split: (Path(source), Path(target))
            for split, (source, target) in pairs.items()
            if source is not None and target is not None
        }
