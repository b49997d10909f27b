"""DuckDB over a store: the views of results/sql, and queries that can only read."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeAlias

import duckdb

from results.errors import StoreError
from results.queries.reading import RemoteReadError, reading
from results.schema import TABLES, arrow, ddl
from results.storage import encoding, footers
from results.storage.store import Store
from results.text.answer import Answer

Connection: TypeAlias = duckdb.DuckDBPyConnection
_MANY_FILES = 50
_COMMENT = re.compile(r"--[^\n]*")
_CREATES = re.compile(r"^\s*CREATE (?:VIEW|OR REPLACE MACRO) ([\w.]+)")
_WORD = re.compile(r"\w+")
# Whether the trials are in many files, and the views that there are.
_STATE = """
SELECT coalesce(getvariable('many_files'), false),
       list(schema_name || '.' || view_name) FILTER (NOT internal)
FROM duckdb_views()
"""
_HINTS = ("Did you mean", "Candidate", "HINT", "Hint")  # DuckDB's suggestions
# No query loads an extension, or reads a Python variable as a table.
SETTINGS = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
}
# The columns of the views `published` and `comparison`.
COMPARISON = """
paper_table VARCHAR, paper VARCHAR, source VARCHAR, label VARCHAR, heading VARCHAR,
method VARCHAR, model VARCHAR, ratio DOUBLE, task VARCHAR, metric VARCHAR,
printed VARCHAR, value DOUBLE, measured DOUBLE, low DOUBLE, high DOUBLE, seeds BIGINT,
verdict VARCHAR, reason VARCHAR
"""


def connect(store: Store) -> duckdb.DuckDBPyConnection:
    """A fresh in-memory database with every view over a store.

    The views read the files that the store lists at this moment, where they lie.
    Times are UTC without a zone. An empty store gives empty, typed views.

    Args:
        store: Local, or in a bucket; the rows of the latter are read into memory.

    Returns:
        The connection, yours to close.
    """
    return reading(store, connected)


def ask(store: Store, query: str, parameters: Sequence[Any] = ()) -> Answer:
    """Rows of one of the project's own queries, over views as they stand now.

    Args:
        store: Store that the query reads.
        query: Trusted SQL; a person's goes through ``query``.
        parameters: Values of ``?`` and ``$n``.

    Returns:
        The answer.
    """

    def read(snapshot: Store) -> Answer:
        opened = snapshot.connections
        if opened is None:
            with connected(snapshot, query) as connection:
                return answer_of(connection, query, parameters)
        # A page asks 70 times: the first query of a reading opens the database.
        key = (snapshot.grid, snapshot.mixed)
        if key not in opened:
            opened[key] = connected(snapshot, "")
        create_views(opened[key], query)
        return answer_of(opened[key], query, parameters)

    return reading(store, read)


def connected(
    store: Store, query: str | None = None, settings: Mapping[str, str] | None = None
) -> Connection:
    """A fresh in-memory database over one snapshot of a store; see ``connect``.

    Args:
        store: Snapshot of the store to read.
        query: Only the views that this query reads are created; None creates all.
        settings: Settings of DuckDB beside the usual ones.

    Returns:
        The connection; the caller closes it.
    """
    connection = duckdb.connect(config={**SETTINGS, **(settings or {})})
    with contextlib.ExitStack() as on_error:
        # The connection is closed if anything below fails, and left to the caller
        # otherwise.
        on_error.callback(connection.close)
        connection.execute("SET enable_progress_bar = false")  # stdout is for rows
        connection.execute("CREATE SCHEMA empty; CREATE SCHEMA fetched")
        connection.execute("CREATE SCHEMA stored")
        connection.execute(f"CREATE TABLE stored.comparison ({COMPARISON})")
        # Plans first: they say which trials are of a grid.
        opened = {t: _create_stored(connection, store, t) for t in reversed(TABLES)}
        # Opening many files takes the time, not reading them: each is read once.
        many = str(opened["trials"] > _MANY_FILES).lower()
        connection.execute(f"SET VARIABLE many_files = {many}")
        create_views(connection, query)
        on_error.pop_all()
    return connection


def create_views(connection: Connection, query: str | None = None) -> None:
    """Create the views of ``results/sql`` that a connection lacks.

    DuckDB checks a view when it is created, with all that it reads, which takes longer
    than many a query.

    Args:
        connection: Has a view ``stored.TABLE`` for each table.
        query: Only the views that it reads are created; None creates all.
    """
    ((many_files, created),) = connection.execute(_STATE).fetchall()
    wanted = _WORD.findall(query.lower()) if query is not None else None
    needed = []
    # From the last to the first: a view reads those that are created before it.
    for view in reversed(_views()):
        if wanted is None or view.name.rpartition(".")[2] in wanted:
            needed.append(view)
            wanted = None if wanted is None else [*wanted, *view.words]
    for view in reversed(needed):
        if view.name in (created or ()):
            continue
        # ``MATERIALIZED`` reads every file once into memory, which pays only for many
        # files.
        kept = "AS MATERIALIZED" if many_files else "AS NOT MATERIALIZED"
        connection.execute(view.sql.replace("AS MATERIALIZED", kept))


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """A statement of ``results/sql`` that creates a view or a macro.

    Args:
        name: With its schema.
        sql: The statement.
        words: Of the statement, in lower case; names of other views are among them.
    """

    name: str
    sql: str
    words: frozenset[str]


@functools.cache
def _views() -> tuple[_View, ...]:
    """All views and macros, each after those that it reads."""
    scripts = [f for f in files("results.sql").iterdir() if f.name.endswith(".sql")]
    found = []
    for script in sorted(scripts, key=lambda f: f.name):
        text = _COMMENT.sub("", script.read_text(encoding="utf-8"))
        for statement in duckdb.extract_statements(text):
            # Whether a macro exists cannot be asked quickly.
            sql = statement.query.replace("CREATE MACRO", "CREATE OR REPLACE MACRO")
            (name,) = _CREATES.findall(sql)
            words = frozenset(_WORD.findall(sql.lower()))
            full = name if "." in name else f"main.{name}"
            found.append(_View(name=full, sql=sql, words=words))
    return tuple(found)


def _create_stored(connection: Connection, store: Store, table: str) -> int:
    """A view ``stored.TABLE`` over a table's files; how many of them it opens."""
    # An empty table of all columns: a store without files has typed views, and files of
    # other columns are joined to all of them by name.
    connection.execute(f"CREATE TABLE empty.{table} ({ddl(table)})")
    sources = [f"empty.{table}"]
    paths = store.files(table)
    if paths and store.folder.local is None:
        _read_remote(connection, store, table)
        sources = [f"fetched.{table}"]
    elif paths:
        # Thousands of small files: their rows are read from the footers, see
        # ``footers``.
        if table == "trials" and len(paths) > _MANY_FILES:
            paths = _read_embedded(connection, store, paths)
            sources = ["fetched.trials"]
        if paths:
            listed = ", ".join(quoted(f"{store.folder.local}/{p}") for p in paths)
            mixed = "true" if store.mixed else "false"
            # A folder above the store may be called `ratio=0.9`; that is not a column.
            files = (
                f"read_parquet([{listed}], union_by_name = {mixed}, "
                "hive_partitioning = false)"
            )
            # Older files lack columns, which are then NULL.
            whole = not store.mixed and sources == [f"empty.{table}"]
            sources = [files] if whole else [*sources, files]
    source = " UNION ALL BY NAME ".join(f"FROM {one}" for one in sources)
    times = [name for name, kind in TABLES[table].items() if kind == "TIMESTAMPTZ"]
    # DuckDB shows a time with zone in the zone of the machine; answers are in UTC.
    naive = ", ".join(f"make_timestamp(epoch_us({t})) AS {t}" for t in times)
    replaced = f" REPLACE ({naive})" if times else ""
    connection.execute(
        f"CREATE VIEW stored.{table} AS SELECT *{replaced} FROM ({source})"
        f"{_of_grid(store, table)}"
    )
    return len(paths)


