"""Reads a store at one moment, beside runs, compactions and damaged files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import duckdb

from results.errors import StoreError
from results.queries.damage import ODD_ERRORS, damage
from results.schema import TABLES
from results.storage.store import Store

T = TypeVar("T")
_TRIES = 3  # of a read from a bucket whose answers were not what is stored


class RemoteReadError(OSError):
    """The bytes that came from a bucket are not the rows of a table."""


# Errors that a damaged file, or one that a compaction has just replaced, can cause.
_READ_ERRORS = (
    FileNotFoundError,
    RemoteReadError,
    duckdb.IOException,
    duckdb.InvalidInputException,
    duckdb.ConversionException,
    duckdb.SerializationException,
)


def reading(store: Store, read: Callable[[Store], T]) -> T:
    """Calls ``read`` on one snapshot of the store, again where that is needed.

    All that ``read`` asks of the store comes from the files that were listed at one
    moment. A compaction may replace some of them, and delete them, before they are
    read; then the files are listed again and ``read`` starts from the beginning. A file
    that cannot be read is moved to quarantine with a warning first.

    Args:
        store: The store. Where it is a snapshot already, ``read`` is called once, and
            the outer call is the one that repeats.
        read: Reads the snapshot from the beginning; may be called several times.

    Returns:
        The result of ``read``.

    Raises:
        StoreError: If a bucket keeps on answering with bytes that are not its files.
        duckdb.Error: If the files are whole and DuckDB cannot read them all the same.
    """
    if store.snapshot is not None:
        return read(store)
    harmed = 0
    while True:
        seen = store.at_this_moment()
        try:
            return _read_once(seen, read)
        except duckdb.PermissionException:
            # A locked connection says this of a file that is gone, too: it takes the
            # path for a folder of Parquet files, which it may not open.
            if not _lost_files(store, seen):
                raise
        except (*_READ_ERRORS, *ODD_ERRORS) as why:
            if isinstance(why, duckdb.Error) and not _is_of_reading(why):
                raise
            # Order of suspicion: a damaged file, a file that a compaction replaced,
            # bytes that changed on the way from a bucket, a file of other columns. Each
            # has its own remedy.
            _quarantine_damaged(store, seen, str(why))
            if _lost_files(store, seen):
                continue
            harmed += isinstance(why, RemoteReadError)
            if harmed >= _TRIES:
                raise StoreError(
                    f"the store {store.uri} answers with bytes that are not its files: "
                    f"{why}; nothing that is stored is lost, try again later"
                ) from why
            if harmed:
                continue
            if store.mixed or not isinstance(why, _READ_ERRORS):
                raise
            store.mixed = True  # whole files, of which one lacks columns


def _read_once(snapshot: Store, read: Callable[[Store], T]) -> T:
    """The result of ``read``, whose queries share databases."""
    databases: dict[tuple[object, ...], Any] = {}
    try:
        found = read(replace(snapshot, connections=databases))
        while databases:  # the next reading uses them again, unless this one failed
            databases.popitem()[1].release()
        return found
    finally:
        for database in databases.values():
            database.close()


def _lost_files(store: Store, seen: Store) -> bool:
    """Whether some file of a snapshot is no longer listed."""
    return any(set(seen.files(table)) - set(store.files(table)) for table in TABLES)


def _is_of_reading(why: duckdb.Error) -> bool:
    """Whether a damaged file can be behind an error, and not only the query."""
    vague = (duckdb.Error, duckdb.InternalException, duckdb.FatalException)
    return isinstance(why, _READ_ERRORS) or type(why) in vague


def _quarantine_damaged(store: Store, seen: Store, message: str) -> None:
    """Move what is not Parquet out of the readers' way; first what DuckDB names."""
    listed = [path for table in TABLES for path in seen.files(table)]
    named = [path for path in listed if path in message]
    # An error that names no file makes it necessary to read every one.
    for path in named or listed:
        reason = damage(store, path)
        if reason is not None:
            store.quarantine(path, reason)
