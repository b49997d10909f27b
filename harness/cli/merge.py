"""`merge`: join stores."""

from __future__ import annotations

import click


@click.command()
@click.argument("stores", nargs=-1, required=True, metavar="STORE...")
@click.option(
    "--into",
    required=True,
    metavar="STORE",
    help="Folder or URI of the store that gets the rows; made if it is missing.",
)
def merge(stores: tuple[str, ...], into: str) -> None:
    """Copy the trials of each STORE into another store.

    What the other store has already is not copied again, so the same command can be
    repeated: after a kill, or when a STORE has grown. Each STORE is only read.
    Checkpoints, statistics and kept networks are not copied.
    """
    from results.errors import NoStore
    from results.queries.merging import merge as join
    from results.storage.store import open_store
    from results.text.clean import clean
    from results.text.counts import counted

    sources = []  # opened before the other store is made
    for one in stores:
        try:
            sources.append(open_store(one))
        except NoStore as why:
            raise NoStore(
                f"no store at {one}: name the folder or URI of each store that "
                "`shrinkgrid run` filled"
            ) from why
    target = open_store(into, create=True)
    target.remove_unfinished()
    try:
        for source in sources:
            done = join(source, target)
            parts = [counted(done.attempts, "attempt"), counted(done.plans, "plan")]
            parts.append(counted(done.logs, "log"))
            were = "was" if done.present == 1 else "were"
            had = f"; {done.present} {were} there already" if done.present else ""
            click.echo(f"{clean(done.source)}: {', '.join(parts)} copied{had}")
    finally:
        for store in [*sources, target]:
            for warning in store.warnings:
                click.echo(f"warning: {clean(warning)}", err=True)
