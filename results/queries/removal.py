"""Removes trials from a store; what stays is never in doubt, whenever it is killed.

The files that hold rows of these trials are replaced by one file without them, in the
steps of a compaction (``results.queries.compaction``): until its commit everything is
there, afterwards nothing that was to go.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Collection
from pathlib import Path

import duckdb

from results.errors import StoreError
from results.queries import compaction
from results.queries.db import ask
from results.queries.messages import quoted
from results.storage import logs, temporary
from results.storage.folder import explained
from results.storage.store import Store

_BUNDLES = """
SELECT DISTINCT bundle FROM trials WHERE trial IN (SELECT unnest($1::VARCHAR[]))
"""
# Tables with parts of an attempt.
_PARTS = ("samples", "layers")
_ORPHANS = """
SELECT DISTINCT attempt FROM {} ANTI JOIN trials USING (attempt)
"""
_SHARED = """
SELECT bundle FROM trials WHERE bundle IS NOT NULL
AND trial NOT IN (SELECT unnest($1::VARCHAR[]))
"""
_OF_GRID = """
SELECT DISTINCT trial, bool_or(grid IS DISTINCT FROM $1) AS shared
FROM plans GROUP BY trial HAVING bool_or(grid IS NOT DISTINCT FROM $1)
"""


def trials_of(store: Store, grid: str) -> tuple[set[str], set[str]]:
    """The trials of a grid, from all of its plans.

    Args:
        store: Where the grid was run.
        grid: Name of the grid.

    Returns:
        The trials that no other grid has, and those that another grid has too.
    """
    rows = ask(store, _OF_GRID, [grid]).rows
    return (
        {trial for trial, shared in rows if not shared},
        {trial for trial, shared in rows if shared},
    )


def remove(store: Store, trials: Collection[str], grid: str | None = None) -> None:
    """Remove all attempts of some trials, with their samples, layers and logs.

    Args:
        store: A store in a folder, in which nothing runs.
        trials: Ids of the trials.
        grid: Name of a grid whose plans are removed too; None keeps all plans.

    Raises:
        StoreError: If a compaction is at work, or the disk is full; what was not
            removed yet is still there, and the same call goes on. After a call that was
            killed, logs without a trial may stay.
    """
    gone = sorted(trials)
    bundles = {one for (one,) in ask(store, _BUNDLES, [gone]).rows}
    # A log belongs to a bundle, which may also have trials that stay.
    kept = {one for (one,) in ask(store, _SHARED, [gone]).rows}
    try:
        with compaction.alone(store):
            # Trials first: a sample or a log without its trial is invisible, and a
            # trial without its samples would be a damaged one.
            _rewrite(store, "trials", "trial", gone)
            # Also those that an earlier call left when it was killed between the two.
            for table in _PARTS:
                orphans = [one for (one,) in ask(store, _ORPHANS.format(table)).rows]
                _rewrite(store, table, "attempt", orphans)
            if grid is not None:
                _rewrite(store, "plans", "grid", [grid])
    except (duckdb.IOException, OSError) as why:
        if isinstance(why, OSError):
            raise explained(why, store.uri) from why
        raise StoreError(f"the store {store.uri} cannot be changed: {why}") from why
    for name in logs.names(store):
        if name.partition("-")[0] in bundles - kept:
            store.folder.delete(f"logs/{name}")


def _rewrite(store: Store, table: str, column: str, gone: list[str]) -> None:
    """Replace the files that hold some rows by one without these rows."""
    compaction.finish_earlier(store, table)
    paths = store.files(table)
    if not paths or not gone:
        return
    with contextlib.closing(duckdb.connect()) as connection:
        connection.execute("SET enable_progress_bar = false")
        connection.execute(
            "CREATE TEMP TABLE gone AS SELECT unnest($1::VARCHAR[]) AS id", [gone]
        )
        # Files without such a row stay as they are.
        held = _holding(connection, store, paths, column)
        if not held:
            return
        name = uuid.uuid4().hex
        target = f"{table}/compacted/{name}"
        beside = temporary.beside(store.here("scratch") / f"{name}.parquet")
        try:
            _copy(connection, store, held, column, beside)
            # Counted before the commit, after which the old files are deleted.
            _check(connection, store, held, column, beside)
            store.folder.write(f"{target}.json", json.dumps(held).encode())
            compaction.publish(store, beside, f"{target}.parquet")
        finally:
            beside.unlink(missing_ok=True)
    compaction.delete_folded(store, table, name)


def _holding(
    connection: duckdb.DuckDBPyConnection, store: Store, paths: list[str], column: str
) -> list[str]:
    """The files with a row that goes."""
    found = connection.execute(
        f"SELECT DISTINCT filename FROM {_read(store, paths, named=True)} "
        f'WHERE "{column}" IN (SELECT id FROM gone)'
    ).fetchall()
    names = {name for (name,) in found}
    return [path for path in paths if f"{store.folder.local}/{path}" in names]


def _copy(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    paths: list[str],
    column: str,
    to: Path,
) -> None:
    """Write the rows that stay to one file."""
    connection.execute(
        f"COPY (FROM {_read(store, paths)} "
        f'WHERE "{column}" IS NULL OR "{column}" NOT IN (SELECT id FROM gone)) '
        f"TO {quoted(str(to))} (FORMAT parquet, COMPRESSION zstd)"
    )


def _check(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    paths: list[str],
    column: str,
    written: Path,
) -> None:
    """Raise an error if a row that stays was not written: its files are deleted."""
    ((stay, wrote),) = connection.execute(
        f"SELECT (SELECT count(*) FROM {_read(store, paths)} "
        f'WHERE "{column}" IS NULL OR "{column}" NOT IN (SELECT id FROM gone)), '
        f"(SELECT count(*) FROM read_parquet({quoted(str(written))}, "
        "hive_partitioning = false))"
    ).fetchall()
    if stay != wrote:
        raise StoreError(f"{stay} rows stay, and {wrote} were written")


def _read(store: Store, paths: list[str], *, named: bool = False) -> str:
    union = "true" if store.mixed else "false"
    filename = ", filename = true" if named else ""
    return (
        f"read_parquet({compaction.listed(store, paths)}, union_by_name = {union}, "
        f"hive_partitioning = false{filename})"
    )
