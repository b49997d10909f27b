"""What runs at this moment, from the leases of drivers and workers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from results.boards.ranking import rounded
from results.queries.db import ask
from results.storage import leases
from results.storage.leases import Lease, Owner
from results.storage.store import Store
from results.text.clean import clean
from results.text.labels import label

_ENDED = """
SELECT attempt, epoch(started_at) + coalesce(seconds, 0) AS stop FROM trials
WHERE attempt IN (SELECT unnest($1::VARCHAR[]))
"""
_PLANNED = """
SELECT DISTINCT ON (p.trial) p.trial, p.grid, p.method, p.method_options, p.model,
       p.task, p.task_options, p.ratio, p.seed, u.usual
FROM plans AS p LEFT JOIN (
    SELECT method, method_options, model, task, task_options, avg(seconds) AS usual
    FROM newest WHERE status = 'ok' GROUP BY ALL) AS u
  ON (p.method, p.model, p.task) = (u.method, u.model, u.task)
  AND p.method_options IS NOT DISTINCT FROM u.method_options
  AND p.task_options IS NOT DISTINCT FROM u.task_options
WHERE p.trial IN (SELECT unnest($1::VARCHAR[])) ORDER BY p.trial, p.planned_at DESC
"""
_RUN = """
SELECT any_value(grid) AS grid,
       (SELECT count(*) FROM trials WHERE epoch(started_at) >= $2
        AND trial IN (SELECT trial FROM plans
                      WHERE plan = $1 AND selected IS NOT FALSE)) AS done
FROM plans WHERE plan = $1
"""


def seconds_left(
    expected: float | None, total: int, done: int, elapsed: float
) -> float | None:
    """How long a run will still take.

    The forecast counts as one trial that has ended, so that it decides at the start,
    and the trials of the run decide soon.

    Args:
        expected: Forecast of the seconds of the whole run; None if there is none.
        total: Trials that the run has to run.
        done: Those that ended.
        elapsed: Seconds since the run began.

    Returns:
        Seconds; None before the first result if the run has no forecast.

    >>> seconds_left(40.0, 4, 0, 0.0), seconds_left(40.0, 4, 1, 30.0)
    (40.0, 60.0)
    """
    if expected is not None:
        each = (expected / max(1, total) + elapsed) / (1 + done)
    elif done:
        each = elapsed / done
    else:
        return None
    return each * max(0, total - done)


def running_now(store: Store) -> dict[str, Any]:
    """Describe the runs and the trials that run now.

    A process on another machine cannot be seen from here; it counts as alive until
    its lease is gone.

    Args:
        store: The store.

    Returns:
        ``now`` (None while nothing runs), and ``since`` of each entry, are seconds
        since 1970 by this machine and that of the entry. ``runs`` has one entry a
        driver: ``grid``, ``host``, ``since``, ``done``, ``total`` and ``left``
        (seconds), both None if they are not known. ``trials`` has one entry a worker:
        the trial with its ``grid``, ``method``, ``model``, ``task``, ``ratio`` and
        ``seed``, ``usual`` (mean seconds of such trials that ended), ``step``
        (what it does; None in the first second, and if its worker does not say), and
        ``number`` and ``of``: it is that one of so many trials of its bundle.
    """
    now = time.time()
    owners = [one for one in leases.owners(store) if one.alive() is not False]
    jobs = [one for one in leases.read_all(store) if one.alive() is not False]
    runs = [_run(store, one, now) for one in owners if not one.claims]
    trials = _trials(store, jobs)
    # Without a time while nothing runs: two reports of a store are then equal.
    return {"now": now if runs or trials else None, "runs": runs, "trials": trials}


def _run(store: Store, owner: Owner, now: float) -> dict[str, Any]:
    asked = [owner.plan, owner.started_at]
    ((grid, done),) = ask(store, _RUN, asked).rows
    left = None
    if owner.trials is not None:
        elapsed = now - owner.started_at
        left = seconds_left(owner.seconds, owner.trials, done, elapsed)
    return {
        "grid": clean(grid or "?"),
        "host": clean(owner.host),
        "since": owner.started_at,
        "done": done,
        "total": owner.trials,
        "left": rounded(left),
    }


def _trials(store: Store, jobs: Sequence[Lease]) -> list[dict[str, Any]]:
    attempts = [attempt for job in jobs for attempt, _ in job.attempts]
    ended: dict[str, float] = dict(ask(store, _ENDED, [attempts]).rows)
    current = {}
    for job in jobs:
        # Trials of a job run in order: the first one without a row is running.
        waiting = [trial for attempt, trial in job.attempts if attempt not in ended]
        if waiting:
            stops = [ended[attempt] for attempt, _ in job.attempts if attempt in ended]
            # It began when the one before it ended; the first one with the lease.
            since = max([job.started_at, *stops])
            # What it said of a trial that ended is old.
            said = leases.step(store, job.name.removesuffix(".json"))
            current[waiting[0]] = {
                "trial": waiting[0],
                "host": clean(job.host),
                "since": since,
                "step": clean(said.name) if said and said.trial == waiting[0] else None,
                "number": len(job.attempts) - len(waiting) + 1,
                "of": len(job.attempts),
            }
    found = ask(store, _PLANNED, [list(current)]).dicts()
    planned = {row["trial"]: row for row in found}
    return [
        one | _described(planned[trial])
        for trial, one in current.items()
        if trial in planned
    ]


def _described(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "grid": clean(row["grid"] or "?"),
        "method": clean(label(row["method"], row["method_options"])),
        "model": clean(row["model"] or "?"),
        "task": clean(label(row["task"], row["task_options"])),
        "ratio": rounded(row["ratio"]),
        "seed": row["seed"],
        "usual": rounded(row["usual"]),
    }
