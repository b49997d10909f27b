"""`run`: run the missing trials of a grid."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli import _common
from harness.cli._common import (
    grid_options,
    keep_models_option,
    max_failures_option,
    run_options,
    select_from,
    store_option,
)

if TYPE_CHECKING:
    from rich.console import Console

    from harness.planning.plan import Plan
    from harness.running.driver import Outcome
    from harness.running.session import Claim
    from results.storage.store import Store


_FORECAST = 5000  # trials; the forecast of a larger plan takes too long


@click.command()
@grid_options
@store_option
@run_options
@click.option("--fail-fast", is_flag=True, help="Stop at the first failure.")
@max_failures_option
@keep_models_option
@click.option("--quiet", is_flag=True, help="Show no progress and no leaderboard.")
@click.option(
    "--take-over",
    is_flag=True,
    help="Run even if a driver on another machine has claimed the trials.",
)
def run(grid: str, store: str, quiet: bool, **options: Any) -> int:
    """Run the missing trials of GRID; run it again to resume.

    Exit status: 0 complete, 2 an error in the input, 3 some trials failed, 130
    interrupted by Ctrl-C or `cancel`.
    """
    from rich.markup import escape

    from harness.cli.plan import summarise
    from harness.executors.address import check_address
    from harness.running import session
    from results.errors import NoStore
    from results.storage.store import open_store

    began = time.monotonic()
    check_address(options["address"])
    chosen = ("only", "retry", "refresh", "changed")
    selection = select_from(**{key: options.pop(key) for key in chosen})
    console = _common.console(stderr=True, quiet=quiet)
    outcome = None
    take_over = options.pop("take_over")
    with contextlib.ExitStack() as claims:
        with console.status(f"planning {escape(grid)}: its plugins, and the store"):
            try:
                open_store(store)
            except NoStore:  # an error in the grid makes no store
                session.prepare(grid, None, selection)
            opened = open_store(store, create=True)
            session.recover(opened)
            claimed = claims.enter_context(
                session.claim(grid, opened, selection, take_over=take_over)
            )
        _warn(opened, console)
        planned = claimed.planned
        summarise(planned, console)
        if planned.plan.bundles:
            failures = 1 if options["fail_fast"] else options["max_failures"]
            outcome = drive(claimed, opened, console, options, failures)
    return _finish(planned.plan, opened, console, outcome, began)


def _warn(store: Store, console: Console) -> None:
    from rich.markup import escape

    for warning in store.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}")


def drive(
    claimed: Claim,
    store: Store,
    console: Console,
    options: Mapping[str, Any],
    max_failures: int | None = None,
) -> Outcome:
    """Run a claimed plan, and show its progress.

    Args:
        claimed: The plan.
        store: Where the trials are stored.
        console: Shows the progress.
        options: The values of ``run_options``, and ``keep_models``.
        max_failures: Stop after so many failed trials; None never stops.

    Returns:
        How the run ended.
    """
    from harness.cli.live_view import View
    from harness.executors.choice import executor_for
    from harness.running import session
    from results.storage import leases

    if options["address"] != "inline":
        local = options["address"] == "local"
        what = "starting Ray on this machine" if local else "joining the Ray cluster"
        console.print(f"{what} (usually 5 to 20 s)", highlight=False)
    executor = executor_for(options["address"], options["cpus"], store)
    plan = claimed.planned.plan
    try:
        expected = _expected(plan, store, executor)
        leases.expect(store, claimed.run_id, plan.trials, expected)
        steps = partial(_steps, store)
        with View(plan.trials, console, expected, steps) as view:
            return session.drive(
                claimed,
                store,
                executor,
                view,
                max_failures=max_failures,
                keep_models=options.get("keep_models", False),
            )
    finally:
        executor.close()


def _steps(store: Store) -> dict[str, str]:
    """Which step each running trial is in; empty while the store does not answer."""
    from results.errors import StoreError
    from results.storage import leases

    try:
        return {step.trial: step.name for step in leases.steps(store)}
    except StoreError:  # the run itself says so
        return {}


def _expected(plan: Plan, store: Store, executor: Any) -> float | None:
    """Forecast of the seconds of a run, as ``plan`` prints it; None for a huge plan."""
    from harness.core import BenchError
    from harness.scheduling.forecast import ONE, forecast
    from harness.scheduling.predictor import Predictor

    if plan.trials > _FORECAST:
        return None
    packer = getattr(executor, "packer", None)
    cluster = ONE if packer is None else packer.cluster
    try:
        return forecast(plan, cluster, Predictor.of(store)).seconds.mid
    except BenchError:  # the executor's own check names what does not fit
        return None


def _finish(
    plan: Plan,
    store: Store,
    console: Console,
    outcome: Outcome | None,
    began: float,
) -> int:
    from rich.markup import escape

    from harness.cli import COMPLETE, INTERRUPTED, TRIALS_FAILED
    from harness.running import session
    from harness.scheduling.interval import format_duration
    from results.text.counts import counted

    failed = len(plan.failed) + (outcome.failures if outcome else 0)
    refused = session.compact(store)
    if refused is not None:
        console.print("[yellow]not compacted:[/]", refused)
    if not console.quiet:
        _show_leaderboard(plan, store)
    _warn(store, console)
    if outcome is not None and outcome.stopped is not None:
        console.print(
            f"[yellow]stopped early:[/] {outcome.stopped}; run the same command again "
            "to resume"
        )
    if outcome is not None:
        counts = ", ".join(f"{n} {status}" for status, n in outcome.counts.items())
        took = format_duration(time.monotonic() - began)
        words = _store_words(store)
        console.print(
            f"{counts or 'no trial ended'} in {took}; results in {escape(store.uri)}. "
            f"Next: shrinkgrid report{words}",
            highlight=False,
            soft_wrap=True,
        )
    if outcome is not None and outcome.drained:
        return INTERRUPTED
    if failed:
        console.print(
            f"[red]{counted(failed, 'trial')} failed[/]: `shrinkgrid status "
            f"{escape(plan.grid.name)}{_store_words(store)}` shows why; run the same "
            "command with --retry to repeat them",
            highlight=False,
            soft_wrap=True,
        )
        return TRIALS_FAILED
    stopped = outcome is not None and outcome.stopped is not None
    return TRIALS_FAILED if stopped else COMPLETE


def _store_words(store: Store) -> str:
    """The option that names the store in a command, empty for the default store."""
    default = os.environ.get("SHRINKGRID_STORE") or "store"
    if store.uri in (default, str(Path(default).resolve())):
        return ""
    return f" --store {shlex.quote(store.uri)}"


def _show_leaderboard(plan: Plan, store: Store) -> None:
    """Print the leaderboards of this grid's models and tasks, over all runs."""
    from results.boards import leaderboard
    from results.boards.marks import marked
    from results.errors import StoreError
    from results.text.answer import Answer

    done = [*plan.done, *(t for b in plan.bundles for t in b.trials)]
    models, tasks = ({getattr(t, k).name for t in done} for k in ("model", "task"))
    try:
        everything = leaderboard.read(store)
    except StoreError:  # nothing was measured; failures are printed later
        return
    at = {name: everything.columns.index(name) for name in ("model", "task")}
    rows = [
        row
        for row in everything.rows
        if row[at["model"]] in models and row[at["task"]] in tasks
    ]
    ours = Answer(columns=everything.columns, types=everything.types, rows=rows)
    click.echo(leaderboard.boards(leaderboard.listed(marked(store, ours))))
