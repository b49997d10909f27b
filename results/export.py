"""Copy a store to a database or a folder that other programs open."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import duckdb

from results.errors import StoreError
from results.queries.db import connect, create_views, quoted
from results.queries.reading import reading
from results.schema import TABLES
from results.storage.store import Store
from results.tables import comparison


def export(store: Store, path: Path, form: str) -> None:
    """Write everything to one file or folder, which appears whole or not at all.

    Args:
        store: What to copy.
        path: A new file (``duckdb``) or a new folder (``parquet``, ``csv``).
        form: ``duckdb``, ``parquet`` or ``csv``.

    Raises:
        StoreError: If ``path`` exists or cannot be written.
    """
    if path.exists():
        raise StoreError(f"{path} exists; name a new one, or delete it first")
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    write = _database if form == "duckdb" else _tables
    try:
        reading(store, lambda s: write(s, beside, form))
        beside.rename(path)
    except (OSError, duckdb.IOException) as why:
        raise StoreError(f"{path} cannot be written: {why}") from why
    finally:
        if beside.is_dir():
            shutil.rmtree(beside)
        else:
            beside.unlink(missing_ok=True)


def _database(store: Store, path: Path, form: str) -> None:
    """A database with the rows as tables and the project's views over them."""
    del form
    path.unlink(missing_ok=True)
    with connect(store) as connection:
        comparison.fill(connection, store)
        connection.execute(f"ATTACH {quoted(str(path))} AS copy")
        connection.execute("CREATE SCHEMA copy.stored")
        for table in (*TABLES, "comparison"):
            connection.execute(
                f"CREATE TABLE copy.stored.{table} AS FROM memory.stored.{table}"
            )
        connection.execute("DETACH copy")
    with duckdb.connect(str(path)) as connection:
        create_views(connection)


def _tables(store: Store, path: Path, form: str) -> None:
    """A folder with one Parquet or CSV file for each view."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    options = "FORMAT parquet" if form == "parquet" else "FORMAT csv, HEADER"
    with connect(store) as connection:
        comparison.fill(connection, store)
        views = connection.execute(
            "SELECT view_name FROM duckdb_views() "
            "WHERE schema_name = 'main' AND NOT internal ORDER BY view_name"
        ).fetchall()
        for (view,) in views:
            target = quoted(str(path / f"{view}.{form}"))
            connection.execute(f"COPY (FROM {view}) TO {target} ({options})")
