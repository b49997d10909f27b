"""`status`, `list`, `why`, `doctor`: look at a run, plugins, a trial, a machine."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

import click

from harness.cli import _complete
from harness.cli._common import console, format_option, on_store, store_option

if TYPE_CHECKING:
    from rich.console import Console

    from results.storage.store import Store


@click.command()
@click.argument("grid", required=False, shell_complete=_complete.grids)
@click.option(
    "--watch",
    is_flag=False,
    flag_value="5",
    type=click.FloatRange(min=0.5),
    metavar="[SECONDS]",
    help="Show it again every 5 seconds, or every SECONDS, until Ctrl-C.",
)
@on_store
@format_option
def status(store: Store, grid: str | None, form: str, watch: float | None) -> int:
    """Show what is done, running, failed and missing.

    With GRID, of that grid; without it, of every grid of the store.
    """
    from harness.cli import COMPLETE

    if watch is None:
        return _status(grid, store, form)
    try:
        while True:
            click.clear()  # does nothing where the output is not a terminal
            click.echo(f"{datetime.now():%H:%M:%S}  Ctrl-C ends this")
            _status(grid, store, form)
            time.sleep(watch)
    except KeyboardInterrupt:
        return COMPLETE


def _status(grid: str | None, store: Store, form: str) -> int:
    """Print the status of one grid, or of all."""
    from harness.cli import COMPLETE
    from results.text.formats import render

    if grid is not None:
        return _status_of(grid, store, form)
    from harness.running.grid_status import running_trials
    from results.queries.grids import overview

    rows = overview(store, running_trials(store))
    click.echo(render(rows, form, ("planned_at", "unsupported")))
    return COMPLETE


def _status_of(name: str, store: Store, form: str) -> int:
    """Print the status of one grid."""
    from harness.cli import COMPLETE, TRIALS_FAILED
    from harness.running.grid_status import grid_status
    from results.queries.db import ask as query
    from results.text.counts import counted as number_of
    from results.text.formats import render

    found = grid_status(name, store)
    failed = found.failed
    if form == "json":
        whole = {"grid": found.name, **found.counts, "selected": found.selected}
        click.echo(json.dumps(whole))
        return TRIALS_FAILED if failed else COMPLETE
    counted = ", ".join(f"{n} {word}" for word, n in found.counts.items())
    click.echo(f"{found.name}: {counted}")
    if found.unseen:
        inputs = number_of(len(found.unseen), "input")
        click.echo(
            f"counted by the plan of the last run: this machine lacks {inputs} of the "
            f"grid (`shrinkgrid plan {name}` names what is missing)"
        )
    if found.selected is not None:
        total = sum(found.counts.values()) - found.counts["stale"]
        click.echo(f"the last run selected {found.selected} of {total} trials")
    if failed:
        ids = ", ".join(f"'{t}'" for t in sorted(failed))
        columns = "trial, method, model, task, ratio, status, error_class, reason"
        rows = query(store, f"SELECT {columns} FROM newest WHERE trial IN ({ids})")
        click.echo(render(rows, form))
    return TRIALS_FAILED if failed else COMPLETE


_LISTED = ["methods", "models", "tasks", "grids", "papers", "families"]
# Columns of plugins that a narrow terminal leaves out, first one first.
_DROPPED = ("options", "trained", "kinds", "gives", "needs", "kind")
_NAMED = 2  # matrices that stay dense; the reference page names all


class _PluralChoice(click.Choice[str]):
    """A choice of plural words that also takes the singular of each."""

    singular: ClassVar[dict[str, str]] = {"family": "families"}

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        plural = self.singular.get(str(value), f"{value}s")
        plural = plural if plural in self.choices else value
        return super().convert(plural, param, ctx)


@click.command("list")
@click.argument("what", type=_PluralChoice(_LISTED))
@click.option(
    "--store",
    default="measured",
    show_default=True,
    help="Store whose numbers count as measured in the list of papers; `measured` "
    "comes with the package.",
)
@format_option
def list_(what: str, store: str, form: str) -> None:
    """List the methods, models, tasks, grids, papers or families.

    A family is an architecture of language models in transformers. Methods treat it
    where at least 95 % of the weights of its blocks are in matrices of a known role
    (coverage); the other matrices stay dense. `partial: allow` on the line of a
    model makes methods treat a family "in part".
    """
    from results.text.answer import Answer
    from results.text.formats import render

    dropped: Sequence[str] = ()
    if what == "papers":
        rows, dropped = _papers(store)
    elif what in ("grids", "families"):
        rows = _grids() if what == "grids" else _families()
    else:
        rows = _plugins(what[:-1])
        dropped = [name for name in _DROPPED if name in rows[0]]
    columns = tuple(rows[0]) if rows else ()
    values = [tuple(row.values()) for row in rows]
    kinds = [_type_of(column) for column in zip(*values, strict=True)]
    answer = Answer(columns=columns, types=tuple(kinds), rows=values)
    click.echo(render(answer, form, dropped))
    if form == "table" and what in ("methods", "models", "tasks"):
        hint = "`shrinkgrid describe NAME` explains one of them and its options"
        click.echo(hint, err=True)


def _type_of(values: Sequence[Any]) -> str:
    """DuckDB's name of the type of a column, which says how to align it."""
    numbers = any(isinstance(value, int | float) for value in values)
    return "DOUBLE" if numbers else "VARCHAR"