def _of_grid(store: Store, table: str) -> str:
    """The condition that keeps the rows of a store's grid; see ``grids.only``."""
    # Samples and layers follow their trials.
    if store.grid is None or table in ("samples", "layers"):
        return ""
    grid = f"grid = {quoted(store.grid)}"
    if table == "plans":
        return f" WHERE {grid}"
    return (
        f" WHERE trial IN (SELECT trial FROM stored.plans WHERE {grid})"
        " OR method = 'dense' AND (model, task) IN"
        f" (SELECT (model, task) FROM stored.plans WHERE {grid})"
    )


def _read_embedded(
    connection: Connection, store: Store, paths: Sequence[str]
) -> list[str]:
    """Read many small files into memory; the paths of the others are returned."""
    small = [path for path in paths if "/compacted/" not in path]
    copies, left = footers.embedded_rows(store.folder, small)
    try:
        read = encoding.table("trials", copies, exact=False)
    except StoreError:  # a damaged copy: none of them is worth a guess
        read, left = arrow("trials").empty_table(), small
    connection.register("arrow_rows", read)
    connection.execute("CREATE TABLE fetched.trials AS FROM arrow_rows")
    # The table has copied the rows: a registered one would be scanned at each query.
    connection.unregister("arrow_rows")
    return [path for path in paths if "/compacted/" in path] + left


