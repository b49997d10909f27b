"""Fold a store's small files into large ones; no row is lost or doubled at any moment.

A compaction of a table writes, in this order, each step whole or not at all:

1. ``compacted/ID.json``: the names of the files that it folds;
2. ``compacted/ID.parquet``: their rows. This is the commit: from here on readers take
   this file and leave those names out (``Store.files``);
3. it deletes the folded files, then the list.

Killed before 2, the list is litter without effect; killed after, the next compaction
goes on deleting. Files that writers add meanwhile are not in the list.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import duckdb

from results.errors import StoreError
from results.queries.databases import Connection, lent
from results.queries.messages import quoted
from results.queries.reading import reading
from results.schema import TABLES
from results.storage import encoding, footers, temporary
from results.storage.folder import explained, fsync_folder
from results.storage.store import Store, folded_names

ENOUGH = 200_000  # rows; a larger file is left as it is
_ROW_GROUP = 30_000  # rows; bounds the memory of writers and readers
_AT_ONCE = 1_000  # files; DuckDB keeps the footers of all that one query reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """What a compaction did to one table.

    Args:
        table: Name of the table.
        before: Files that were read.
        rows: Rows that they held, all of which are in the new file.
    """

    table: str
    before: int
    rows: int


def compact(store: Store, at_least: int = 2) -> list[Folded]:
    """Fold the small files of every table.

    Args:
        store: Where to work; writers and readers may go on meanwhile.
        at_least: Tables with fewer small files are left as they are.

    Returns:
        What was folded, one entry per table that changed.

    Raises:
        StoreError: If another compaction is at work, or the disk is full; the rows
            are then where they were.
    """
    try:
        with alone(store):
            return _compact_tables(store, at_least)
    except OSError as why:  # another user's store, say
        raise explained(why, store.uri) from why


def _compact_tables(store: Store, at_least: int) -> list[Folded]:
    done = []
    for table in TABLES:
        # What a killed compaction left is done first, so that there is at most one list
        # of folded files at a time.
        finish_earlier(store, table)
        folded = reading(store, partial(_fold, table=table, at_least=at_least))
        if folded is not None:
            done.append(folded)
    return done


def _fold(store: Store, *, table: str, at_least: int) -> Folded | None:
    with lent(store, "") as connection:
        # Also compacted files, as long as they are small: their number would grow with
        # each run otherwise.
        small = [
            path
            for path in store.files(table)
            if "/compacted/" not in path or _rows(connection, store, [path]) < ENOUGH
        ]
        if len(small) < at_least:
            return None
        name = uuid.uuid4().hex
        target = f"{table}/compacted/{name}"
        # On the disk of the store, since ``publish`` renames it.
        beside = temporary.beside(store.here("scratch") / f"{name}.parquet")
        try:
            rows = _copy(connection, store, table, small, beside)
            written = _rows(connection, None, [str(beside)])
            if written != rows:  # never delete what was not written
                raise StoreError(
                    f"compacting {table} read {rows} rows, wrote {written}"
                )
            # Step 1 of the module's docstring; ``publish`` is step 2.
            store.folder.write(f"{target}.json", json.dumps(small).encode())
            publish(store, beside, f"{target}.parquet")
        except (duckdb.IOException, OSError) as why:
            if "space" in str(why):
                raise StoreError(
                    f"the store {store.uri} has no room to compact: {why}; nothing is "
                    "lost; free some space and type the same command again"
                ) from why
            raise
        finally:
            beside.unlink(missing_ok=True)
    delete_folded(store, table, name)
    return Folded(table=table, before=len(small), rows=rows)


def _copy(
    connection: Connection,
    store: Store,
    table: str,
    paths: list[str],
    to: Path,
) -> int:
    """Write all rows of some files to one, and count them first; holes become NULL."""
    connection.execute("SET enable_progress_bar = false")  # stdout is for rows
    connection.execute("SET preserve_insertion_order = false")
    parts: list[Path] = []
    rows = 0
    try:
        # In parts, which are joined at the end: memory is bounded by ``_AT_ONCE``
        # footers.
        for first in range(0, len(paths), _AT_ONCE):
            some = paths[first : first + _AT_ONCE]
            # Small files have their rows in the footer, which is much faster to read.
            # Rows of mixed columns go through DuckDB, which joins them by name.
            if table == "trials" and not store.mixed:
                parts.append(to.with_suffix(f".{len(parts)}"))
                read, some = _write_embedded(store, some, parts[-1])
                rows += read
            if some:
                parts.append(to.with_suffix(f".{len(parts)}"))
                rows += _rows(connection, store, some)
                _write(connection, listed(store, some), parts[-1], mixed=store.mixed)
        # A rename instead of a second copy.
        if len(parts) == 1:
            parts.pop().rename(to)
            return rows
        every = listed(None, [str(part) for part in parts])
        _write(connection, every, to, mixed=store.mixed)
        return rows
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _write_embedded(store: Store, paths: list[str], to: Path) -> tuple[int, list[str]]:
    """Write the rows that files embed: how many, and the paths of the other files."""
    import pyarrow.parquet as pq

    lines, left = footers.embedded_rows(store.folder, paths)
    try:
        read = encoding.table("trials", lines)
    except StoreError:  # a damaged copy: their columns say what it was
        read, left = encoding.table("trials", []), paths
    pq.write_table(read, to, compression="zstd", store_schema=False)
    return read.num_rows, left


def _write(connection: Connection, listed: str, to: Path, *, mixed: bool) -> None:
    union = "true" if mixed else "false"
    connection.execute(
        f"COPY (FROM read_parquet({listed}, union_by_name = {union}, "
        f"hive_partitioning = false)) "
        f"TO {quoted(str(to))} (FORMAT parquet, COMPRESSION zstd, "
        f"ROW_GROUP_SIZE {_ROW_GROUP})"
    )


def _rows(connection: Connection, store: Store | None, paths: list[str]) -> int:
    total = 0
    for first in range(0, len(paths), _AT_ONCE):
        some = listed(store, paths[first : first + _AT_ONCE])
        ((found,),) = connection.execute(
            f"SELECT count(*) FROM read_parquet({some}, hive_partitioning = false)"
        ).fetchall()
        total += int(found)
    return total


def listed(store: Store | None, paths: list[str]) -> str:
    """The list of files that ``read_parquet`` takes.

    Args:
        store: The store that the paths are relative to; None for whole paths.
        paths: Parquet files, relative to the store or whole.

    Returns:
        SQL.
    """
    base = f"{store.folder.local}/" if store else ""
    return "[" + ", ".join(quoted(base + path) for path in paths) + "]"


def publish(store: Store, beside: Path, target: str) -> None:
    """The commit: the file appears whole under its name, durable.

    Args:
        store: A store in a folder.
        beside: The written file, on the same disk.
        target: Its path in the store.
    """
    assert store.folder.local is not None
    with beside.open("rb+") as file:
        # Before the rename: a name must never stand for bytes that a power cut can
        # lose.
        os.fsync(file.fileno())
    beside.rename(store.folder.local / target)
    fsync_folder((store.folder.local / target).parent)  # before anything is deleted


def finish_earlier(store: Store, table: str) -> None:
    """Go on where a killed compaction stopped.

    Args:
        store: A store in which a compaction may have been killed.
        table: The table to look at.
    """
    names = store.folder.names(f"{table}/compacted")
    for name in names:
        if name.endswith(".json"):
            # Committed: the folded files are still to be deleted. Otherwise only the
            # list is.
            if f"{name[:-5]}.parquet" in names:
                delete_folded(store, table, name[:-5])
            else:
                store.folder.delete(f"{table}/compacted/{name}")


def delete_folded(store: Store, table: str, name: str) -> None:
    """Delete the files that a committed compaction replaces, then their list.

    Args:
        store: The store of the committed compaction.
        table: The table that it worked on.
        name: Of the compacted file, without its suffix.
    """
    path = f"{table}/compacted/{name}.json"
    for folded in folded_names(table, store.folder.read(path)):
        store.folder.delete(folded)
    store.folder.delete(path)


@contextlib.contextmanager
def alone(store: Store) -> Iterator[None]:
    """One compaction at a time; the lock dies with its process.

    Args:
        store: A store in a folder.

    Yields:
        Nothing, while the lock is held.

    Raises:
        StoreError: If another compaction is at work, or the store is in a bucket.
    """
    import fcntl

    if store.folder.local is None:
        raise StoreError(
            f"this works on a folder, and the store is {store.uri}; "
            "copy it to a disk, run the command there, and copy it back"
        )
    # A lock of the system and not a file that must be deleted: it ends with the
    # process.
    with (store.here("scratch") / "compact.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as why:
            raise StoreError(
                f"another compaction of {store.uri} is at work; wait for it to end"
            ) from why
        yield
