"""Published tables as data: one YAML file a table, each number with its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from results.errors import StoreError, unknown

# What says which trial a cell is; in a row, or in a column where that differs.
WANTED = {
    "model",
    "method",
    "options",
    "ratio",
    "task",
    "metric",
    "column",
    "protocol",
    "goal",
    "scale",
    "offset",
    "within",
}
_TABLE = {"title", "paper", "link", "table", "note", "sources", "columns", "rows"}
_ROW = WANTED | {
    "label",
    "printed_ratio",
    "printed_model",
    "printed_data",
    "source",
    "cells",
}
_COLUMN = WANTED | {"name", "mean_of"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperTable:
    """A table as its file gives it.

    Args:
        name: Of the file, without its suffix.
        title: What the table shows.
        paper: Who published it; empty for a table of one's own.
        link: Where.
        table: Its number there.
        note: What a reader must know.
        sources: Where the numbers were read.
        columns: Column -> what it measures; keys as in ``WANTED``.
        rows: Row -> which trials it is, and ``cells`` as printed, None for a hole.
    """

    name: str
    title: str
    columns: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]
    paper: str = ""
    link: str = ""
    table: str = ""
    note: str = ""
    sources: Sequence[str] = field(default_factory=tuple)


def names() -> list[str]:
    """Names of the packaged tables."""
    found = (f.name for f in files("results.papers").iterdir())
    return sorted(
        name.removesuffix(".yaml")
        for name in found
        if name.endswith(".yaml") and not name.startswith("_")
    )


def catalogue() -> list[dict[str, Any]]:
    """One row a packaged table: its name, the paper, what it shows, its numbers."""
    rows = []
    for name in names():
        table = read(name)
        printed = sum(c is not None for row in table.rows for c in row["cells"])
        rows.append(
            {
                "table": name,
                "paper": table.paper,
                "in": table.table,
                "what": table.title,
                "numbers": printed,
            }
        )
    return rows


def read(name: str) -> PaperTable:
    """The table of a name, or of a YAML file of one's own.

    Args:
        name: As ``names`` lists it, or a path that ends in ``.yaml``.

    Returns:
        The table, checked.

    Raises:
        StoreError: If there is none, or with every mistake of the file.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise StoreError(f"no file {name}; `shrinkgrid list papers` lists tables")
        return _checked(path.stem, path.read_text(encoding="utf-8"), name)
    if name not in names():
        raise unknown("paper table", name, names())
    text = (files("results.papers") / f"{name}.yaml").read_text(encoding="utf-8")
    return _checked(name, text, f"{name}.yaml")


@cache
def model_ids(model: str) -> tuple[str, ...]:
    """The names under which the store may hold a table's model, its own first."""
    text = (files("results.papers") / "_models.yaml").read_text(encoding="utf-8")
    return (model, *_yaml(text, "_models.yaml").get(model, ()))


def _checked(name: str, text: str, file: str) -> PaperTable:
    content = _yaml(text, file)
    if not isinstance(content, dict):
        raise StoreError(f"{file} is no mapping; its keys are {', '.join(_TABLE)}")
    mistakes = _unknown_keys(content, _TABLE, file)
    mistakes += [
        f"{file} lacks the key {key!r}"
        for key in ("title", "columns", "rows")
        if not content.get(key)
    ]
    columns, rows = content.get("columns") or [], content.get("rows") or []
    for number, column in enumerate(columns, 1):
        mistakes += _unknown_keys(column, _COLUMN, f"{file}, column {number}")
    headings = [column.get("name") for column in columns]
    for number, row in enumerate(rows, 1):
        mistakes += _unknown_keys(row, _ROW, f"{file}, row {number}")
        given = row.get("cells")
        if given is not None and len(given) != len(columns):
            mistakes.append(
                f"{file}, row {number} has {len(given)} cells, "
                f"not {len(columns)} as there are columns"
            )
    for column in columns:
        for part in column.get("mean_of", ()):
            if part not in headings:
                mistakes.append(f"{file}: mean_of names no column {part!r}")
    if mistakes:
        raise StoreError(*mistakes)
    empty: list[None] = [None] * len(columns)
    content["rows"] = [{"cells": empty, **row} for row in rows]
    return PaperTable(name=name, **content)


def _unknown_keys(given: Any, known: set[str], where: str) -> list[str]:
    if not isinstance(given, dict):
        return [f"{where} is no mapping"]
    return [
        f"{where}: {unknown('key', str(k), known)}" for k in given if k not in known
    ]


def _yaml(text: str, file: str) -> Any:
    import yaml

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as why:
        raise StoreError(f"{file} is no YAML: {why}") from why
