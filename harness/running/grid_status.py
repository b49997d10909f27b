"""How much of a grid is done, from its file, or from the plan that the store has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core import BenchError
from harness.planning import grid as grids
from harness.planning.configured_plugin import tolerate_unseen
from harness.running import session
from results.outcomes import FINISHED, REPEATED
from results.queries import grids as stored_grids
from results.storage import leases
from results.storage.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class GridStatus:
    """The status of one grid.

    Args:
        name: Name of the grid.
        counts: ``done``, ``running``, ``failed``, ``missing``, ``unsupported`` and
            ``stale`` (done by other code than this; only known from the grid's file).
        failed: Ids of the failed trials.
        selected: How many trials the last run selected; None if it selected all.
        unseen: What the grid reads and this machine does not have, one sentence each;
            the counts are then those of the newest plan in the store.
    """

    name: str
    counts: Mapping[str, int]
    failed: frozenset[str]
    selected: int | None
    unseen: tuple[str, ...] = ()


def grid_status(name: str, store: Store) -> GridStatus:
    """Count the trials of a grid by what the store has of them.

    Args:
        name: Path of a grid file, name of a packaged grid, or name of a grid that was
            run into this store, whose newest plan then says what belongs to it.
        store: The store whose attempts, plans and leases are read.

    Returns:
        The status.

    Raises:
        UserError: If there is no such grid.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.exists() or name in grids.packaged():
        return _of_file(name, store)
    return _of_plan(name, store)


def _of_plan(name: str, store: Store) -> GridStatus:
    running = running_trials(store)
    stored = stored_grids.statuses(store, name)
    if not stored:
        raise stored_grids.unknown(store, name, list(grids.packaged()))
    # Trials without an attempt, or whose attempt any run repeats (cancelled, lost).
    missing = {t for t, s in stored.items() if s is None or s in REPEATED}
    failed = {t for t, s in stored.items() if s not in FINISHED} - missing
    unsupported = sum(status == "unsupported" for status in stored.values())
    counts = {
        "done": len(stored) - len(missing) - len(failed) - unsupported,
        # Trials that run are taken out of ``missing``, so that the counts add up to the
        # grid.
        "running": len(running & missing),
        "failed": len(failed),
        "missing": len(missing - running),
        "unsupported": unsupported,
        "stale": 0,
    }
    chosen = stored_grids.selected(store, name)
    return GridStatus(
        name=name, counts=counts, failed=frozenset(failed), selected=chosen
    )


def _of_file(name: str, store: Store) -> GridStatus:
    running = running_trials(store)
    with tolerate_unseen() as unseen:
        try:
            planned = session.prepare(name, store)
        except BenchError as why:
            # A task must be read to know whether it suits a model. The plugins of a
            # packaged grid have no other errors.
            if name in grids.packaged() and stored_grids.statuses(store, name):
                return replace(_of_plan(name, store), unseen=tuple(why.errors))
            raise
    plan = planned.plan
    if unseen:
        # Trials that read what is not here have no known id, but the store has one.
        if not stored_grids.statuses(store, plan.grid.name):
            raise BenchError(*unseen)
        return replace(_of_plan(plan.grid.name, store), unseen=tuple(unseen))
    missing = {t.id for b in plan.bundles for t in b.trials}
    failed = frozenset(t.id for t, _ in plan.failed)
    counts = {
        "done": len(plan.done),
        "running": len(running & missing),
        "failed": len(failed),
        "missing": len(missing - running),
        "unsupported": len(plan.unsupported),
        "stale": len(planned.outdated),
    }
    name = plan.grid.name
    chosen = stored_grids.selected(store, name)
    return GridStatus(name=name, counts=counts, failed=failed, selected=chosen)


def running_trials(store: Store) -> set[str]:
    """The trials that living workers run, now or next."""
    return {
        trial
        for lease in leases.read_all(store)
        if lease.alive() is not False
        for _, trial in lease.attempts
    }
