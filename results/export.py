"""Copy a store to a database or a folder that other programs open."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import duckdb

from results.errors import StoreError
from results.queries.db import Connection, connect, create_views, quoted
from results.queries.reading import reading
from results.schema import TABLES
from results.storage.store import Store
from results.tables import comparison

# One text column in DuckDB's words: without harmful characters, and with an apostrophe
# before what a spreadsheet would compute. See ``results.text.clean``.
_CELL = r"""
CASE WHEN regexp_matches(
              {column}, '^\s*[=+\-@\x{{ff1d}}\x{{ff0b}}\x{{ff0d}}\x{{ff20}}]')
      AND NOT regexp_full_match({column}, '[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?%?')
     THEN chr(39) ELSE '' END
|| regexp_replace(
    {column},
    '[\x00-\x08\x0b-\x1f\x7f-\x{{9f}}\x{{61c}}\x{{200e}}\x{{200f}}\x{{2028}}-\x{{202e}}'
    || '\x{{2066}}-\x{{2069}}\x{{feff}}]',
    '', 'g')
"""


_SUFFIXES = {
    "duckdb": (".duckdb", ".db"),
    "parquet": ("", ".parquet"),
    "csv": ("", ".csv"),
    "csv-raw": ("", ".csv"),
}


def export(store: Store, path: Path, form: str) -> None:
    """Write everything to one file or folder, which appears whole or not at all.

    Args:
        store: Store whose tables are copied.
        path: A new file (``duckdb``) or a new folder (the other forms).
        form: ``duckdb``, ``parquet``, ``csv`` or ``csv-raw``; plain ``csv`` puts an
            apostrophe before texts that a spreadsheet would compute.

    Raises:
        StoreError: If ``path`` exists or cannot be written.
    """
    suffixes = _SUFFIXES[form]
    if path.suffix not in suffixes:
        allowed = " or ".join(one or "no suffix" for one in suffixes)
        raise StoreError(
            f"{path}: {form} needs {allowed}, not {path.suffix!r}; a database ends in "
            ".duckdb, and Parquet and CSV make a folder (name it without a suffix)"
        )
    if path.exists():
        raise StoreError(f"{path} exists; name a new one, or delete it first")
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    write = _database if form == "duckdb" else _tables
    try:
        reading(store, lambda s: write(s, beside, form))
        beside.rename(path)
    except (OSError, duckdb.IOException) as why:
        said = getattr(why, "strerror", None) or str(why)
        raise StoreError(f"{path} cannot be written: {said}") from why
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
        # The views are made in a second connection, where the copy is the main
        # database: they name no other one then.
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
            target = quoted(str(path / f"{view}.{form.partition('-')[0]}"))
            rows = _spreadsheet_rows(connection, view) if form == "csv" else view
            connection.execute(f"COPY (FROM {rows}) TO {target} ({options})")


def _spreadsheet_rows(connection: Connection, view: str) -> str:
    """A view with its texts made harmless, as ``results.text.clean`` does in Python."""
    described = connection.execute(f"DESCRIBE {view}").fetchall()
    texts = [f'"{name}"' for name, kind, *_ in described if kind == "VARCHAR"]
    replaced = ", ".join(f"{_CELL.format(column=one)} AS {one}" for one in texts)
    return f"(SELECT * REPLACE ({replaced}) FROM {view})" if replaced else view
