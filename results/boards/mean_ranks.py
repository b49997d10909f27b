"""One line a method over many boards: mean recovery, and mean rank with its test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from results.boards.leaderboard import BOARD
from results.boards.ranking import rounded
from results.errors import StoreError
from results.queries.db import ask
from results.storage.store import Store
from results.tables.statistics import critical_difference, indistinguishable
from results.text.answer import Answer
from results.text.clean import clean
from results.text.labels import method_label

_COLUMNS = {
    "method": "VARCHAR",
    "ratio": "DOUBLE",
    "recovery": "DOUBLE",
    "stderr": "DOUBLE",
    "boards": "BIGINT",
    "rank": "DOUBLE",
    "critical_difference": "DOUBLE",
    "ok": "BIGINT",
    "planned": "BIGINT",
}
_RANKED = """
FROM leaderboard WHERE main AND method <> 'dense' AND recovery IS NOT NULL
"""
Rows = Sequence[Mapping[str, Any]]


def over_boards(
    answer: Answer, *, allow_unequal: bool = False, across_protocols: bool = False
) -> Answer:
    """Each method's mean recovery at each ratio, over all models and tasks.

    Args:
        answer: Rows of the view ``leaderboard``, one metric a task.
        allow_unequal: Whether methods may be averaged over different boards.
        across_protocols: Whether one task is one board, whatever its protocols.

    Returns:
        One row a ratio and method, best first. ``stderr`` is over the boards; ``rank``
        is the mean over them, and two ranks that differ by less than the critical
        difference (Nemenyi, 5 %) are not told apart; both are NULL where boards differ.

    Raises:
        StoreError: If methods of one ratio were run on different boards; says on which
            a method is missing.
    """
    rows = [
        row
        for row in answer.dicts()
        if row["method"] != "dense" and row["recovery"] is not None
    ]
    columns = BOARD[:-1] if across_protocols else BOARD  # the protocol is the last
    made: list[tuple[Any, ...]] = []
    errors = []
    for ratio in sorted({row["ratio"] for row in rows}):
        table: dict[str, dict[tuple[str, ...], Mapping[str, Any]]] = {}
        for row in rows:
            if row["ratio"] == ratio:
                name = method_label(row)
                board = tuple(str(row[column]) for column in columns)
                table.setdefault(name, {})[board] = row
        missing = _missing(table)
        if missing and not allow_unequal:
            errors += [f"at ratio {ratio:g}, {text}" for text in missing]
        # Made also if there are errors of other ratios, so that all errors are told
        # together.
        made += _lines(ratio, table, equal=not missing)
    if errors:
        raise StoreError(
            *errors,
            "a mean over different tasks compares nothing: narrow it with --task, "
            "--model or --method, or say --allow-unequal",
        )
    kinds = tuple(_COLUMNS.values())
    return Answer(columns=tuple(_COLUMNS), types=kinds, rows=made)


def diagrams(store: Store) -> list[dict[str, Any]]:
    """Mean ranks at each ratio, for critical difference diagrams.

    Methods can be ranked on boards that measured all of them. The methods and boards
    of a diagram are those with the most numbers.

    Args:
        store: Where the trials are.

    Returns:
        One mapping a ratio with two methods on two boards or more: ``ratio``,
        ``boards`` (their names), ``methods`` (``method`` and ``rank``, best first),
        ``critical_difference`` (Nemenyi, 5 %), ``p_value`` (Friedman's, that all
        methods are equal) and ``groups`` (see ``indistinguishable``).
    """
    rows = ask(store, _RANKED).dicts()
    made = []
    for ratio in sorted({row["ratio"] for row in rows}):
        table: dict[str, dict[tuple[str, ...], float]] = {}
        for row in rows:
            if row["ratio"] == ratio:
                board = tuple(str(row[column]) for column in BOARD)
                table.setdefault(method_label(row), {})[board] = float(row["recovery"])
        boards, methods = _complete(table)
        if len(boards) > 1 and len(methods) > 1:
            scores = {name: [table[name][b] for b in boards] for name in methods}
            made.append({"ratio": rounded(ratio), **_diagram(scores, boards)})
    return made


def _complete(
    table: Mapping[str, Mapping[tuple[str, ...], float]],
) -> tuple[list[tuple[str, ...]], list[str]]:
    """Boards, and the methods that stand on all of them: the most numbers."""
    choices = [
        (sorted(own), [name for name in table if own.keys() <= table[name].keys()])
        for own in table.values()
    ]
    return max(choices, key=lambda one: (len(one[0]) * len(one[1]), one))


def _diagram(
    scores: Mapping[str, Sequence[float]], boards: Sequence[tuple[str, ...]]
) -> dict[str, Any]:
    found = critical_difference(scores)
    ranked = sorted(found.mean.items(), key=lambda one: (one[1], one[0]))
    ranks = [rank for _, rank in ranked]
    return {
        "boards": [clean(f"{board[0]} on {board[2]}") for board in boards],
        "methods": [{"method": clean(n), "rank": rounded(r)} for n, r in ranked],
        "critical_difference": rounded(found.critical_difference),
        "p_value": rounded(found.p_value),
        "groups": indistinguishable(ranks, found.critical_difference),
    }


def _missing(table: Mapping[str, Mapping[tuple[str, ...], Any]]) -> list[str]:
    every = sorted({board for boards in table.values() for board in boards})
    return [
        f"{name} has no number for {board[0]} on {board[2]}"
        for name, boards in table.items()
        for board in every
        if board not in boards
    ]


def _lines(
    ratio: float,
    table: Mapping[str, Mapping[tuple[str, ...], Mapping[str, Any]]],
    *,
    equal: bool,
) -> list[tuple[Any, ...]]:
    ranks, reach = _ranks(table) if equal else ({}, None)
    lines = []
    for name, boards in table.items():
        kept = [float(row["recovery"]) for row in boards.values()]
        mean = math.fsum(kept) / len(kept)
        error = None
        # Standard error over the boards: sqrt(sum (x - mean)^2 / (n - 1) / n).
        if len(kept) > 1:
            spread = math.fsum((value - mean) ** 2 for value in kept) / (len(kept) - 1)
            error = math.sqrt(spread / len(kept))
        ok = sum(row["ok"] for row in boards.values())
        planned = sum(row["planned"] for row in boards.values())
        found = (mean, error, len(kept), ranks.get(name), reach, ok, planned)
        lines.append((name, ratio, *found))
    return sorted(lines, key=lambda line: -line[2])


def _ranks(
    table: Mapping[str, Mapping[tuple[str, ...], Mapping[str, Any]]],
) -> tuple[dict[str, float], float | None]:
    # All methods have the same boards here, which the caller checked.
    boards = sorted(next(iter(table.values()), {}))
    if len(table) < 2 or len(boards) < 2:
        return {}, None
    scores = {
        name: [float(rows[board]["recovery"]) for board in boards]
        for name, rows in table.items()
    }
    # Recovery is larger for better methods whatever the goal of a metric is.
    found = critical_difference(scores)
    return found.mean, found.critical_difference
