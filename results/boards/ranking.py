"""Leaderboards as data for the page: rows with their trials and paired tests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from results.boards.board_rows import is_slower
from results.boards.costs import NETWORK, TIMES
from results.boards.leaderboard import BOARD
from results.boards.marks import CONFIGURATION, configuration, mark
from results.queries.db import ask
from results.queries.protocols import stored, told_apart
from results.storage.store import Store
from results.text.clean import clean
from results.text.columns import printable
from results.text.labels import label, method_label, shared_calibration

_TRIALS = f"""
SELECT {", ".join(CONFIGURATION)}, list(trial ORDER BY seed) AS trials,
       list(attempt ORDER BY seed) AS attempts, list(DISTINCT grid) AS grids,
       any_value(params_dense) AS params_dense, any_value(bytes_dense) AS bytes_dense,
       any_value(macs_dense) AS macs_dense
FROM scores WHERE goal <> 'none' GROUP BY ALL
"""
# What the page shows of a row of the view `leaderboard`, as it is stored, beside
# `slower`.
SHOWN = (
    "ratio",
    "ratio_of",
    "achieved",
    "mean",
    "stderr",
    "stderr_over",
    "recovery",
    "dense",
    "coverage",
    "at_chance",
    "trained_epochs",
    "trained_samples",
    "params",
    "params_nonzero",
    "bytes",
    "macs",
    "speed",
    "slower",
    "seconds",
    "seeds",
    "planned",
    "place",
)
COLUMNS = (
    "method",
    "base",
    "mark",
    "trials",
    "grids",
    "params_dense",
    "bytes_dense",
    "macs_dense",
    "latency",
    "prefill",
    "decode",
    *SHOWN,
)


def boards(store: Store) -> list[dict[str, Any]]:
    """Build every leaderboard: primary metrics first, then those of most methods.

    Args:
        store: Where the trials are.

    Returns:
        One mapping per model, task, metric and protocol: ``key`` (an identifier that
        depends on these four only), ``model``, ``task``, ``metric``, ``unit``,
        ``goal``, ``main``, ``protocol`` (how it differs from the other protocols of
        the task; empty where there is one), ``calibration`` (as labels of methods end
        with it, if all that are calibrated share it, else empty), and ``rows`` with a
        list of values per row, in the order of ``COLUMNS``.
    """
    rows = ask(store, "FROM leaderboard").dicts()
    trials = {configuration(row): row for row in ask(store, _TRIALS).dicts()}
    # The view of times reads the whole leaderboard again.
    timed = any(row["task"] in TIMES for row in rows)
    times = _times(store) if timed else {}
    for row in rows:
        row.update(trials.get(configuration(row), {"trials": [], "attempts": []}))
        row.update(times.get(tuple(row[column] for column in NETWORK), {}))
        row["slower"] = is_slower(row)
    mark(store, rows)
    protocols = _protocols(store, rows)
    made = []
    # ``groupby`` joins neighbours only, hence the sort by the same key.
    for _, group in groupby(sorted(rows, key=_board), key=_board):
        listed = list(group)
        listed.sort(key=lambda r: (r["method"] != "dense", r["ratio"], r["place"]))
        made.append(_as_data(listed, protocols))
    return sorted(made, key=lambda board: (not board["main"], -_methods(board)))


def _methods(board: Mapping[str, Any]) -> int:
    """Methods that a board compares, whatever their options."""
    return len({values[COLUMNS.index("base")] for values in board["rows"]})


def _board(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[column] or "") for column in BOARD) + (row["metric"],)


def _times(store: Store) -> dict[tuple[Any, ...], dict[str, float]]:
    """Measured times of each network, of the costs measured in one protocol only.

    Times of two protocols (hosts, batch sizes) do not compare, so that a cost with
    several of them is left out.
    """
    rows = ask(store, "FROM times").dicts()
    protocols: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        protocols.setdefault((row["model"], row["cost"]), set()).add(row["timed"])
    found: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in rows:
        if len(protocols[row["model"], row["cost"]]) == 1:
            key = tuple(row[column] for column in NETWORK)
            found.setdefault(key, {})[row["cost"]] = row["size"]
    return found


def _protocols(store: Store, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """How each protocol differs from others of its model, task and metric."""
    groups: dict[tuple[str, ...], set[str]] = {}
    for row in rows:
        place = (row["model"], row["task"], str(row["task_options"]), row["metric"])
        groups.setdefault(place, set()).add(row["protocol"])
    several = [group for group in groups.values() if len(group) > 1]
    if not several:
        return {}
    fields = stored(store, {one for group in several for one in group if one})
    said: dict[str, str] = {}
    for group in several:
        said |= told_apart({one: fields[one] for one in group if one in fields})
    return said


def _as_data(
    rows: Sequence[dict[str, Any]], protocols: Mapping[str, str]
) -> dict[str, Any]:
    first = rows[0]
    # The address of a board on the page: it must stay the same when the store grows.
    key = hashlib.sha256("\0".join(_board(first)).encode()).hexdigest()[:10]
    return {
        "key": key,
        "model": clean(label(first["model"], first["model_options"])),
        "task": clean(label(first["task"], first["task_options"])),
        "metric": printable(first["metric"]),
        "unit": first["unit"],
        "goal": first["goal"],
        "main": any(row["main"] for row in rows),
        "protocol": clean(protocols.get(first["protocol"] or "", "")),
        "calibration": clean(shared_calibration(rows)),
        "columns": COLUMNS,
        "rows": [_values(row) for row in rows],
    }


def _values(row: Mapping[str, Any]) -> list[Any]:
    """The values of ``COLUMNS``."""
    names = [clean(method_label(row)), clean(row["method"])]
    return [*names, *(rounded(row.get(column)) for column in COLUMNS[2:])]


def rounded(value: Any) -> Any:
    """Round a float to seven significant digits, as no reader needs more.

    >>> rounded(0.123456789), rounded("a"), rounded([0.5])
    (0.1234568, 'a', [0.5])
    """
    if isinstance(value, float):
        return float(f"{value:.7g}")
    return clean(value) if isinstance(value, str) else value
