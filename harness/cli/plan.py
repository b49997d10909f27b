"""`plan`: show the missing trials of a grid, and what a run of them takes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from harness.cli import _common
from harness.cli._common import grid_options, select_from, store_option

if TYPE_CHECKING:
    from rich.console import Console

    from harness.planning.plan import Bundle, Plan
    from harness.running.session import Planned
    from results.text.columns import Columns


@click.command()
@grid_options
@store_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object for each trial."
)
@click.option(
    "--cluster",
    metavar="COUNTxDEVICE",
    help="Forecast for 8xH100, 4xA10G,16xCPU ..., or auto: the Ray cluster on this "
    "machine.",
)
def plan(
    grid: str, store: str, as_json: bool, cluster: str | None, **options: Any
) -> None:
    """Show which trials of GRID would run, and how long it takes.

    Also what they share, what is skipped, and why.
    """
    from harness.cli._placement import placement_table
    from harness.planning import answers
    from harness.planning.configured_plugin import tolerate_unseen
    from harness.planning.selection import plan_row, states
    from harness.running import session
    from harness.scheduling.forecast import sentences
    from harness.scheduling.predictor import Predictor
    from results.errors import NoStore
    from results.storage.store import open_store

    try:
        opened = open_store(store)
    except NoStore:
        opened = None
    there = _cluster(cluster)  # an error in it shows before any other work
    with tolerate_unseen() as missing:
        planned = session.prepare(grid, opened, select_from(**options))
    if missing:
        click.echo(
            "not on this machine, so that ids of trials are not final:", err=True
        )
    for one in missing:
        click.echo(f"  - {one}", err=True)
    if as_json:
        for state, trial, why_not in states(planned.plan):
            row = plan_row(trial, why_not)
            click.echo(json.dumps({"state": state, **row}))
        return
    console = _common.console()
    _table(planned.plan, console)
    summarise(planned, console)
    predictor = Predictor.of(opened)
    if there.gpus:
        placement_table(planned.plan, there, predictor, console)
    for line in sentences(planned.plan, there, predictor):
        console.print(line, highlight=False, markup=False)
    answers.keep(planned.entry)  # with what the forecast asked of the plugins
    for warning in opened.warnings if opened else ():
        click.echo(f"warning: {warning}", err=True)


def _cluster(text: str | None) -> Any:
    """Return the cluster to forecast for; one slot if no cluster is named."""
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


def summarise(planned: Planned, console: Console) -> None:
    """Print how many trials run, are done, failed, and what sharing saves."""
    from rich.markup import escape

    from results.text.counts import counted

    made = planned.plan
    reasons = len({why for _, why in made.unsupported})
    parts = [f"[bold]{made.trials} to run[/] in {counted(len(made.bundles), 'bundle')}"]
    if made.done:
        parts.append(f"{len(made.done)} done")
    if made.failed:
        parts.append(f"[red]{len(made.failed)} failed[/]")
    if made.unsupported:
        parts.append(
            f"{len(made.unsupported)} unsupported ({counted(reasons, 'reason')})"
        )
    name = escape(made.grid.name)
    console.print(f"[bold]{name}[/]: " + ", ".join(parts), highlight=False)
    if made.trials:
        saved = [
            f"{counted(done, step.removesuffix('s'))} instead of {alone}"
            for step, (done, alone) in made.shared().items()
            if alone > done
        ]
        if saved:
            console.print(f"shared: {', '.join(saved)}", highlight=False)
    if planned.outdated:
        count = len(planned.outdated)
        verb = "was" if count == 1 else "were"
        console.print(
            f"[yellow]{counted(count, 'finished trial')} {verb} "
            "made by other code than this[/] (--refresh stale runs them again)"
        )
    for model in made.without_dense():
        console.print(
            f"[yellow]no dense baseline of {escape(model)}[/]: recovery cannot be "
            "computed unless the store has one; add `dense` to the grid's methods",
            highlight=False,
        )
    if not made.trials and not made.failed:
        why = "every trial is finished" if made.done else "every trial is unsupported"
        if not made.done and not made.unsupported:
            why = "the grid excludes every trial"
        console.print(f"nothing to run: {why}")


def _table(made: Plan, console: Console) -> None:
    """Print one line for bundles that differ in the seed alone, then the rest."""
    from rich.markup import escape
    from rich.text import Text

    if made.bundles:
        console.print(Text.from_ansi(str(_bundles(made.bundles))), soft_wrap=True)
        asked = {_wants(bundle) for bundle in made.bundles}
        if len(asked) == 1:
            console.print(f"each line asks for {asked.pop()}", highlight=False)
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


def _bundles(bundles: Iterable[Bundle]) -> Columns:
    """The table of bundles; the requested resources have a column if they differ."""
    from harness.planning.selection import plan_row
    from results.text.columns import Columns
    from results.text.labels import method_label

    known = list(bundles)
    # A calibration that all share would lengthen every line.
    calibrations = {bundle.trials[0].calibration for bundle in known} - {None}
    seeds: dict[tuple[str, str, str, str, str], list[str]] = {}
    for bundle in known:
        first = bundle.trials[0]
        shown = first.calibration if len(calibrations) > 1 else None
        method = plan_row(first, None) | {"calibration": shown, "dtype": first.dtype}
        tasks = ", ".join(dict.fromkeys(t.task.label for t in bundle.trials))
        ratios = " ".join(
            f"{r:g}" for r in dict.fromkeys(t.ratio for t in bundle.trials)
        )
        names = (method_label(method), first.model.label, tasks)
        row = (*names, ratios, _wants(bundle))
        seeds.setdefault(row, []).append(str(first.seed))
    headings = ["method", "model", "tasks", "ratios", "seeds", "asks for"]
    wanted = {row[-1] for row in seeds}
    if len(wanted) == 1:
        headings.pop()
    table = Columns(
        headings=headings,
        left=[True] * len(headings),
        dropped=[i for i in (5, 4, 1) if i < len(headings)],
    )
    for row, several in seeds.items():
        table.add([*row[:4], " ".join(several), row[4]][: len(headings)])
    return table


def _wants(bundle: Bundle) -> str:
    from harness.planning.resources import gigabytes
    from harness.scheduling.interval import format_duration

    asked = bundle.resources
    wants = f"{asked.cpus:g} cpu" + (f", {asked.gpus:g} gpu" if asked.gpus else "")
    if asked.device_bytes:
        wants += f", {gigabytes(asked.device_bytes)} of a device"
    if asked.seconds:
        wants += f", at most {format_duration(asked.seconds)}"
    return wants