def _read_remote(connection: Connection, store: Store, table: str) -> None:
    """Read a table that lies in a bucket into memory, through pyarrow.

    Checksums of the pages, which this project's writer makes, show bytes that changed
    on the way.
    """
    import pyarrow as pa
    from pyarrow import dataset

    place: Any = store.folder
    options = dataset.ParquetFragmentScanOptions(page_checksum_verification=True)
    try:
        found = dataset.dataset(
            [f"{place.root}/{path}" for path in store.files(table)],
            schema=arrow(table),
            format=dataset.ParquetFileFormat(default_fragment_scan_options=options),
            filesystem=place.filesystem,
        ).to_table()
    except FileNotFoundError:  # a compaction has replaced it
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as why:
        raise RemoteReadError(first_line(why)) from why
    connection.register("arrow_rows", found)
    connection.execute(f"CREATE TABLE fetched.{table} AS FROM arrow_rows")
    connection.unregister("arrow_rows")


def answer_of(
    connection: Connection, sql: str, parameters: Sequence[Any] = ()
) -> Answer:
    """The rows of a query on an open connection."""
    done = connection.execute(sql, list(parameters))
    described = done.description or []
    return Answer(
        columns=tuple(str(column[0]) for column in described),
        types=tuple(str(column[1]) for column in described),
        rows=done.fetchall(),
    )


def quoted(text: str) -> str:
    """``text`` as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def first_line(why: Exception) -> str:
    """The first line of an error's text."""
    return str(why).strip().partition("\n")[0]


def with_hints(why: Exception) -> str:
    """An error of DuckDB with its suggestions, and where in the query it is.

    DuckDB writes them below the first line; all stand on one line here.
    """
    first, *more = [line for line in str(why).strip().splitlines() if line.strip()]
    hints = [line.strip() for line in more if line.strip().startswith(_HINTS)]
    # The line with "^" alone points into the line of the query above it.
    at = next((i for i, line in enumerate(more) if set(line.strip()) == {"^"}), 0)
    if at and (found := re.match(r"LINE (\d+): ", more[at - 1])):
        rest = more[at - 1][more[at].index("^") :].strip()
        hints.append(f"at line {found[1]}: {rest[:60]}")
    return " ".join([first, *(hint.rstrip() for hint in hints)])
