"""`run` and `plan`: do what is missing, or say what that is."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from harness.cli._common import grid_options, make_plan, plan_row, store_option

if TYPE_CHECKING:
    from rich.console import Console

    from harness.planning.plan import Plan
    from harness.running.driver import Outcome
    from results.storage.store import Store


MANY_FILES = 500  # a run that leaves more compacts the store


@click.command()
@grid_options
@store_option
@click.option(
    "--address",
    default="local",
    show_default=True,
    help="Ray: local, auto, HOST:PORT or ray://HOST:PORT; inline runs without Ray.",
)
@click.option("--cpus", type=int, help="Processors of a local Ray; all by default.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first failure.")
@click.option("--max-failures", type=int, help="Stop after so many failures.")
@click.option("--quiet", is_flag=True, help="No progress, no leaderboard.")
@click.option(
    "--take-over", is_flag=True, help="Though a driver on another machine holds it."
)
def run(grid: str, store: str, quiet: bool, **options: Any) -> int:
    """Run what is missing of GRID; the same line again resumes.

    Exit status: 0 complete, 2 a mistake in the input, 3 some trials failed.
    """
    from rich.console import Console
    from rich.markup import escape

    from harness.running.driver import reconcile
    from results.storage import leases
    from results.storage.store import open_store

    opened = open_store(store, create=True)
    leases.await_orphans(opened)
    reconcile(opened)
    picked = {key: options.pop(key) for key in ("only", "retry", "refresh")}
    console = Console(stderr=True, quiet=quiet)
    outcome = None
    with _alone(grid, opened, picked, options.pop("take_over")) as (plan, old, run_id):
        for warning in opened.warnings:
            console.print(f"[yellow]warning:[/] {escape(warning)}")
        summarise(plan, old, console)
        if plan.bundles:
            outcome = _execute(plan, opened, console, {**options, "run_id": run_id})
    return _finish(plan, opened, console, outcome)


@contextlib.contextmanager
def _alone(
    grid: str, store: Store, picked: dict[str, Any], take_over: bool
) -> Iterator[tuple[Plan, dict[str, str], str]]:
    """A plan that no other driver works on while the block runs.

    Args:
        grid: As it was typed.
        store: Where the claim is made.
        picked: Options of ``make_plan``.
        take_over: Whether to go on though another driver holds the trials.

    Yields:
        The plan, trials made by other code, and the run's id.
    """
    from results.storage import leases
    from results.storage.store import new_attempt

    run = new_attempt()[-12:]
    seen = store.files("trials")
    plan, old = make_plan(grid, store, **picked)
    if not plan.bundles:
        yield plan, old, run
        return
    recorded = _record(plan, store)
    with leases.hold(store, run, recorded):
        _refuse_held(plan, store, (run, recorded), take_over)
        if store.files("trials") != seen:  # a driver finished some since the plan
            plan, old = make_plan(grid, store, **picked)
        yield plan, old, run


def _refuse_held(
    plan: Plan, store: Store, claim: tuple[str, str], take_over: bool
) -> None:
    """Two drivers must not run one trial: say who has it."""
    from datetime import UTC, datetime

    from harness.core import BenchError
    from results.storage import leases

    wanted = {t.id for b in plan.bundles for t in b.trials}
    held = {}

    def share(holder: leases.Holder) -> bool:
        if holder.plan not in held and not take_over:
            held[holder.plan] = len(wanted & _planned(store, holder.plan))
        return bool(held.get(holder.plan))

    for holder in leases.rivals(store, *claim, share=share):
        since = datetime.fromtimestamp(holder.started_at, UTC)
        raise BenchError(
            f"process {holder.pid} on {holder.host} has been running "
            f"{held[holder.plan]} of these trials since {since:%Y-%m-%d %H:%M} UTC: "
            "wait for it, or stop it; --take-over goes on where that machine is gone"
        )


def _planned(store: Store, plan: str) -> set[str]:
    from results.queries.db import ask

    rows = ask(store, "SELECT trial FROM plans WHERE plan = ?", [plan]).rows
    return {trial for (trial,) in rows}


def _execute(
    plan: Plan, store: Store, console: Console, options: dict[str, Any]
) -> Outcome:
    from harness.cli.live_view import View
    from harness.planning import provenance
    from harness.running.driver import Driver

    executor = _executor(options["address"], options["cpus"], store)
    try:
        with View(plan.trials, console) as view:
            driver = Driver(
                plan=plan,
                store=store,
                executor=executor,
                watcher=view,
                max_failures=1 if options["fail_fast"] else options["max_failures"],
                commit=provenance.commit(),
                run_id=options["run_id"],
            )
            return driver.run()
    finally:
        executor.close()


def _executor(address: str, cpus: int | None, store: Store) -> Any:
    if address == "inline":
        from harness.executors.inline import Inline

        return Inline()
    from harness.executors.on_ray import OnRay
    from harness.scheduling.predictor import Predictor

    return OnRay(address, cpus, predictor=Predictor.of(store))


def _record(plan: Plan, store: Store) -> str:
    """Store what this run intends, finished trials too; returns the plan's id."""
    from datetime import UTC, datetime

    from results.storage.store import new_attempt

    here: dict[str, Any] = {
        "plan": new_attempt(),
        "planned_at": datetime.now(UTC),
        "grid": plan.grid.name,
    }
    store.record_plan(here | plan_row(trial, why) for _, trial, why in states(plan))
    return str(here["plan"])


