"""A run of a grid from start to end: recover, plan, claim, drive, compact."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from harness.core import BenchError
from harness.planning import answers, known_grid, provenance
from harness.planning import grid as grids
from harness.planning import plan as plans
from harness.planning.answers import Entry
from harness.planning.grid import Grid, Point
from harness.planning.plan import Plan
from harness.planning.selection import matching, plan_row, states
from harness.running import rows
from harness.running.driver import Driver, Executor, Outcome, Watcher
from harness.running.recovery import check_stored, reconcile
from results.outcomes import Status
from results.queries.attempts import Attempt, read_attempts, statuses_of
from results.queries.db import ask
from results.storage import leases
from results.storage.store import Store, new_attempt

MANY_FILES = 500  # a store with more files of trials is compacted after a run


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which trials of a grid a plan runs.

    Args:
        only: SQL condition on the trials; None selects all of them.
        retry: Statuses of failed trials that run again.
        refresh: Whether finished trials run again if their code has changed.
        again: Whether all trials that ``only`` selects run, also finished ones.
        changed: Keys of the grid file with values that replace those of the file.
    """

    only: str | None = None
    retry: tuple[str, ...] = ()
    refresh: bool = False
    again: bool = False
    changed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan with what the store says about its trials.

    Args:
        plan: The plan of the trials to run.
        outdated: Finished trials whose code has changed since: id -> label.
        entry: The grid in the memory; kept with what planning asked of plugins.
    """

    plan: Plan
    outdated: dict[str, str]
    entry: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A plan whose trials no other driver runs.

    Args:
        planned: The plan that was claimed.
        run_id: Id of the run, which leases and rows name.
    """

    planned: Planned
    run_id: str


def prepare(
    name: str, store: Store | None, selection: Selection | None = None
) -> Planned:
    """Read a grid and plan it against a store, whose attempts are read once.

    Args:
        name: Path of a grid file, or the name of a packaged grid.
        store: The store; None if there is no store yet.
        selection: Which trials run; None runs what is missing.

    Returns:
        The plan.
    """
    selected = selection or Selection()
    grid, entry = known_grid.read(grids.locate(name), selected.changed)
    attempts = {} if store is None else read_attempts(store)
    statuses = statuses_of(attempts)
    outdated = _outdated(grid, attempts, statuses)
    only = None if selected.only is None else matching(grid, selected.only)
    again = set(outdated) if selected.refresh else set()
    plan = plans.make(
        grid,
        statuses=statuses,
        only=only,
        retry=selected.retry,
        again=again | (only or set()) if selected.again else again,
    )
    answers.keep(entry)
    return Planned(plan=plan, outdated=outdated, entry=entry)


def _outdated(
    grid: Grid,
    attempts: Mapping[str, Sequence[Attempt]],
    statuses: Mapping[str, str],
) -> dict[str, str]:
    """Return finished trials whose rows were made by other code: id -> label."""
    if not statuses:
        return {}
    made = {trial: tries[-1].code_digest for trial, tries in attempts.items()}
    found = {}
    for point in grid.points():
        trial = point.trial
        if statuses.get(trial.id) != Status.OK:
            continue
        digest = rows.code_digest(trial.method, trial.task, trial.model)
        if made.get(trial.id) not in (None, digest):
            found[trial.id] = str(trial)
    return found


def recover(store: Store) -> int:
    """Wait for orphaned workers of this machine, then store ``lost`` rows for the dead.

    What the dead were writing is deleted.

    Args:
        store: The store whose killed runs are recorded.

    Returns:
        The number of trials that were lost.
    """
    leases.wait_for_orphans(store)
    store.remove_unfinished()
    return reconcile(store)


@contextlib.contextmanager
def claim(
    name: str, store: Store, selection: Selection, *, take_over: bool = False
) -> Iterator[Claim]:
    """Plan a grid and keep other drivers away from its trials while the block runs.

    Args:
        name: Path of a grid file, or the name of a packaged grid.
        store: The store, which holds the claims of all drivers.
        selection: Which trials of the grid run.
        take_over: Run the trials even if another driver has claimed them.

    Yields:
        The claimed plan.

    Raises:
        BenchError: If another driver runs some of the trials.
    """
    run_id = new_attempt()[-12:]
    # Read before the plan, so that a file that appears in between is noticed below.
    seen = store.files("trials")
    planned = prepare(name, store, selection)
    if not planned.plan.bundles:
        yield Claim(planned=planned, run_id=run_id)
        return
    recorded = _record(planned.plan, _left_out(name, planned.plan, selection), store)
    # The claim is visible to other drivers before this one looks for theirs. Of two
    # that start together at least one sees the other.
    with leases.claim(store, run_id, recorded):
        owners = _conflicts(planned.plan, store, (run_id, recorded), take_over)
        if owners:
            raise BenchError(*owners)
        if store.files("trials") != seen:  # another driver finished trials meanwhile
            planned = prepare(name, store, selection)
        yield Claim(planned=planned, run_id=run_id)


