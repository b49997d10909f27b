"""Markdown tables, and the options of a plugin as rows of one."""

from __future__ import annotations

import re
from collections.abc import Iterable

from harness.cli import _describe


def options(cls: type) -> list[tuple[str, str, str, str]]:
    """Name, type, default and meaning of each option of a plugin class."""
    return [
        (
            f"`{one.name}`",
            one.type,
            "required" if one.default is None else f"`{one.default}`",
            one.meaning,
        )
        for one in _describe.options(cls, lambda value: f"`{value}`", _link)
    ]


def _link(cls: type) -> str:
    """A link to the page of nested options."""
    return f"[{cls.__name__}](nested-options.md#{cls.__name__.lower()})"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """A Markdown table, with a blank line behind it; nothing if there are no rows."""
    cells = [[_cell(text) for text in row] for row in rows]
    if not cells:
        return []
    head = list(head)
    lines = [head, ["---"] * len(head), *cells]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", r"\|")
