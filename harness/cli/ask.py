"""Verbs that ask the store: leaderboard, sql, compact, export."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from results.store import Store

FORMATS = ["table", "csv", "json", "md"]


def on_store(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the option ``--store``, opened.

    What readers had to set aside is printed to stderr at the end.
    """

    @click.option(
        "--store",
        "uri",
        envvar="SHRINKGRID_STORE",
        default="store",
        show_default=True,
        help="Folder or URI of the store (or set SHRINKGRID_STORE).",
    )
    @functools.wraps(verb)
    def opened(uri: str, **arguments: Any) -> Any:
        from results.store import open_store

        store = open_store(uri)
        try:
            return verb(store, **arguments)
        finally:
            for warning in store.warnings:
                click.echo(f"warning: {warning}", err=True)

    return opened


_format = click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="How to print the rows.",
)


@click.command()
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
@click.option("--allow-unequal", is_flag=True, help="Let means be over unequal tasks.")
@_format
@on_store
def leaderboard(
    store: Store,
    form: str,
    mean: bool,
    allow_unequal: bool,
    **only: tuple[str, ...],
) -> None:
    """Print which method keeps how much, at which ratio: dense first, best marked."""
    from results import leaderboard as view
    from results.formats import render

    rows = view.read(store, **only)
    if mean:
        from results.summary import over_boards

        click.echo(render(over_boards(rows, allow_unequal=allow_unequal), form))
    elif form == "table":
        click.echo(view.boards(rows))
    else:
        click.echo(render(rows, form))


@click.command()
@click.argument("query")
@_format
@on_store
def sql(store: Store, query: str, form: str) -> None:
    """Ask the store one SELECT; nothing is ever written.

    `shrinkgrid sql "show tables"` lists the views, `shrinkgrid sql "describe
    leaderboard"` the columns of one. A QUERY of `-` is read from stdin.
    """
    from results import db
    from results.formats import render

    text = sys.stdin.read() if query == "-" else query
    click.echo(render(db.query(store, text), form))


@click.command()
@on_store
def compact(store: Store) -> None:
    """Fold the store's small files into large ones; safe beside a run."""
    from results.compaction import compact as fold

    done = fold(store)
    for one in done:
        click.echo(f"{one.table}: {one.before} files -> 1, {one.rows} rows")
    if not done:
        click.echo("nothing to fold")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["duckdb", "parquet", "csv"]),
    help="By default what FILE's suffix says: .duckdb, else a folder of Parquet.",
)
@on_store
def export(store: Store, file: Path, form: str | None) -> None:
    """Copy the store to FILE: a database with all views, or a folder of tables.

    A .duckdb file opens in the plain duckdb client; parquet and csv make a folder
    with one file a view.
    """
    from results.export import export as copy

    kind = form or ("duckdb" if file.suffix in (".duckdb", ".db") else "parquet")
    copy(store, file, kind)
    click.echo(f"wrote {file}", err=True)