def _left_out(name: str, plan: Plan, selection: Selection) -> Iterator[Point]:
    """The trials of the grid, as its file says it, that a selection leaves out."""
    known = {trial.id for _, trial, _ in states(plan)}
    points = [plan.grid.points()]
    if selection.changed:
        # What the run replaces may not be there, such as a model.
        with contextlib.suppress(BenchError):
            points.append(known_grid.read(grids.locate(name))[0].points())
    for point in chain(*points):
        if point.trial.id not in known:
            known.add(point.trial.id)
            yield point


def _record(plan: Plan, left_out: Iterable[Point], store: Store) -> str:
    """Store every trial of the grid; return the id of the plan.

    Those that the run does not select are stored too: the newest plan of a grid says
    what belongs to it, whichever part of it ran last.
    """
    here: dict[str, Any] = {
        "plan": new_attempt(),
        "planned_at": datetime.now(UTC),
        "grid": plan.grid.name,
    }
    rows = chain(
        ((trial, why, True) for _, trial, why in states(plan)),
        ((one.trial, one.unsupported, False) for one in left_out),
    )
    store.record_plan(
        here | plan_row(trial, why) | {"selected": selected}
        for trial, why, selected in rows
    )
    return str(here["plan"])


def _conflicts(
    plan: Plan, store: Store, claimed: tuple[str, str], take_over: bool
) -> list[str]:
    """Describe each other driver that runs trials of this plan.

    Args:
        plan: The plan that this run claims.
        store: The store with the other drivers' leases.
        claimed: Id of the run, and of its plan in the store.
        take_over: Ignore what other drivers have claimed.

    Returns:
        One sentence for each other driver.
    """
    wanted = {t.id for b in plan.bundles for t in b.trials}
    # Each other plan is read once, although ``conflicts`` may ask many times.
    common: dict[str, int] = {}  # plan id of another driver -> trials in both plans

    def share(owner: leases.Owner) -> bool:
        if owner.plan not in common and not take_over:
            common[owner.plan] = len(wanted & _trials_of(store, owner.plan))
        return bool(common.get(owner.plan))

    return [
        f"process {owner.pid} on {owner.host} has been running {common[owner.plan]} of "
        "these trials since "
        f"{datetime.fromtimestamp(owner.started_at, UTC):%Y-%m-%d %H:%M} UTC: wait "
        "until it ends, or stop it; use --take-over if that machine is gone"
        for owner in leases.conflicts(store, *claimed, share=share)
    ]


def _trials_of(store: Store, plan: str) -> set[str]:
    query = "SELECT trial FROM plans WHERE plan = ? AND selected IS NOT FALSE"
    found = ask(store, query, [plan]).rows
    return {trial for (trial,) in found}


def drive(
    claimed: Claim,
    store: Store,
    executor: Executor,
    watcher: Watcher,
    *,
    max_failures: int | None = None,
    keep_models: bool = False,
) -> Outcome:
    """Run a claimed plan.

    Args:
        claimed: The claimed plan to run.
        store: The store that the trials are written to.
        executor: Where bundles run; the caller closes it.
        watcher: Gets every event, to show progress.
        max_failures: Stop after this many failed trials; None never stops.
        keep_models: Store the compressed network of each trial.

    Returns:
        How the run ended.

    Raises:
        StoreError: If rows that this run stored are no longer there.
    """
    driver = Driver(
        plan=claimed.planned.plan,
        store=store,
        executor=executor,
        watcher=watcher,
        max_failures=max_failures,
        commit=provenance.commit(),
        run_id=claimed.run_id,
        keep_models=keep_models,
    )
    outcome = driver.run()
    check_stored(store, driver.stored)
    return outcome


def compact(store: Store) -> str | None:
    """Merge small files if there are many of them, since each query opens every file.

    A process of its own does it, so that the memory of the driver does not grow.

    Args:
        store: The store whose small files are merged.

    Returns:
        Why the store could not be compacted (another compaction runs, or the store is
        in a bucket); None otherwise.
    """
    if len(store.files("trials")) < MANY_FILES:
        return None
    line = [sys.executable, "-m", "harness", "compact", "--store", store.uri]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else None
