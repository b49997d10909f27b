"""What several verbs share: options, the store, the plan of a grid."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from harness.planning.grid import Grid
    from harness.planning.plan import Plan
    from results.storage.store import Store

RETRIES = {
    "failed": ("failed",),
    "oom": ("out_of_memory",),
    "timeout": ("timed_out",),
    "all": ("failed", "out_of_memory", "timed_out", "unsupported"),
}

store_option = click.option(
    "--store",
    envvar="SHRINKGRID_STORE",
    default="store",
    show_default=True,
    help="Folder or URI of the results (or set SHRINKGRID_STORE).",
)


format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "md"]),
    default="table",
    show_default=True,
    help="How to print the rows.",
)


def grid_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The argument and options that choose trials: GRID, --only, --retry, --refresh."""
    for decorate in (
        click.option(
            "--refresh",
            type=click.Choice(["stale"]),
            help="Also run finished trials whose code has changed since.",
        ),
        click.option(
            "--retry",
            multiple=True,
            type=click.Choice(list(RETRIES)),
            help="Also run trials that ended so; may be given several times.",
        ),
        click.option(
            "--only",
            metavar="EXPR",
            help="SQL over method, model, task, ratio, seed: \"method = 'svd'\".",
        ),
        click.argument("grid"),
    ):
        command = decorate(command)
    return command


def on_store(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the option ``--store``, opened.

    What readers had to set aside is printed to stderr at the end.
    """

    @store_option
    @functools.wraps(verb)
    def opened(store: str, **arguments: Any) -> Any:
        from results.storage.store import open_store

        place = open_store(store)
        try:
            return verb(place, **arguments)
        finally:
            for warning in place.warnings:
                click.echo(f"warning: {warning}", err=True)

    return opened


def make_plan(
    name: str,
    store: Store | None,
    *,
    only: str | None = None,
    retry: tuple[str, ...] = (),
    refresh: str | None = None,
) -> tuple[Plan, dict[str, str]]:
    """Read a grid and plan it against a store.

    Args:
        name: A path or the name of a packaged grid.
        store: What is finished; None where there is no store yet.
        only: SQL condition on the trials.
        retry: Keys of ``RETRIES``.
        refresh: ``stale`` to run trials again whose code changed.

    Returns:
        The plan, and finished trial -> label for those whose code changed.
    """
    from harness.planning import grid as grids
    from harness.planning import plan as plans
    from results.queries.attempts import read_statuses

    grid = grids.read(grids.locate(name))
    statuses: Mapping[str, str] = {} if store is None else read_statuses(store)
    old = {} if store is None else stale(grid, store, statuses)
    plan = plans.make(
        grid,
        statuses=statuses,
        only=None if only is None else chosen(grid, only),
        retry=[status for key in retry for status in RETRIES[key]],
        again=old if refresh == "stale" else (),
    )
    return plan, old


def chosen(grid: Grid, condition: str) -> set[str]:
    """Ids of the trials that a SQL condition picks.

    Args:
        grid: The grid.
        condition: Over the columns of ``plans``; ``==`` is understood too.

    Returns:
        Trial ids.

    Raises:
        BenchError: If the condition is no SQL or picks nothing.
    """
    from harness.core import BenchError
    from results.queries.selection import select

    rows = [plan_row(p.trial, p.unsupported) for p in grid.points()]
    found = select(rows, condition)
    if not found:
        raise BenchError(f"--only {condition!r} picks none of {len(rows)} trials")
    return found


def plan_row(trial: Any, unsupported: str | None) -> dict[str, Any]:
    """A trial in the columns of ``results.schema.PLANS`` that do not need a plan."""
    from harness.options import dumps

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


def stale(grid: Grid, store: Store, statuses: Mapping[str, str]) -> dict[str, str]:
    """Finished trials of a grid whose rows were made by other code than today's.

    Args:
        grid: The grid.
        store: Has the digests.
        statuses: Trial id -> status.

    Returns:
        Trial id -> what it is.
    """
    from harness.running.rows import code_digest
    from results.queries.attempts import read_attempts

    if not statuses:
        return {}
    made = {
        trial: tries[-1].code_digest for trial, tries in read_attempts(store).items()
    }
    found = {}
    for point in grid.points():
        trial = point.trial
        if statuses.get(trial.id) != "ok":
            continue
        if made.get(trial.id) not in (None, code_digest(trial.method, trial.task)):
            found[trial.id] = str(trial)
    return found