def _plugins(kind: str) -> list[dict[str, Any]]:
    """A row for each plugin of a kind, from the memory where it has them."""
    from harness.planning import answers

    if not answers.usable():
        return _discovered(kind)
    entry = answers.recall("list", kind)
    if entry.content is None:
        entry.content = _discovered(kind)
        answers.keep(entry)
    rows: list[dict[str, Any]] = entry.content
    return rows


def _discovered(kind: str) -> list[dict[str, Any]]:
    from harness.options import fields
    from harness.registry import discover

    keys = {
        "method": ("ratio_of", "needs", "kinds"),
        "task": ("kind", "gives"),
        "model": ("kind", "gives", "trained"),
    }[kind]
    rows = []
    for name, plugin in discover(kind).items():
        facts = {k: _words(plugin.facts[k]) for k in keys}
        options = ", ".join(fields(plugin.cls)) or "-"
        rows.append({kind: name, "what": plugin.summary, **facts, "options": options})
    return rows


def _words(value: Any) -> str:
    if isinstance(value, frozenset):
        return ", ".join(sorted(value)) or "-"
    return {True: "yes", False: "no"}.get(value, str(value))


def _grids() -> list[dict[str, Any]]:
    from harness.planning import yaml_files
    from harness.planning.grid import packaged

    rows = []
    for name, path in packaged().items():
        about = yaml_files.read(path).get("description", "")
        rows.append({"grid": name, "what": " ".join(str(about).split())})
    return rows


def _families() -> list[dict[str, Any]]:
    from harness.models import _families

    rows = []
    for one in _families.known():
        more = len(one.dense) - _NAMED
        names = [*one.dense[:_NAMED], *([f"{more} more"] if more > 0 else [])]
        rows.append(
            {
                "family": one.family,
                "coverage": f"{one.coverage:.1%}",
                "treated": one.treated,
                "stays_dense": ", ".join(names) or "-",
            }
        )
    return rows


def _papers(store: str) -> tuple[list[dict[str, Any]], Sequence[str]]:
    """A row for each table of a paper, and the columns that may be left out."""
    from results.storage.store import open_store
    from results.tables.catalogue import DROPPED, catalogue

    return catalogue(open_store(store)), DROPPED


@click.command()
@click.argument("trial", shell_complete=_complete.trials)
@click.option("--grid", help="Look for the trial in this grid, not in the store.")
@on_store
def why(store: Store, trial: str, grid: str | None) -> None:
    """Say why TRIAL (an id, or its start) will run or will not."""
    from harness.planning.explain import explain
    from results.text.clean import clean

    for line in explain(trial, grid, store):
        click.echo(clean(line))


@click.command()
@store_option
def doctor(store: str) -> int:
    """Check this machine: packages, Ray, devices, disk, data."""
    from harness.cli import COMPLETE, USER_ERROR
    from harness.running.health import checks

    found = list(checks(store))
    _print_checks(found, console())
    return USER_ERROR if any(c.state == "bad" for c in found) else COMPLETE


def _print_checks(found: list[Any], out: Console) -> None:
    from rich.table import Table

    marks = {"good": "[green]ok[/]", "note": "[yellow]note[/]", "bad": "[red]bad[/]"}
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in found:
        table.add_row(marks[check.state], f"[bold]{check.name}[/]", check.says)
    out.print(table)