def _finish(plan: Plan, store: Store, console: Console, outcome: Outcome | None) -> int:
    from rich.markup import escape

    from harness.cli import COMPLETE, TRIALS_FAILED

    failed = len(plan.failed) + (outcome.failures if outcome else 0)
    _compact(store, console)
    if not console.quiet:
        _show_leaderboard(plan, store)
    for warning in store.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}")
    if outcome is not None and outcome.stopped is not None:
        console.print(
            f"[yellow]stopped early:[/] {outcome.stopped}; run the same line to go on"
        )
    if failed:
        console.print(
            f"[red]{failed} trials failed[/]; `shrinkgrid status {plan.grid.name}` "
            "says why, `--retry` runs them again"
        )
        return TRIALS_FAILED
    stopped = outcome is not None and outcome.stopped is not None
    return TRIALS_FAILED if stopped else COMPLETE


def _compact(store: Store, console: Console) -> None:
    """Fold small files once there are many: queries open each of them.

    In a process of its own, so that the driver's memory does not grow by what a
    compaction needs.
    """
    import subprocess
    import sys

    if len(store.files("trials")) < MANY_FILES:
        return
    line = [sys.executable, "-m", "harness", "compact", "--store", store.uri]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:  # another compaction is at work, or this is a bucket
        console.print("[yellow]not compacted:[/]", done.stderr.strip())


def _show_leaderboard(plan: Plan, store: Store) -> None:
    """The numbers of this grid's models and tasks, also those of earlier runs."""
    from results.boards import leaderboard
    from results.errors import StoreError
    from results.text.answer import Answer

    done = [*plan.done, *(t for b in plan.bundles for t in b.trials)]
    models, tasks = ({getattr(t, k).name for t in done} for k in ("model", "task"))
    try:
        everything = leaderboard.read(store)
    except StoreError:  # nothing was measured: the failures are told below
        return
    at = {name: everything.columns.index(name) for name in ("model", "task")}
    rows = [
        row
        for row in everything.rows
        if row[at["model"]] in models and row[at["task"]] in tasks
    ]
    ours = Answer(columns=everything.columns, types=everything.types, rows=rows)
    click.echo(leaderboard.boards(ours))


@click.command()
@grid_options
@store_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a trial.")
@click.option(
    "--cluster",
    metavar="COUNTxDEVICE",
    help="Forecast for 8xH100, 4xA10G,16xCPU ..., or auto: the Ray that runs here.",
)
def plan(
    grid: str, store: str, as_json: bool, cluster: str | None, **options: Any
) -> None:
    """Show what GRID would run, what is shared, what is skipped and why."""
    from rich.console import Console

    from harness.planning.configured_plugin import tolerate_unseen
    from harness.scheduling.forecast import sentences
    from harness.scheduling.predictor import Predictor
    from results.errors import StoreError
    from results.storage.store import open_store

    try:
        opened = open_store(store)
    except StoreError as why:
        if "no store at" not in why.mistakes[0]:
            raise
        opened = None
    there = _cluster(cluster)  # a mistake in it shows before anything is looked up
    with tolerate_unseen() as missing:
        made, old = make_plan(grid, opened, **options)
    for one in missing:
        click.echo(f"not here, its trials' ids are not final: {one}", err=True)
    if as_json:
        for state, trial, why_not in states(made):
            row = plan_row(trial, why_not)
            click.echo(json.dumps({"state": state, **row}))
        return
    console = Console()
    _table(made, console)
    summarise(made, old, console)
    for line in sentences(made, there, Predictor.of(opened)):
        console.print(line, highlight=False, markup=False)
    for warning in opened.warnings if opened else ():
        click.echo(f"warning: {warning}", err=True)


