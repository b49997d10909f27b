"""`rm`: remove trials from a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from harness.cli import _complete
from harness.cli._common import on_store

if TYPE_CHECKING:
    from results.storage.store import Store

_SHOWN = 20  # trials that a dry run lists
_COLUMNS = "trial, method, model, task, ratio, seed, status"


@click.command()
@click.option("--grid", shell_complete=_complete.stored_grids, help="Trials of a grid.")
@click.option(
    "--where",
    metavar="EXPR",
    help="Trials for which this SQL over the view newest holds: \"method = 'svd' AND "
    "status = 'failed'\".",
)
@click.option("--apply", is_flag=True, help="Remove them; without it only list.")
@on_store
def rm(store: Store, grid: str | None, where: str | None, apply: bool) -> None:
    """List trials to remove; --apply removes them.

    All attempts of a trial go, with their samples and logs. Trials of --grid that
    another grid has too stay. Without --where, the plans of --grid go as well, and
    `status` does not list the grid any more. Checkpoints and statistics stay; see `gc`.
    """
    from harness.core import BenchError
    from results.queries.removal import remove
    from results.storage import leases
    from results.text.counts import counted

    if grid is None and where is None:
        raise click.UsageError("say which trials: --grid GRID, --where EXPR, or both")
    if apply and any(one.alive() is not False for one in leases.read_all(store)):
        raise BenchError(
            f"a run works on {store.uri}; remove trials when it has ended "
            "(`shrinkgrid status`)"
        )
    trials, shared = _chosen(store, grid, where)
    _list(store, trials)
    if shared:
        click.echo(f"{counted(len(shared), 'trial')} of other grids too: kept")
    said = counted(len(trials), "trial")
    if not apply:
        click.echo(f"{said} would be removed (--apply does it)")
        return
    remove(store, trials, grid if where is None else None)
    click.echo(f"{said} removed")


def _chosen(
    store: Store, grid: str | None, where: str | None
) -> tuple[set[str], set[str]]:
    """The trials to remove, and those of the grid that another grid has too."""
    from results.ask import query
    from results.errors import StoreError
    from results.queries import grids
    from results.queries.removal import trials_of

    condition = "true" if where is None else where
    rows = query(store, f"SELECT trial FROM newest WHERE ({condition})").rows
    chosen, shared = {str(trial) for (trial,) in rows}, set[str]()
    if grid is not None:
        own, common = trials_of(store, grid)
        if not own and not common:
            raise grids.unknown(store, grid, [])
        chosen, shared = chosen & own, chosen & common
    if not chosen and where is not None:
        raise StoreError(f"no trial fits --where {where!r}")
    return chosen, shared


def _list(store: Store, trials: set[str]) -> None:
    """Print the first of the trials, and how many more there are."""
    from dataclasses import replace

    from results.queries.db import ask
    from results.text.formats import render

    wanted = f"SELECT {_COLUMNS} FROM newest WHERE trial IN (SELECT unnest($1))"
    order = "ORDER BY method, model, task, ratio, seed"
    found = ask(store, f"{wanted} {order}", [sorted(trials)])
    if found.rows:
        click.echo(render(replace(found, rows=found.rows[:_SHOWN]), "table"))
    if len(found.rows) > _SHOWN:
        click.echo(f"... and {len(found.rows) - _SHOWN:,} more")
