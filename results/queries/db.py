"""DuckDB over a store: the views of results/sql, and queries that can only read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any, TypeAlias, TypeVar

import duckdb

from results.errors import StoreError
from results.queries.damage import ODD_ERRORS, damage
from results.schema import TABLES, arrow, ddl
from results.storage import encoding, footers
from results.storage.store import Store
from results.text.answer import Answer

T = TypeVar("T")
Connection: TypeAlias = duckdb.DuckDBPyConnection
Fill = Callable[[Connection, Store], None]
_MANY_FILES = 500
# The columns of the views `published` and `comparison`.
COMPARISON = """
paper_table VARCHAR, paper VARCHAR, source VARCHAR, label VARCHAR, heading VARCHAR,
method VARCHAR, model VARCHAR, ratio DOUBLE, task VARCHAR, metric VARCHAR,
printed VARCHAR, value DOUBLE, measured DOUBLE, low DOUBLE, high DOUBLE, seeds BIGINT,
verdict VARCHAR, reason VARCHAR
"""
# Errors that a damaged file, or one that a compaction has just replaced, can cause.
_READ_ERRORS = (
    FileNotFoundError,
    duckdb.IOException,
    duckdb.InvalidInputException,
    duckdb.ConversionException,
    duckdb.SerializationException,
)


def connect(store: Store) -> duckdb.DuckDBPyConnection:
    """A fresh in-memory database with every view over a store.

    The views read the files that the store lists at this moment, where they lie.
    Times are UTC without a zone. An empty store gives empty, typed views.

    Args:
        store: Local, or in a bucket; the rows of the latter are read into memory.

    Returns:
        The connection, yours to close.
    """
    return reading(store, _connect)


def reading(store: Store, read: Callable[[Store], T]) -> T:
    """What ``read`` returns, once nothing damaged is in its way.

    A file that cannot be read is set aside with a warning, and one that a compaction
    has replaced meanwhile is listed anew; then ``read`` is called again.

    Args:
        store: Handed to ``read``.
        read: Reads the store from the beginning; may be called several times.

    Returns:
        Its result.

    Raises:
        duckdb.Error: If the files are whole and DuckDB cannot read them all the same.
    """
    while True:
        listed = _listing(store)
        try:
            return read(store)
        except (*_READ_ERRORS, *ODD_ERRORS) as why:
            if isinstance(why, duckdb.Error) and not _is_of_reading(why):
                raise
            _set_damaged_aside(store, str(why))
            if _listing(store) != listed:
                continue
            if store.mixed or not isinstance(why, _READ_ERRORS):
                raise
            store.mixed = True  # whole files, of which one lacks columns


def _is_of_reading(why: duckdb.Error) -> bool:
    """Whether a damaged file can be behind an error, and not only the query."""
    vague = (duckdb.Error, duckdb.InternalException, duckdb.FatalException)
    return isinstance(why, _READ_ERRORS) or type(why) in vague


def ask(
    store: Store, query: str, parameters: Sequence[Any] = (), *, through: str = "~"
) -> Answer:
    """Rows of one of the project's own queries, over views as they stand now.

    Args:
        store: Where to read.
        query: Trusted SQL; a person's goes through ``query``.
        parameters: Values of ``?`` and ``$n``.
        through: Views of later scripts are left out, which saves their set-up.

    Returns:
        The answer.
    """

    def read(store: Store) -> Answer:
        with _connect(store, through) as connection:
            return _answer(connection, query, parameters)

    return reading(store, read)


def query(store: Store, sql: str, *, fill: Fill | None = None) -> Answer:
    """Rows of a person's query; nothing can be written, and no other file read.

    Args:
        store: Where to read.
        sql: One SELECT statement (or DESCRIBE, SHOW, SUMMARIZE).
        fill: Inserts the rows of ``stored.comparison``, which takes a second; it is
            called only for a query whose plan reads that table.

    Returns:
        The answer.

    Raises:
        StoreError: If the statement is anything else, reaches for another file, or is
            no SQL; the message says what is allowed.
    """

    def read(store: Store) -> Answer:
        with _connect(store) as connection:
            _require_select(connection, sql)
            if fill is not None and _reads_comparison(connection, sql):
                fill(connection, store)
            _lock(connection, store)
            return _answer(connection, sql)

    try:
        return reading(store, read)
    except duckdb.PermissionException as why:
        raise StoreError(
            f"this reaches outside the store: {_first_line(why)}; a query reads the "
            "store's views only"
        ) from why
    except duckdb.Error as why:
        raise StoreError(
            f"{_first_line(why)} (`shrinkgrid sql 'show tables'` lists "
            "the views, `describe VIEW` their columns)"
        ) from why


def _connect(store: Store, through: str = "~") -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
        }
    )
    try:
        connection.execute("SET enable_progress_bar = false")  # stdout is for rows
        connection.execute("CREATE SCHEMA empty; CREATE SCHEMA fetched")
        connection.execute("CREATE SCHEMA stored")
        connection.execute(f"CREATE TABLE stored.comparison ({COMPARISON})")
        opened = {t: _create_stored(connection, store, t) for t in TABLES}
        create_views(connection, through, opened["trials"] > _MANY_FILES)
    except BaseException:
        connection.close()
        raise
    return connection


def create_views(
    connection: Connection, through: str = "~", many_files: bool = False
) -> None:
    """Create the views of ``results/sql``, in the order of their numbers.

    Args:
        connection: Has ``stored.trials``, ``stored.samples`` and ``stored.plans``.
        through: The last script by name, without its suffix; all by default.
        many_files: Opening files takes the time, not reading them: read each once.
    """
    scripts = [
        script
        for script in files("results.sql").iterdir()
        if script.name.endswith(".sql") and script.name <= f"{through}.sql"
    ]
    for script in sorted(scripts, key=lambda f: f.name):
        text = script.read_text(encoding="utf-8")
        if not many_files:
            text = text.replace("AS MATERIALIZED", "AS NOT MATERIALIZED")
        connection.execute(text)


def _create_stored(connection: Connection, store: Store, table: str) -> int:
    """A view ``stored.TABLE`` over a table's files; how many of them it opens."""
    connection.execute(f"CREATE TABLE empty.{table} ({ddl(table)})")
    sources = [f"empty.{table}"]
    paths = store.files(table)
    if paths and store.folder.local is None:
        _read_remote(connection, store, table)
        sources = [f"fetched.{table}"]
    elif paths:
        if table == "trials" and len(paths) > _MANY_FILES:
            paths = _read_copies(connection, store, paths)
            sources = ["fetched.trials"]
        if paths:
            listed = ", ".join(quoted(f"{store.folder.local}/{p}") for p in paths)
            mixed = "true" if store.mixed else "false"
            files = f"read_parquet([{listed}], union_by_name = {mixed})"
            # Older files lack columns, which are then NULL.
            whole = not store.mixed and sources == [f"empty.{table}"]
            sources = [files] if whole else [*sources, files]
    source = " UNION ALL BY NAME ".join(f"FROM {one}" for one in sources)
    times = [name for name, kind in TABLES[table].items() if kind == "TIMESTAMPTZ"]
    naive = ", ".join(f"make_timestamp(epoch_us({t})) AS {t}" for t in times)
    replaced = f" REPLACE ({naive})" if times else ""
    connection.execute(
        f"CREATE VIEW stored.{table} AS SELECT *{replaced} FROM ({source})"
    )
    return len(paths)


