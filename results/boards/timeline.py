"""Which bundle ran where and when: the bars of a chart of the workers over time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from results.boards.ranking import rounded
from results.queries.db import ask
from results.storage.store import Store
from results.text.clean import clean
from results.text.labels import label

_MOST = 3000  # bars of a grid, the newest ones
_PAUSE = 60  # seconds; after a longer one a bundle was started again
# A bundle that was interrupted, or some of whose trials failed, runs again later.
_BARS = f"""
WITH wanted AS (
    SELECT host, device, coalesce(bundle, attempt) AS bundle, trial, method,
           method_options, model, model_options, status,
           epoch(started_at) AS start,
           epoch(started_at) + coalesce(seconds, 0) AS stop
    FROM trials
    WHERE started_at IS NOT NULL
      AND trial IN (SELECT trial FROM plans WHERE grid = $1)
), marked AS (
    SELECT *, coalesce(start > {_PAUSE} + max(stop) OVER (
        PARTITION BY host, bundle ORDER BY start, stop
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), true) AS begins
    FROM wanted
), numbered AS (
    SELECT *, count_if(begins) OVER (
        PARTITION BY host, bundle ORDER BY start, stop) AS time
    FROM marked
)
SELECT coalesce(host, 'unknown host') AS host, any_value(device) AS device,
       any_value(method) AS method, any_value(method_options) AS method_options,
       any_value(model) AS model, any_value(model_options) AS model_options,
       arg_min(trial, start) AS trial, min(start) AS start, max(stop) AS stop,
       count(*) AS trials, count_if(status NOT IN ('ok', 'unsupported')) AS failed
FROM numbered GROUP BY host, bundle, time ORDER BY start DESC, trial LIMIT {_MOST}
"""


def timeline(store: Store, grid: str) -> dict[str, Any] | None:
    """The bundles of a grid over time, by host and worker.

    Args:
        store: Where the grid was run.
        grid: Its name.

    Returns:
        ``bars`` with ``host``, ``worker`` (0, 1, ... on each host), ``device``,
        ``method``, ``model``, ``trial`` (the first one), ``start`` and ``stop`` (both
        in seconds since 1970), ``trials``, ``failed`` and ``part`` (see ``part``);
        ``hosts`` with the share of the time of its parts that the workers of each host
        were busy. None if the grid has no plan.
    """
    if not ask(store, "FROM plans WHERE grid = ? LIMIT 1", [grid]).rows:
        return None
    bars = []
    # The query takes the newest bars; ``place`` needs them in the order of their
    # starts.
    for row in reversed(ask(store, _BARS, [grid]).dicts()):
        row["method"] = clean(label(row["method"], row.pop("method_options")))
        row["model"] = clean(label(row["model"], row.pop("model_options")))
        bars.append({key: _plain(key, value) for key, value in row.items()})
    part(bars)
    hosts = {}
    for host in dict.fromkeys(bar["host"] for bar in bars):
        own = [bar for bar in bars if bar["host"] == host]
        hosts[host] = {"workers": place(own), "busy": rounded(busy(own))}
    return {"grid": clean(grid), "bars": bars, "hosts": hosts}


def _plain(key: str, value: Any) -> Any:
    """Times keep their milliseconds; seven digits would not hold them."""
    return round(value, 3) if key in ("start", "stop") else rounded(value)


def place(bars: Iterable[dict[str, Any]]) -> int:
    """Set ``worker`` of each bar to the first worker that is free when it starts.

    Args:
        bars: Of one host, in the order of their starts.

    Returns:
        The number of workers; it is the largest number of bars at one time.
    """
    free: list[float] = []  # worker -> when its last bar stops
    for bar in bars:
        # First fit in the order of starts: a new worker is opened only while all others
        # are busy, so that their number is the largest number of bars at one time.
        waits = (i for i, since in enumerate(free) if since <= bar["start"])
        worker = bar["worker"] = next(waits, len(free))
        if worker == len(free):
            free.append(bar["stop"])
        else:
            free[worker] = bar["stop"]
    return len(free)


def part(bars: Sequence[dict[str, Any]]) -> None:
    """Set ``part`` of each bar: 0, 1, ... between pauses that would hide the work.

    Such a pause is longer than all the time in which some bundle ran: on one axis, the
    bars before and after a night would be a pixel wide.

    Args:
        bars: In the order of their starts.
    """
    pauses, work, end = [], 0.0, -math.inf
    for bar in bars:
        pauses.append(bar["start"] - end)
        work += max(0.0, bar["stop"] - max(end, bar["start"]))
        end = max(end, bar["stop"])
    number = 0
    for i, (bar, pause) in enumerate(zip(bars, pauses, strict=True)):
        number += i > 0 and pause > work
        bar["part"] = number


def busy(bars: Iterable[dict[str, Any]]) -> float | None:
    """The share of the workers' time in which a bundle ran.

    Args:
        bars: Of one host, with their workers and parts.

    Returns:
        The sum of the lengths of the bars, divided by the number of workers times the
        time from the first start to the last stop of each part; None if no time passed.
    """
    known = list(bars)
    workers = 1 + max((bar["worker"] for bar in known), default=0)
    span = 0.0
    for number in {bar["part"] for bar in known}:
        own = [bar for bar in known if bar["part"] == number]
        span += max(b["stop"] for b in own) - min(b["start"] for b in own)
    if span <= 0:
        return None
    total: float = sum(bar["stop"] - bar["start"] for bar in known)
    return total / (workers * span)
