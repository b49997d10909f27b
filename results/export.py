"""Copy a store to a database or a folder that other programs open."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import uuid
from pathlib import Path

import duckdb

from results.errors import StoreError
from results.queries import views
from results.queries.databases import Connection
from results.queries.db import connect
from results.queries.messages import quoted
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
    "sqlite": (".sqlite", ".sqlite3"),
    "parquet": ("", ".parquet"),
    "csv": ("", ".csv"),
    "csv-raw": ("", ".csv"),
}
FORMS = tuple(_SUFFIXES)
_AS_IT_IS = ("VARCHAR", "DOUBLE", "BIGINT", "HUGEINT", "INTEGER", "BOOLEAN")
_AT_ONCE = 10_000  # rows in memory


def form_of(path: Path) -> str:
    """The form that a file's name asks for; a name without a suffix means Parquet.

    Args:
        path: File or folder to write.

    Returns:
        One of ``FORMS``.

    Raises:
        StoreError: If no form has such a suffix.
    """
    for form in ("duckdb", "sqlite", "parquet", "csv"):
        if path.suffix.lower() in _SUFFIXES[form]:
            return form
    excel = "; Excel opens CSV files" if path.suffix.startswith(".xls") else ""
    raise StoreError(
        f"{path}: no format for {path.suffix!r}; name a database .duckdb or .sqlite, "
        f"or a folder of tables .parquet or .csv{excel}"
    )


def export(store: Store, path: Path, form: str) -> None:
    """Write everything to one file or folder, which appears whole or not at all.

    Args:
        store: Store whose tables are copied.
        path: A new file (``duckdb``, ``sqlite``) or a new folder (the other forms).
        form: One of ``FORMS``; plain ``csv`` puts an apostrophe before texts that a
            spreadsheet would compute.

    Raises:
        StoreError: If ``path`` exists or cannot be written.
    """
    suffixes = _SUFFIXES[form]
    if path.suffix not in suffixes:
        allowed = " or ".join(one or "no suffix" for one in suffixes)
        raise StoreError(
            f"{path}: {form} needs {allowed}, not {path.suffix!r}; databases end in "
            ".duckdb or .sqlite, and Parquet and CSV make a folder (name it without a "
            "suffix)"
        )
    if path.exists():
        raise StoreError(f"{path} exists; name a new one, or delete it first")
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    write = {"duckdb": _database, "sqlite": _sqlite}.get(form, _tables)
    try:
        reading(store, lambda s: write(s, beside, form))
        beside.rename(path)
    except (OSError, duckdb.IOException, sqlite3.OperationalError) as why:
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
        for view in views.every():
            connection.execute(view.statement(read_once=False))


def _sqlite(store: Store, path: Path, form: str) -> None:
    """A database with one table for each view.

    SQLite has neither lists nor times: lists are JSON texts, and times are texts of UTC
    that its date functions read.
    """
    del form
    path.unlink(missing_ok=True)
    with connect(store) as source, contextlib.closing(sqlite3.connect(path)) as copy:
        comparison.fill(source, store)
        for view in _views(source):
            columns = source.execute(f"DESCRIBE {view}").fetchall()
            described = ", ".join(f'"{name}" {_affinity(k)}' for name, k, *_ in columns)
            copy.execute(f'CREATE TABLE "{view}" ({described})')
            chosen = ", ".join(_plain(name, kind) for name, kind, *_ in columns)
            rows = source.execute(f"SELECT {chosen} FROM {view}")
            marks = ", ".join("?" for _ in columns)
            while some := rows.fetchmany(_AT_ONCE):
                copy.executemany(f'INSERT INTO "{view}" VALUES ({marks})', some)
        copy.commit()


def _affinity(kind: str) -> str:
    """SQLite's type for one of DuckDB."""
    if kind == "DOUBLE":
        return "REAL"
    return "INTEGER" if kind in _AS_IT_IS and kind != "VARCHAR" else "TEXT"


def _plain(name: str, kind: str) -> str:
    """A column as a number or a text, in SQL."""
    if kind in _AS_IT_IS:
        return f'"{name}"'
    nested = kind.endswith("]") or kind.startswith("STRUCT")
    return f'to_json("{name}")::VARCHAR' if nested else f'"{name}"::VARCHAR'


def _views(connection: Connection) -> list[str]:
    """The names of the project's views, sorted."""
    found = connection.execute(
        "SELECT view_name FROM duckdb_views() "
        "WHERE schema_name = 'main' AND NOT internal ORDER BY view_name"
    )
    return [str(name) for (name,) in found.fetchall()]


def _tables(store: Store, path: Path, form: str) -> None:
    """A folder with one Parquet or CSV file for each view."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    options = "FORMAT parquet" if form == "parquet" else "FORMAT csv, HEADER"
    with connect(store) as connection:
        comparison.fill(connection, store)
        for view in _views(connection):
            target = quoted(str(path / f"{view}.{form.partition('-')[0]}"))
            rows = _spreadsheet_rows(connection, view) if form == "csv" else view
            connection.execute(f"COPY (FROM {rows}) TO {target} ({options})")


def _spreadsheet_rows(connection: Connection, view: str) -> str:
    """A view with its texts made harmless, as ``results.text.clean`` does in Python."""
    described = connection.execute(f"DESCRIBE {view}").fetchall()
    texts = [f'"{name}"' for name, kind, *_ in described if kind == "VARCHAR"]
    replaced = ", ".join(f"{_CELL.format(column=one)} AS {one}" for one in texts)
    return f"(SELECT * REPLACE ({replaced}) FROM {view})" if replaced else view
