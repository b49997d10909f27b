"""Rows as aligned columns for a terminal; a tenth of a second faster than rich.

Where a terminal is too narrow, texts fold between words, then columns are left out in
the order that the caller gives, and at last each row becomes a block of lines. A word
(a name, a number) is never broken. In a pipe nothing folds.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

BOLD, DIM, ITALIC, GREEN, CYAN, YELLOW = "1", "2", "3", "32", "36", "33"
_GAP = "  "
_UNLIMITED = 1_000_000  # characters of a line in a pipe


def terminal_width() -> int:
    """Characters per line, from the terminal or COLUMNS; no limit in a pipe."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit():
        return shutil.get_terminal_size((80, 24))[0]
    return _UNLIMITED


def styled(text: str, *codes: str) -> str:
    """Returns ``text`` in ANSI colours; click strips them when it prints to a pipe."""
    return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if codes else text


def printable(text: str) -> str:
    r"""``text`` on one line, without control characters that could move the cursor.

    >>> printable("a\x1b[2Jb\nc")
    'a[2Jb c'
    """
    return "".join(c for c in re.sub(r"\s+", " ", text) if c.isprintable())


@dataclass(slots=True, kw_only=True)
class Columns:
    """Headings and rows of a table that fits a terminal.

    Args:
        headings: One text per column; rows added later have as many cells.
        left: Whether each column is text: aligned left and folded; numbers are neither.
        dropped: Columns to leave out where the terminal is too narrow, first one first.
        readable: Characters below which a column of sentences is not folded further;
            another one is left out instead. By default a text may fold to one word a
            line.
        width: Width of the terminal in characters.
    """

    headings: Sequence[str]
    left: Sequence[bool]
    dropped: Sequence[int] = ()
    readable: int = 0
    width: int = field(default_factory=terminal_width)
    _rows: list[tuple[list[str], tuple[str, ...]] | None] = field(default_factory=list)

    def add(self, cells: Iterable[str], *codes: str) -> None:
        """Add a row, in ANSI ``codes``."""
        self._rows.append(([printable(cell) for cell in cells], codes))

    def rule(self) -> None:
        """Add an empty line."""
        self._rows.append(None)

    def __post_init__(self) -> None:
        self.headings = [printable(heading) for heading in self.headings]

    def __str__(self) -> str:
        kept = self._kept()
        if kept is None:
            return self._blocks()
        headings = [self.headings[i] for i in kept]
        left = [self.left[i] for i in kept]
        rows = [
            None if row is None else ([row[0][i] for i in kept], row[1])
            for row in self._rows
        ]
        widths = self._widths(kept)
        lines = [styled(line, BOLD) for line in _line(headings, widths, left)]
        total = sum(widths) + len(_GAP) * (len(widths) - 1)
        lines.append(styled("─" * min(total, self.width), DIM))
        for row in rows:
            if row is None:
                lines.append("")
            else:
                cells, codes = row
                lines += [styled(line, *codes) for line in _line(cells, widths, left)]
        return "\n".join(lines)

    def _cells(self, column: int) -> list[str]:
        return [self.headings[column], *(row[0][column] for row in self._rows if row)]

    def _least(self, column: int) -> int:
        """The width below which a word of the column, or a number, would break."""
        heading, *cells = self._cells(column)
        texts = [word for cell in cells for word in cell.split(" ")]
        parts = texts if self.left[column] else cells
        longest = max(map(len, cells), default=0) if self.left[column] else 0
        return max(
            min(longest, self.readable), *map(len, [*heading.split(" "), *parts])
        )

    def _kept(self) -> list[int] | None:
        """The columns that fit; None if even the most important ones do not."""
        kept = list(range(len(self.headings)))
        least = {column: self._least(column) for column in kept}
        # All columns first, then one less at a time until they fit.
        for drop in (None, *self.dropped):
            kept = [column for column in kept if column != drop]
            gaps = len(_GAP) * (len(kept) - 1)
            if sum(least[column] for column in kept) + gaps <= self.width:
                return kept
        return kept if self.dropped else None

    def _widths(self, kept: Sequence[int]) -> list[int]:
        """As wide as the widest cell; the widest text columns give way."""
        widths = [max(map(len, self._cells(column))) for column in kept]
        least = [self._least(column) for column in kept]
        over = sum(widths) + len(_GAP) * (len(kept) - 1) - self.width
        while over > 0:
            free = [i for i in range(len(kept)) if widths[i] > least[i]]
            if not free:
                break  # a name that is wider than the terminal
            # One character at a time from the widest column: the texts end up equally
            # wide.
            widths[max(free, key=lambda i: widths[i])] -= 1
            over -= 1
        return widths

    def _blocks(self) -> str:
        """Each row as lines of a heading and a value, for many columns."""
        name = max(map(len, self.headings), default=0)
        room = max(20, self.width - name - len(_GAP))
        blocks = []
        for row in filter(None, self._rows):
            lines = []
            for heading, cell in zip(self.headings, row[0], strict=True):
                parts = _fold(cell, room)
                lines.append(f"{styled(heading.rjust(name), BOLD)}{_GAP}{parts[0]}")
                lines += [" " * (name + len(_GAP)) + part for part in parts[1:]]
            blocks.append("\n".join(line.rstrip() for line in lines))
        return "\n\n".join(blocks)


def _fold(cell: str, width: int) -> list[str]:
    if len(cell) <= width:
        return [cell]
    folded = textwrap.wrap(cell, width, break_on_hyphens=False, break_long_words=False)
    return folded or [""]


def _line(
    cells: Sequence[str], widths: Sequence[int], left: Sequence[bool]
) -> list[str]:
    folded = [_fold(cell, width) for cell, width in zip(cells, widths, strict=True)]
    lines = []
    for i in range(max(map(len, folded))):
        parts = [part[i] if i < len(part) else "" for part in folded]
        padded = [
            part.ljust(width) if on_left else part.rjust(width)
            for part, width, on_left in zip(parts, widths, left, strict=True)
        ]
        lines.append(_GAP.join(padded).rstrip())
    return lines
