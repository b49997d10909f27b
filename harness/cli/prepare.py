"""`prepare`: fetch and pin what a grid reads, so that workers run offline."""

from __future__ import annotations

import click

from harness.cli import _complete


@click.command()
@click.argument("grid", shell_complete=_complete.grids)
@click.option(
    "--no-load",
    is_flag=True,
    help="Look for the files of models only, where their weights do not fit.",
)
def prepare(grid: str, no_load: bool) -> None:
    """Download what GRID needs, check it offline, write GRID.lock.

    The lock lies beside the grid, or in the current folder for a packaged one. While it
    is there, `plan` and `run` refuse data of another revision.
    """
    from harness.planning import lock, prepare
    from harness.planning.grid import locate

    path = locate(grid)
    where = prepare.prepare(
        path, load=not no_load, say=lambda line: click.echo(line, err=True)
    )
    for name, revision in sorted(lock.read(path).items()):
        click.echo(f"{name}  {revision}")
    click.echo(f"locked in {where}", err=True)