def _read_copies(
    connection: Connection, store: Store, paths: Sequence[str]
) -> list[str]:
    """Read many one-row files into memory; the paths of the others are returned."""
    small = [path for path in paths if "/compacted/" not in path]
    copies, left = footers.copies(store.folder, small)
    try:
        read = encoding.table("trials", copies, exact=False)
    except StoreError:  # a damaged copy: none of them is worth a guess
        read, left = arrow("trials").empty_table(), small
    connection.register("arrow_rows", read)
    connection.execute("CREATE TABLE fetched.trials AS FROM arrow_rows")
    connection.unregister("arrow_rows")
    return [path for path in paths if "/compacted/" in path] + left


def _read_remote(connection: Connection, store: Store, table: str) -> None:
    """Read a table that lies in a bucket into memory, through pyarrow."""
    from pyarrow import dataset

    place: Any = store.folder
    found = dataset.dataset(
        [f"{place.root}/{path}" for path in store.files(table)],
        schema=arrow(table),
        format="parquet",
        filesystem=place.filesystem,
    )
    connection.register("arrow_rows", found.to_table())
    connection.execute(f"CREATE TABLE fetched.{table} AS FROM arrow_rows")
    connection.unregister("arrow_rows")


def _reads_comparison(connection: Connection, sql: str) -> bool:
    """Whether a query reads ``stored.comparison``, through whichever views.

    The plan before optimisation says so; the optimiser would drop the table, which is
    still empty. Where DuckDB cannot explain the statement, the answer is yes: a second
    lost is better than an empty table.
    """
    connection.execute("SET explain_output = 'all'")
    try:
        plans = connection.execute(f"EXPLAIN (FORMAT json) {sql}").fetchall()
    except duckdb.Error:
        return True
    plan = next(text for kind, text in plans if kind == "logical_plan")
    return re.search(r'"Table": "[^\n]*\.comparison"', plan) is not None


def _require_select(connection: Connection, sql: str) -> None:
    """Refuse everything but one SELECT, by DuckDB's own parser."""
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise StoreError(f"one SELECT statement at a time, not {len(statements)}")
    try:
        kind = statements[0].type.name
    except ValueError:  # a type that DuckDB's Python client has no name for
        kind = "OTHER"
    if kind != "SELECT":
        raise StoreError(
            f"a query of the store only reads, and this is a statement of type "
            f"{kind}; write one SELECT "
            "(`shrinkgrid export FILE.duckdb` gives a database of your own to change)"
        )


def _lock(connection: Connection, store: Store) -> None:
    """From here on the connection reads the store's own files, and nothing else."""
    allowed = (
        f"{store.folder.local}/{path}"
        for table in TABLES
        for path in store.files(table)
        if store.folder.local
    )
    paths = ", ".join(quoted(path) for path in allowed)
    connection.execute(f"SET allowed_paths = [{paths}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    connection.execute("BEGIN TRANSACTION READ ONLY")


def _answer(connection: Connection, sql: str, parameters: Sequence[Any] = ()) -> Answer:
    done = connection.execute(sql, list(parameters))
    described = done.description or []
    return Answer(
        columns=tuple(str(column[0]) for column in described),
        types=tuple(str(column[1]) for column in described),
        rows=done.fetchall(),
    )


def _listing(store: Store) -> list[str]:
    return [path for table in TABLES for path in store.files(table)]


def _set_damaged_aside(store: Store, message: str) -> None:
    """Move what is not Parquet out of the readers' way; first what DuckDB names."""
    listed = _listing(store)
    named = [path for path in listed if path in message]
    for path in named or listed:
        reason = damage(store, path)
        if reason is not None:
            store.set_aside(path, reason)


def quoted(text: str) -> str:
    """``text`` as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def _first_line(why: Exception) -> str:
    return str(why).strip().partition("\n")[0]
