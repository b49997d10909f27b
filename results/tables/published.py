"""Published tables as data: one YAML file per table, each number with its source."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from results.errors import StoreError, unknown
from results.text import yaml_reader
from results.text.bounded import read_bytes

Kinds = tuple[type, ...]
_TEXT: Kinds = (str,)
_NUMBER: Kinds = (int, float)
_WORDS = {
    str: "a text",
    int: "a number like 1.0e-6",
    float: "a number like 1.0e-6",
    list: "a list",
}
_WORDS |= {dict: "a mapping", type(None): "nothing", bool: "true or false"}
_SHOWN = 80  # characters of a wrong value
# What says which trial a cell is; in a row, or in a column where that differs.
WANTED: dict[str, Kinds] = {
    "model": _TEXT,
    "method": _TEXT,
    "options": (dict,),
    "ratio": _NUMBER,
    "task": (str, type(None)),
    "metric": _TEXT,
    "column": _TEXT,
    "protocol": (dict,),
    "goal": _TEXT,
    "scale": _NUMBER,
    "offset": _NUMBER,
    "within": _NUMBER,
}
_TABLE: dict[str, Kinds] = {
    **dict.fromkeys(("title", "paper", "link", "table", "note"), _TEXT),
    **dict.fromkeys(("sources", "grids", "unplanned", "columns", "rows"), (list,)),
}
_UNPLANNED: dict[str, Kinds] = {
    "why": _TEXT,
    **dict.fromkeys(("label", "name", "model", "method", "ratio", "task"), (list,)),
}
_ROW: dict[str, Kinds] = WANTED | {
    "label": _TEXT,
    "printed_ratio": _TEXT,
    "printed_model": _TEXT,
    "printed_data": _TEXT,
    "source": (str, int),
    "cells": (list,),
}
_COLUMN: dict[str, Kinds] = WANTED | {"name": _TEXT, "mean_of": (list,)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperTable:
    """A table as its YAML file describes it.

    Args:
        name: Name of the file without its suffix.
        title: What the table shows.
        paper: Citation of the paper; empty for a custom table.
        link: Address of the paper.
        table: Number of the table in the paper.
        note: What a reader must know.
        sources: Files or pages from which the numbers were copied.
        grids: Packaged grids that plan its cells.
        unplanned: Which cells no packaged grid plans: lists of values, of which a cell
            has one each (``name`` is that of its column), and ``why``.
        columns: Column -> what it measures; keys as in ``WANTED``.
        rows: Row -> which trials it is, and ``cells`` as printed, None for missing. An
            option that another row of its method names is in ``options`` as None,
            which stands for the default.
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
    grids: Sequence[str] = field(default_factory=tuple)
    unplanned: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    def excuse(self, wanted: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The entry of ``unplanned`` that a cell falls under, None for most."""
        for entry in self.unplanned:
            if all(wanted.get(k) in v for k, v in entry.items() if k != "why"):
                return entry
        return None

    def printed(self) -> Iterator[tuple[dict[str, Any], str | None]]:
        """The cells that hold something, and why no packaged grid plans them.

        Yields:
            What the cell wants, and the reason; None where a grid plans it. A mean is
            planned if all its parts are.
        """
        for row in self.rows:
            reasons: dict[str, str | None] = {}
            for column in self.columns:
                entry = self.excuse({**row, **column})
                reasons[column["name"]] = None if entry is None else str(entry["why"])
            for column, cell in zip(self.columns, row["cells"], strict=True):
                parts = [reasons[name] for name in column.get("mean_of", ())]
                why = [reasons[column["name"]], *parts]
                if cell is not None:
                    yield {**row, **column}, next(filter(None, why), None)


def names() -> list[str]:
    """Names of the packaged tables."""
    found = (f.name for f in (files("results") / "papers").iterdir())
    return sorted(
        name.removesuffix(".yaml")
        for name in found
        if name.endswith(".yaml") and not name.startswith("_")
    )


def read(name: str) -> PaperTable:
    """Read a packaged table by its name, or a custom table from a YAML file.

    Args:
        name: As ``names`` lists it, or a path that ends in ``.yaml``.

    Returns:
        The table, checked.

    Raises:
        StoreError: If there is none, or with every error of the file.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.exists():
            raise StoreError(f"no file {name}; `shrinkgrid list papers` lists tables")
        return _checked(path.stem, read_bytes(path, yaml_reader.MAX_BYTES), name)
    if name not in names():
        raise unknown("paper table", name, names())
    text = (files("results") / "papers" / f"{name}.yaml").read_bytes()
    return _checked(name, text, f"{name}.yaml")


@cache
def model_ids(model: str) -> tuple[str, ...]:
    """The names under which the store may hold a table's model, its own first."""
    text = (files("results") / "papers" / "_models.yaml").read_bytes()
    return (model, *_yaml(text, "_models.yaml").get(model, ()))


def _checked(name: str, text: bytes, file: str) -> PaperTable:
    content = _yaml(text, file)
    if not isinstance(content, dict):
        raise StoreError(f"{file} is not a mapping; its keys are {', '.join(_TABLE)}")
    errors = _wrong_keys(content, _TABLE, file)
    errors += [
        f"{file} lacks the key {key!r}"
        for key in ("title", "columns", "rows")
        if not content.get(key)
    ]
    # Errors of all parts are collected, each with the number of its row or column.
    parts = {"columns": _COLUMN, "rows": _ROW, "unplanned": _UNPLANNED}
    for part, known in parts.items():
        for number, one in enumerate(_list(content.get(part)), 1):
            where = f"{file}, {part.removesuffix('s')} {number}"
            errors += _wrong_keys(one, known, where)
    if not errors:  # else the shapes to compare are not there
        errors = list(_wrong_shape(content["columns"], content["rows"], file))
    if errors:
        raise StoreError(*errors)
    empty: list[None] = [None] * len(content["columns"])
    rows = _told_apart(content["rows"], content["columns"])
    content["rows"] = [{"cells": empty, **row} for row in rows]
    return PaperTable(name=name, **content)


def _told_apart(
    rows: Sequence[dict[str, Any]], columns: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows that want the default of each option that tells systems of a table apart.

    Those are the options that another row of the method or a column names. A row
    without one would else take the trials of another system.
    """
    common: dict[str, None] = {}
    for column in columns:
        common |= dict.fromkeys(column.get("options") or {})
    named: dict[Any, dict[str, None]] = {}
    for row in rows:
        own = named.setdefault(row.get("method"), dict(common))
        own |= dict.fromkeys(row.get("options") or {})
    return [
        {**row, "options": named[row.get("method")] | (row.get("options") or {})}
        for row in rows
    ]


def _wrong_shape(
    columns: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], file: str
) -> Iterator[str]:
    for number, row in enumerate(rows, 1):
        given = row.get("cells")
        if given is not None and len(given) != len(columns):
            yield (
                f"{file}, row {number} has {len(given)} cells, "
                f"not {len(columns)} as there are columns"
            )
        for cell in given or ():
            # "5,68" would be read as a text, and the cell would count as without a
            # number.
            if re.fullmatch(r"\s*-?\d+,\d+\s*", str(cell)):
                yield f"{file}, row {number}: {cell!r} has a comma, not a point"
    for part, some in (("column", columns), ("row", rows)):
        for number, one in enumerate(some, 1):
            goal = one.get("goal", "min")
            if goal not in ("min", "max"):
                yield f"{file}, {part} {number}: goal is {goal!r}, not min or max"
    # A mean of a mean would count its parts twice.
    measured = {column.get("name") for column in columns if "mean_of" not in column}
    for number, column in enumerate(columns, 1):
        if "name" not in column:
            yield f"{file}, column {number} has no name"
        for part in column.get("mean_of", ()):
            if not isinstance(part, str) or part not in measured:
                yield f"{file}: mean_of names no measured column {part!r}"


def _wrong_keys(given: Any, known: Mapping[str, Kinds], where: str) -> list[str]:
    """What is wrong with a mapping: keys that are not known, values of other kinds."""
    if not isinstance(given, dict):
        return [f"{where} is not a mapping"]
    wrong = [
        f"{where}: {unknown('key', str(k)[:_SHOWN], known)}"
        for k in given
        if k not in known
    ]
    for key, value in given.items():
        if key in known and not _fits(value, known[key]):
            wanted = " or ".join(dict.fromkeys(_WORDS[kind] for kind in known[key]))
            wrong.append(f"{where}: {key} is {repr(value)[:_SHOWN]}, not {wanted}")
    return wrong


def _fits(value: Any, kinds: Kinds) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if isinstance(value, list):  # nested lists have checks of their own
        return list in kinds and all(
            isinstance(v, dict | str | int | float | None) for v in value
        )
    # Before the numbers: a bool is an ``int`` in Python.
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _yaml(text: bytes, file: str) -> Any:
    try:
        return yaml_reader.read(text)
    except ValueError as why:
        raise StoreError(f"{file}: {why}") from why
