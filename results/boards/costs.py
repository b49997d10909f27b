"""What a network costs: sizes, measured times, and the front of quality and cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from results.errors import StoreError, unknown
from results.queries.db import ask
from results.queries.protocols import stored, told_apart
from results.storage.store import Store
from results.tables.statistics import front_probability

COSTS = {
    "params": "parameters",
    "params_nonzero": "non-zero parameters",
    "bytes": "bytes of the saved network",
    "macs": "multiply-accumulates of one forward pass",
    "latency": "milliseconds a batch of images",
    "prefill": "milliseconds a token read",
    "decode": "milliseconds a token written",
}
TIMES = ("latency", "prefill", "decode")  # which other tasks measure; see ``timed``
NETWORK = (
    "model",
    "model_options",
    "method",
    "method_options",
    "calibration",
    "dtype",
    "ratio",
)
Rows = Sequence[Mapping[str, Any]]


def timed(
    store: Store, rows: Rows, cost: str, protocol: str | None = None
) -> list[dict[str, Any]]:
    """The rows with a time of the same networks, which another task measured.

    Args:
        store: Where the times are.
        rows: Rows of the view ``leaderboard``.
        cost: One of ``TIMES``: of a batch of images, a token read, a token written.
        protocol: That of the times; needed where the store has several.

    Returns:
        The rows, each with its time in milliseconds as ``cost``, or None.

    Raises:
        StoreError: If none was measured, or with several protocols; says in which
            fields they differ.
    """
    times = ask(store, "FROM times WHERE cost = ?", [cost]).dicts()
    models = {(row["model"], row["model_options"]) for row in rows}
    # Times of other models do not count as further protocols.
    times = [t for t in times if (t["model"], t["model_options"]) in models]
    known = {str(t["timed"]) for t in times}
    if protocol is not None and protocol not in known:
        raise unknown(f"protocol of {cost} in {store.uri}", protocol, known)
    if protocol is None and len(known) > 1:
        apart = told_apart(stored(store, known))
        listed = ", ".join(f"{name} ({apart[name]})" for name in sorted(apart))
        raise StoreError(
            f"{cost} was measured with {len(known)} protocols: {listed}; choose one "
            "with --timed"
        )
    found = {
        tuple(t[key] for key in NETWORK): t["size"]
        for t in times
        if protocol in (None, t["timed"])
    }
    if not found:
        raise StoreError(f"no task measured {cost} of these models in {store.uri}")
    return [
        {**row, cost: found.get(tuple(row[key] for key in NETWORK))} for row in rows
    ]


def probabilities(rows: Rows, cost: str) -> list[float]:
    """How probable it is that each row is on the front of quality against a cost.

    Args:
        rows: Of one board, all with a cost.
        cost: One of ``COSTS``, which every row has as a number; smaller is better.

    Returns:
        One share a row; a row without a standard error counts as exact.
    """
    if not rows:
        return []
    sign = 1.0 if rows[0]["goal"] == "max" else -1.0
    quality = [sign * row["mean"] for row in rows]
    errors = [row["stderr"] or 0.0 for row in rows]
    found = front_probability(quality, errors, [row[cost] for row in rows])
    return [float(share) for share in found]


def front(rows: Rows, cost: str, *, more: bool) -> list[Mapping[str, Any]]:
    """The rows that no other one beats in both the cost and the mean.

    Args:
        rows: Of one board, all with a cost.
        cost: One of ``COSTS``; smaller is better.
        more: Whether a larger mean is better.

    Returns:
        The rows, the cheapest first.
    """
    sign = 1 if more else -1
    best, found = -math.inf, []
    for row in sorted(rows, key=lambda row: (row[cost], -sign * row["mean"])):
        if sign * row["mean"] > best:
            best = sign * row["mean"]
            found.append(row)
    return found
