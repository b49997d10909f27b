"""Commands that ask the store: leaderboard, sql, compact, export."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli import _complete
from harness.cli._common import format_option, on_store

if TYPE_CHECKING:
    from results.storage.store import Store
    from results.text.answer import Answer


@click.command()
@click.argument("grid", required=False, shell_complete=_complete.stored_grids)
@click.option(
    "--ratio", "ratios", type=float, multiple=True, help="Only this ratio; may repeat."
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only the best N ranks of each ratio, beside dense.",
)
@click.option(
    "--where",
    metavar="EXPR",
    help='Only rows for which this SQL holds: "recovery > 0.9 AND bytes < 1e8".',
)
@click.option(
    "--sort",
    metavar="COLUMN",
    help="Order by this column of the view: bytes, or --sort=-recovery for the largest "
    "first.",
)
@click.option("--model", multiple=True, help="Only this model; may be repeated.")
@click.option("--task", multiple=True, help="Only this task; may be repeated.")
@click.option(
    "--metric",
    multiple=True,
    help="This metric in place of each task's first; `all` shows every one.",
)
@click.option("--method", multiple=True, help="Only this method; may be repeated.")
@click.option(
    "--mean", is_flag=True, help="One row a method: mean recovery and rank over tasks."
)
@click.option(
    "--groups",
    metavar="NAME|FILE",
    help="One row a method: mean recovery in each group of tasks, as capability or a "
    "YAML file lists them.",
)
@click.option("--allow-unequal", is_flag=True, help="Let means be over unequal tasks.")
@click.option("--protocol", multiple=True, help="Only this protocol; may be repeated.")
@click.option(
    "--allow-mixed",
    is_flag=True,
    help="Rank numbers of different protocols, or of different hosts, together.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "md", "latex", "html", "csv", "csv-raw", "json"]),
    default="table",
    show_default=True,
    help="How to print: md, latex and html have the columns of the table; csv and json "
    "have every column of the view, with all digits (csv-raw leaves texts that a "
    "spreadsheet would compute as they are).",
)
@on_store
def leaderboard(
    store: Store,
    grid: str | None,
    form: str,
    mean: bool,
    groups: str | None,
    **options: Any,
) -> None:
    """Print which method keeps how much, at which ratio.

    Dense is first. Of each ratio the best is marked with ★, and with † what a test does
    not tell from it. With GRID, the name of a grid that was
    run, only its trials. Numbers of different protocols stand on boards of their own;
    for times and memory the host, the device and the threads are part of the protocol.
    """
    from results.boards import board_text, narrowing
    from results.boards import leaderboard as view
    from results.queries import protocols
    from results.text.formats import render

    order = options.pop("sort")
    unequal, mixed = options.pop("allow_unequal"), options.pop("allow_mixed")
    # Only the texts have marks, and numbers of several protocols no common test.
    tested = form not in ("csv", "csv-raw", "json") and not (mixed or mean or groups)
    rows = _chosen(store, grid, options, tested=tested)
    if mixed:
        rows = view.together(rows)
    if order is not None:
        rows = narrowing.sorted_by(rows, order)
    if mean or groups is not None:
        if mean and groups is not None:
            raise click.UsageError("give --mean or --groups, not both")
        if form in ("latex", "html"):
            one = "--mean" if mean else "--groups"
            raise click.UsageError(f"{one} prints table, md, csv or json, not {form}")
        click.echo(_means(rows, groups, form, unequal=unequal, mixed=mixed))
    elif form == "table" or form in board_text.FORMATS:
        fields = protocols.stored(store, view.rival_protocols(rows))
        boards = view.listed(rows, fields, mixed=mixed)
        if form == "table":
            click.echo(view.boards(boards, ruled=order is None))
        else:
            click.echo(board_text.render(boards, form))
    else:
        click.echo(render(rows, form))


def _means(
    rows: Answer, groups: str | None, form: str, *, unequal: bool, mixed: bool
) -> str:
    """Means over all tasks, or over those of each group, as text."""
    from results.boards import group_means
    from results.boards.mean_ranks import over_boards
    from results.text.formats import render

    if groups is None:
        means = over_boards(rows, allow_unequal=unequal, across_protocols=mixed)
        return render(means, form)
    means = group_means.by_group(rows, group_means.read_groups(groups))
    if form == "table":
        return group_means.table(means, rows)
    return render(means, form)


def _chosen(
    store: Store, grid: str | None, options: dict[str, Any], *, tested: bool
) -> Answer:
    """The rows of the leaderboard that the options choose, with marks if tested."""
    from results.ask import query as select
    from results.boards import leaderboard as view
    from results.boards import narrowing
    from results.boards.marks import marked
    from results.errors import StoreError

    ratios, top, where = (options.pop(name) for name in ("ratios", "top", "where"))
    methods = options.pop("method")
    rows = view.read(store, **options)
    if tested:  # before anything is left out: the number of rivals enters the test
        rows = marked(store, rows)
    rows = narrowing.of_methods(rows, methods)
    if grid is not None:
        rows = narrowing.of_grid(store, rows, grid)
    if where is not None:
        found = select(store, f"SELECT * FROM leaderboard WHERE ({where})")
        kept, width = set(found.rows), len(found.columns)
        rows = replace(rows, rows=[row for row in rows.rows if row[:width] in kept])
        if not rows.rows:
            raise StoreError(f"no row of the leaderboard fits --where {where!r}")
    return narrowing.narrowed(rows, ratios=ratios, top=top)


@click.command()
@click.argument("query")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Stop the query after this time (60, or SHRINKGRID_SQL_TIMEOUT).",
)
@click.option(
    "--memory",
    type=click.FloatRange(min=0.1),
    metavar="GIB",
    help="Memory that the query may use (by default a quarter of this machine's).",
)
@format_option
@on_store
def sql(
    store: Store, query: str, timeout: float | None, memory: float | None, form: str
) -> None:
    """Answer one SELECT from the store; nothing is ever written.

    `shrinkgrid sql "show tables"` lists the views, `shrinkgrid sql "describe
    leaderboard"` the columns of one. A QUERY of `-` is read from stdin.
    """
    from results import ask
    from results.queries.isolated import Limits
    from results.text.formats import render

    text = sys.stdin.buffer.read() if query == "-" else query
    limits = Limits.of(timeout, memory)
    click.echo(render(ask.query(store, text, limits), form))


@click.command()
@on_store
def compact(store: Store) -> None:
    """Merge the store's small files; safe while a run is active."""
    from results.queries.compaction import compact as fold
    from results.text.counts import counted

    done = fold(store)
    for one in done:
        click.echo(
            f"{one.table}: {counted(one.before, 'file')} -> 1, "
            f"{counted(one.rows, 'row')}"
        )
    if not done:
        click.echo("nothing to fold")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["duckdb", "sqlite", "parquet", "csv", "csv-raw"]),
    help="By default what FILE's suffix says: .duckdb, .sqlite, .parquet or .csv; a "
    "folder of Parquet if it has none.",
)
@on_store
def export(store: Store, file: Path, form: str | None) -> None:
    """Copy the store to FILE: a database, or a folder of tables.

    A .duckdb file has the rows and the views over them; a .sqlite file has one table
    for each view. parquet and csv make a folder with one file for each view.
    """
    from results.export import export as copy
    from results.export import form_of

    copy(store, file, form or form_of(file))
    click.echo(f"wrote {file}", err=True)
