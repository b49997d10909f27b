"""How long a plan will take, from what the store knows of trials like its own."""

from __future__ import annotations

from harness.plan import Plan
from harness.progress import span
from results.store import Store


def sentence(plan: Plan, store: Store) -> str:
    """Hours of work left, as the store's history tells.

    A trial counts as the median of finished trials of the same method, model and task;
    trials without such a history are counted apart, not guessed.

    Args:
        plan: What will run.
        store: Has the history.

    Returns:
        One sentence.
    """
    from results.db import query

    rows = query(
        store,
        "SELECT method, model, task, median(seconds) AS seconds FROM trials "
        "WHERE status = 'ok' GROUP BY ALL",
    ).dicts()
    known = {(r["method"], r["model"], r["task"]): r["seconds"] for r in rows}
    total, unknown = 0.0, 0
    for bundle in plan.bundles:
        for trial in bundle.trials:
            seconds = known.get((trial.method.name, trial.model.name, trial.task.name))
            total += seconds or 0.0
            unknown += seconds is None
    if not plan.trials:
        return "no work left"
    if unknown == plan.trials:
        return "no estimate: the store has no finished trial like these"
    beside = f", and {unknown} trials without a history" if unknown else ""
    return f"about {span(total)} of work for one slot{beside}"
