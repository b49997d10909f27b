"""Compute the numbers of a written table again, and name those that drifted."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.errors import StoreError
from results.queries.db import ask
from results.queries.messages import quoted
from results.schema import TRIALS
from results.storage.store import Store
from results.text import json_reader
from results.text.bounded import read_text

# Bounded, and only from its first digit on: a million digits take no time.
_NUMBER = r"(?<![\d,.])(-?\d[\d,]{0,40}(?:\.\d{1,40})?)"
_HTML = re.compile(
    r'<span data-shrinkgrid="([^"]*)">(?:<[bu]>)?' + _NUMBER + "(?:</[bu]>)?</span>"
)
_LATEX = re.compile(
    r"^(?:\\textbf\{|\\underline\{)?" + _NUMBER + r".*% shrinkgrid (\{.*\})$", re.M
)
_MARKDOWN_KEY = re.compile(r"^\[\^(\d+)\]: `shrinkgrid (\{.*?\})`", re.M)
_MARKDOWN_CELL = re.compile(_NUMBER + r"(?:\*\*|</u>)?\[\^(\d+)\]")

MEANS = 3  # levels of means of means
_MOST_BYTES = 100_000_000  # of a file with tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A number in a file, with its key.

    Args:
        printed: As it stands there.
        key: Which trials and metric it is.
        line: In the file, from 1.
    """

    printed: str
    key: dict[str, Any]
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A number that the store does not give any more.

    Args:
        written: As the file has it.
        computed: As the store gives it, None where its trials are gone.
    """

    written: Written
    computed: str | None


def verify(store: Store, path: Path) -> tuple[int, list[Drift]]:
    """Check the numbers of a table that ``shrinkgrid table`` wrote.

    Args:
        store: Where the trials are.
        path: A LaTeX, HTML or Markdown file; the table may be part of a longer text.

    Returns:
        How many numbers were checked, and those that drifted.

    Raises:
        StoreError: If the file has no such number, or a key is not valid.
    """
    text = read_text(path, _MOST_BYTES)
    found = list(_written(text))
    if not found:
        raise StoreError(
            f"{path} has no number with a key; write it with `shrinkgrid table NAME "
            "--format md`, latex or html"
        )
    drifted = []
    values = _values(store, found)
    for one in found:
        # As many decimals as the file has: a number drifted if it would be printed
        # differently.
        digits = len(one.printed.partition(".")[2])
        value = _compute(values, one.key)
        computed = None if value is None else f"{value:.{digits}f}"
        if computed != one.printed.replace(",", ""):
            drifted.append(Drift(written=one, computed=computed))
    return len(found), drifted


def _written(text: str) -> Iterator[Written]:
    # Each form keeps the key where its readers do not see it: an attribute, a comment
    # at the end of the line, a footnote.
    for match in _HTML.finditer(text):
        key, printed = html.unescape(match[1]), match[2]
        yield _made(text, match, printed=printed, key=key)
    for match in _LATEX.finditer(text):
        yield _made(text, match, printed=match[1], key=match[2])
    # A footnote stands below the numbers that refer to it.
    keys = {match[1]: match[2] for match in _MARKDOWN_KEY.finditer(text)}
    for match in _MARKDOWN_CELL.finditer(text):
        if match[2] in keys:
            yield _made(text, match, printed=match[1], key=keys[match[2]])


def _made(text: str, match: re.Match[str], *, printed: str, key: str) -> Written:
    line = text.count("\n", 0, match.start()) + 1
    try:
        read = json_reader.read(key)
    except ValueError as why:
        raise StoreError(f"line {line}: the key {key[:200]!r} is not JSON") from why
    if not _is_key(read):
        raise StoreError(
            f"line {line}: {key[:200]!r} is not a key of `shrinkgrid table`"
        )
    return Written(printed=printed, key=read, line=line)


def _is_key(value: Any, depth: int = 0) -> bool:
    """Whether a value has the shape of a key; a mean may be of means."""
    # The key comes from a file that anybody may have written: its depth is bounded.
    if not isinstance(value, dict) or depth > MEANS:
        return False
    if "mean" in value:
        parts = value["mean"]
        fine = isinstance(parts, list) and bool(parts)
        return fine and all(_is_key(part, depth + 1) for part in parts)
    kinds = {"metric": str, "column": str, "trials": list, "scale": float}
    kinds |= {"offset": float}
    return all(
        isinstance(float(given) if type(given) is int else given, kinds[name])
        for name, given in value.items()
        if name in kinds
    )


Values = dict[tuple[str, str], float]


def _values(store: Store, written: list[Written]) -> Values:
    """(trial, metric or column) -> value, of all trials that any key names."""
    leaves = [leaf for one in written for leaf in _leaves(one.key)]
    trials = ", ".join({quoted(str(t)) for leaf in leaves for t in leaf["trials"]})
    columns = {leaf["column"] for leaf in leaves if "column" in leaf}
    # Column names go into SQL below as they are; only known ones may.
    for column in columns:
        if column not in TRIALS:
            raise StoreError(f"a key names the column {column!r}, which trials lack")
    rows = ask(
        store,
        f"SELECT trial, metric, value FROM scores WHERE trial IN ({trials})",
    ).rows
    values = {(trial, metric): value for trial, metric, value in rows}
    for column in columns:
        sql = f"SELECT trial, {column} FROM newest WHERE trial IN ({trials})"
        values |= {
            (trial, column): float(value)
            for trial, value in ask(store, f"{sql} AND {column} IS NOT NULL").rows
        }
    return values


def _leaves(key: dict[str, Any]) -> list[dict[str, Any]]:
    if "mean" in key:
        return [leaf for part in key["mean"] for leaf in _leaves(part)]
    if not key.get("trials"):
        raise StoreError(f"the key {json.dumps(key)} names no trials")
    return [key]


def _compute(values: Values, key: dict[str, Any]) -> float | None:
    if "mean" in key:
        parts = [_compute(values, part) for part in key["mean"]]
        known = [part for part in parts if part is not None]
        return math.fsum(known) / len(parts) if len(known) == len(parts) else None
    name = key.get("column") or key.get("metric")
    found = [values.get((str(trial), str(name))) for trial in key["trials"]]
    known = [value for value in found if value is not None]
    # One missing trial leaves no mean, since a mean over the rest is another number.
    if len(known) < len(found):
        return None
    scale, offset = float(key.get("scale", 1)), float(key.get("offset", 0))
    return math.fsum(offset + scale * value for value in known) / len(known)
