"""The rows of a plan, and the trials of a grid that a SQL condition selects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.core import BenchError
from harness.options import dumps
from harness.planning.grid import Grid
from harness.planning.plan import Plan
from harness.planning.trial import Trial
from results.queries.selection import select


def matching(grid: Grid, condition: str) -> set[str]:
    """Return the ids of the trials that a SQL condition selects.

    Args:
        grid: Grid whose trials are selected.
        condition: SQL over the columns of ``plan_row``; ``==`` means ``=``.

    Returns:
        The ids of the selected trials, at least one.

    Raises:
        BenchError: If the condition is not valid or selects nothing.
    """
    rows = [plan_row(p.trial, p.unsupported) for p in grid.points()]
    found = select(rows, condition)
    if not found:
        raise BenchError(
            f"--only {condition!r} selects none of {len(rows)} trials; the grid has "
            + "; ".join(_values(rows, key) for key in ("method", "model", "task"))
        )
    return found


def _values(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    found = sorted({str(row[key]) for row in rows})
    # A grid may have thousands of tasks; the message is for a terminal.
    more = f" and {len(found) - 20} more" if len(found) > 20 else ""
    return f"{key} {', '.join(found[:20])}{more}"


def plan_row(trial: Trial, unsupported: str | None) -> dict[str, Any]:
    """Build the columns of ``results.schema.PLANS`` that one trial determines."""
    return {
        "trial": trial.id,
        "method": trial.method.name,
        "method_options": trial.method.options,
        "model": trial.model.name,
        "task": trial.task.name,
        "task_options": trial.task.options,
        "ratio": trial.ratio,
        "seed": trial.seed,
        "identity": dumps(trial.identity()),
        "unsupported": unsupported,
    }


def states(plan: Plan) -> Iterator[tuple[str, Trial, str | None]]:
    """Yield what the plan does with each trial.

    Args:
        plan: Plan whose trials are looked up.

    Yields:
        ``run``, ``done``, ``unsupported`` or the status of a failed trial; the trial;
        and the reason, for an unsupported trial only.
    """
    yield from (("run", t, None) for b in plan.bundles for t in b.trials)
    yield from (("done", t, None) for t in plan.done)
    yield from ((status, t, None) for t, status in plan.failed)
    yield from (("unsupported", t, why) for t, why in plan.unsupported)
