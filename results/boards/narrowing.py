"""Rows of a leaderboard of which fewer are shown: methods, a grid, ratios, an order."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from results.errors import StoreError, suggestion, unknown
from results.queries import grids
from results.queries.db import ask
from results.storage.store import Store
from results.text.answer import Answer
from results.text.labels import label

_SAME_RATIO = 1e-9


def of_methods(answer: Answer, names: Collection[str]) -> Answer:
    """The rows of some methods, after ``marks.marked``, which needs their rivals.

    Args:
        answer: Rows as ``read`` returns them.
        names: Of the methods; none keeps all.

    Returns:
        The rows that are left, in their order.

    Raises:
        StoreError: If no row has one of the names.
    """
    rows = named_in(answer, answer.rows, "method", names, "among these rows")
    return Answer(columns=answer.columns, types=answer.types, rows=rows)


def of_grid(store: Store, answer: Answer, name: str) -> Answer:
    """The rows with a trial of a grid.

    Args:
        store: Where the grid was run.
        answer: Rows as ``read`` returns them.
        name: Name of the grid.

    Returns:
        The rows, in their order.

    Raises:
        StoreError: If the grid was not run into this store.
    """
    keys = (
        *("method", "method_options", "model", "model_options", "task"),
        *("task_options", "ratio", "calibration"),
    )
    query = (
        f"SELECT DISTINCT {', '.join(keys)} FROM newest WHERE trial IN "
        "(SELECT trial FROM plans WHERE grid = ?)"
    )
    found = set(ask(store, query, [name]).rows)
    if not found:
        raise grids.unknown(store, name, [])
    places = [answer.columns.index(key) for key in keys]
    rows = [row for row in answer.rows if tuple(row[p] for p in places) in found]
    return Answer(columns=answer.columns, types=answer.types, rows=rows)


def narrowed(
    answer: Answer, *, ratios: Collection[float] = (), top: int | None = None
) -> Answer:
    """The rows of some ratios, and the best of each; the dense model stays.

    Args:
        answer: Rows as ``read`` returns them.
        ratios: The ratios to keep, as asked; none keeps all.
        top: The number of ranks to keep at each ratio; None keeps all.

    Returns:
        The rows that are left, in their order.

    Raises:
        StoreError: If no row has one of the ratios.
    """
    at = {name: answer.columns.index(name) for name in ("ratio", "place", "method")}
    known = sorted({row[at["ratio"]] for row in answer.rows})
    for ratio in ratios:
        if not any(abs(ratio - one) < _SAME_RATIO for one in known):
            listed = ", ".join(f"{one:g}" for one in known)
            raise StoreError(f"no row has the ratio {ratio:g}; there are {listed}")
    rows = [
        row
        for row in answer.rows
        if row[at["method"]] == "dense"
        or (
            (not ratios or any(abs(row[at["ratio"]] - r) < _SAME_RATIO for r in ratios))
            and (top is None or row[at["place"]] <= top)
        )
    ]
    return Answer(columns=answer.columns, types=answer.types, rows=rows)


def sorted_by(answer: Answer, column: str) -> Answer:
    """The rows in the order of a column, the dense model first.

    Args:
        answer: Rows as ``read`` returns them.
        column: Name of the column, the smallest first; after a ``-`` the largest first.

    Returns:
        The rows; those without a value of the column are last.

    Raises:
        StoreError: If no column has this name.
    """
    name = column.removeprefix("-")
    if name not in answer.columns:
        kind = "column of the leaderboard"
        metrics = {row[answer.columns.index("metric")] for row in answer.rows}
        if suggestion(name, answer.columns) is None and suggestion(name, metrics):
            raise StoreError(
                f"no {kind} called {name!r}; metrics are in the column mean"
            )
        raise unknown(kind, name, answer.columns)
    at, method = answer.columns.index(name), answer.columns.index("method")
    known = [row for row in answer.rows if row[at] is not None]
    known.sort(key=lambda row: row[at], reverse=column.startswith("-"))
    rows = known + [row for row in answer.rows if row[at] is None]
    # Stable: the dense rows come first, and the rest keeps its order.
    rows.sort(key=lambda row: row[method] != "dense")
    return Answer(columns=answer.columns, types=answer.types, rows=rows)


def named_in(
    answer: Answer,
    rows: list[tuple[Any, ...]],
    column: str,
    names: Iterable[str],
    where: str,
) -> list[tuple[Any, ...]]:
    """The rows with one of the names in a column.

    Args:
        answer: All rows of the leaderboard, which say what names there are.
        rows: Those to choose from.
        column: One with names; of a plugin, also with its options as leaderboards
            write them (``mnist limit=6000``).
        names: The names to keep; none keeps all.
        where: Where the names are looked for, for the message.

    Returns:
        The rows that are left, in their order.

    Raises:
        StoreError: If a name is not known.
    """
    wanted = set(names)
    if not wanted:
        return rows
    place = answer.columns.index(column)
    options = f"{column}_options"
    other = answer.columns.index(options) if options in answer.columns else None

    def called(row: tuple[Any, ...]) -> set[str]:
        name = row[place]
        return {name} if other is None else {name, label(name, row[other])}

    known = {name for row in answer.rows for name in called(row)}
    for name in wanted - known:
        plain = {row[place] for row in answer.rows}
        raise unknown(f"{column} {where}", name, plain)
    return [row for row in rows if wanted & called(row)]