def _cluster(text: str | None) -> Any:
    """The cluster to forecast for; one slot where none is named."""
    from harness.scheduling.forecast import ONE
    from harness.scheduling.hardware import parse

    if text is None:
        return ONE
    if text != "auto":
        return parse(text)
    from harness.executors.on_ray import OnRay

    executor = OnRay("auto")
    try:
        return executor.packer.cluster
    finally:
        executor.close()


def states(made: Plan) -> Iterator[tuple[str, Any, str | None]]:
    """Every trial of a plan with what will become of it, and why where it will not."""
    yield from (("run", t, None) for b in made.bundles for t in b.trials)
    yield from (("done", t, None) for t in made.done)
    yield from ((status, t, None) for t, status in made.failed)
    yield from (("unsupported", t, why) for t, why in made.unsupported)


def summarise(made: Plan, old: dict[str, str], console: Console) -> None:
    """Counts first: what runs, what is done, what is shared."""
    from rich.markup import escape

    reasons = len({why for _, why in made.unsupported})
    parts = [f"[bold]{made.trials} to run[/] in {len(made.bundles)} bundles"]
    if made.done:
        parts.append(f"{len(made.done)} done")
    if made.failed:
        parts.append(f"[red]{len(made.failed)} failed[/]")
    if made.unsupported:
        parts.append(f"{len(made.unsupported)} unsupported ({reasons} reasons)")
    name = escape(made.grid.name)
    console.print(f"[bold]{name}[/]: " + ", ".join(parts), highlight=False)
    if made.trials:
        saved = [
            f"{done} {step} instead of {alone}"
            for step, (done, alone) in made.shared().items()
            if alone > done
        ]
        if saved:
            console.print(f"shared: {', '.join(saved)}", highlight=False)
    if old:
        console.print(
            f"[yellow]{len(old)} finished trials were made by other code than this[/] "
            "(--refresh stale runs them again)"
        )
    if not made.trials and not made.failed:
        why = "every trial is finished" if made.done else "no trial of it makes sense"
        if not made.done and not made.unsupported:
            why = "it excludes every trial"
        console.print(f"nothing to run: {why}")


def _table(made: Plan, console: Console) -> None:
    """One line a bundle, then the artifacts and the pairs that make no sense."""
    from rich.markup import escape
    from rich.table import Table

    from harness.planning.resources import gigabytes
    from harness.scheduling.interval import format_duration

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("method", "model", "tasks", "ratios", "seed", "asks for"):
        table.add_column(column, overflow="fold")
    for bundle in made.bundles:
        first = bundle.trials[0]
        asked = bundle.resources
        wants = f"{asked.cpus:g} cpu" + (f", {asked.gpus:g} gpu" if asked.gpus else "")
        if asked.device_bytes:
            wants += f", {gigabytes(asked.device_bytes)} of a device"
        if asked.seconds:
            wants += f", {format_duration(asked.seconds)}"
        table.add_row(
            first.method.label,
            first.model.label,
            ", ".join(dict.fromkeys(t.task.label for t in bundle.trials)),
            " ".join(f"{r:g}" for r in dict.fromkeys(t.ratio for t in bundle.trials)),
            str(first.seed),
            wants,
        )
    if made.bundles:
        console.print(table)
    for artifact in made.artifacts.values():
        console.print(f"artifact  {escape(str(artifact))}", highlight=False)
    seen = set()
    for trial, why in made.unsupported:
        if why not in seen:
            seen.add(why)
            console.print(
                f"[yellow]unsupported[/]  {trial.method.label} on {trial.model.label}: "
                f"{why}",
                highlight=False,
            )
