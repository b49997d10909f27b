"""Marks of a leaderboard: the best of a ratio, and what no test tells from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from results.boards.board_rows import is_best
from results.queries.db import ask
from results.storage.store import Store
from results.tables import significance
from results.tables.cells import Cell
from results.text.answer import Answer

_REACH = 1.959964  # half a 95 % interval of a normal, in standard errors
_RATIO = (
    "model",
    "model_options",
    "task",
    "task_options",
    "metric",
    "protocol",
    "ratio",
)
# What tells a row of the leaderboard from the others.
CONFIGURATION = (
    *_RATIO,
    "ratio_of",
    "method",
    "method_options",
    "calibration",
    "dtype",
)
_ATTEMPTS = f"""
SELECT {", ".join(CONFIGURATION)}, list(attempt ORDER BY seed) AS attempts
FROM scores
WHERE goal <> 'none' AND model IN (SELECT unnest($1::VARCHAR[]))
  AND task IN (SELECT unnest($2::VARCHAR[]))
  AND metric IN (SELECT unnest($3::VARCHAR[]))
GROUP BY ALL
"""


def configuration(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a row of the leaderboard has in common with its trials."""
    return tuple(row[column] for column in CONFIGURATION)


def marked(store: Store, answer: Answer) -> Answer:
    """The rows with one column more, ``mark``, as ``mark`` sets it.

    Args:
        store: Where the trials are.
        answer: Rows of the view ``leaderboard``, with all rivals at a ratio: the
            number of rivals is a part of the test.

    Returns:
        The rows, in their order.
    """
    rows = answer.dicts()
    names = [sorted({row[key] for row in rows}) for key in ("model", "task", "metric")]
    found = ask(store, _ATTEMPTS, names).dicts() if rows else []
    attempts = {configuration(row): row["attempts"] for row in found}
    for row in rows:
        row["attempts"] = attempts.get(configuration(row), [])
    mark(store, rows)
    return Answer(
        columns=(*answer.columns, "mark"),
        types=(*answer.types, "VARCHAR"),
        rows=[(*old, row["mark"]) for old, row in zip(answer.rows, rows, strict=True)],
    )


def mark(store: Store, rows: Sequence[dict[str, Any]]) -> None:
    """Set ``mark``: ``best`` of its ratio, or ``like best`` if a test sees no gap.

    The dense model, methods without a rival at their ratio and wrecks get no mark (see
    ``is_best``).

    Args:
        store: Where the samples are.
        rows: Rows of the view ``leaderboard`` with their ``attempts``.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        row["mark"] = ""
        if row["method"] != "dense" and row["attempts"]:
            groups.setdefault(tuple(row[key] for key in _RATIO), []).append(row)
    # A mark needs a rival: alone, every method would be the best.
    contested = [group for group in groups.values() if len(group) > 1]
    cells = [[_cell(row) for row in group] for group in contested]
    significance.rank(store, cells)
    for group, tested in zip(contested, cells, strict=True):
        if not any(is_best(row, group) for row in group):
            continue  # all of them are wrecks
        for row, cell in zip(group, tested, strict=True):
            if is_best(row, group):
                row["mark"] = "best"
            elif cell.like_best and not row["at_chance"]:
                row["mark"] = "like best"


def _cell(row: Mapping[str, Any]) -> Cell:
    reach = _REACH * (row["stderr"] or 0.0)
    return Cell(
        measured=row["mean"],
        low=row["mean"] - reach,
        high=row["mean"] + reach,
        digits=12,  # two means tie where they are equal, not where they print so
        goal=row["goal"],
        key={"metric": row["metric"]},
        attempts=row["attempts"],
    )
