"""Reads two files whose lines translate each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.core import BenchError
from harness.toolkit import identity, text_files

Words = list[list[str]]


def read_aligned(source: Path, target: Path) -> tuple[Words, Words]:
    """Two files whose lines translate each other, split at white space.

    Args:
        source: File in UTF-8, one sentence in a line.
        target: File with the translations, line by line.

    Returns:
        The words of both sides.

    Raises:
        BenchError: With every empty line, byte that is not UTF-8, and if the numbers
            of lines differ.
    """
    sides, errors = [], []
    for path in (source, target):
        lines, wrong = _lines(path)
        sides.append(lines)
        errors += wrong
    if not errors and len(sides[0]) != len(sides[1]):
        errors.append(
            f"{source} has {len(sides[0])} lines and {target} has {len(sides[1])}; "
            "line n of one must translate line n of the other"
        )
    if errors:
        raise BenchError(*errors)
    return sides[0], sides[1]


def content(paths: Sequence[Path]) -> str:
    """Identity of files by their bytes.

    Args:
        paths: The files, in an order that matters.

    Returns:
        ``sha256:`` and 16 hexadecimal digits.

    Raises:
        BenchError: Naming every file that is missing.
    """
    missing = [p for p in paths if not p.is_file()]
    if missing:
        raise BenchError(*(f"no file {p}" for p in missing))
    return identity.of_files({str(n): path for n, path in enumerate(paths)})


def _lines(path: Path) -> tuple[Words, list[str]]:
    """Words of every line, and what is wrong with the file."""
    if not path.is_file():
        return [], [f"no file {path}"]
    try:
        words = [line.split() for line in text_files.lines(path)]
    except BenchError as why:
        return [], why.errors
    empty = [number for number, line in enumerate(words, 1) if not line]
    if empty:
        shown = ", ".join(map(str, empty[:5])) + (" ..." if len(empty) > 5 else "")
        return words, [
            f"{path} has {len(empty)} empty lines (line {shown}); remove them, and the "
            "lines that they translate"
        ]
    return words, [] if words else [f"{path} is empty"]
