"""DuckDB over a store: the views of results/sql, and queries that can only read."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
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
_MANY_FILES = 500
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


def ask(
    store: Store, query: str, parameters: Sequence[Any] = (), *, through: str = "~"
) -> Answer:
    """Rows of one of the project's own queries, over views as they stand now.

    Args:
        store: Store that the query reads.
        query: Trusted SQL; a person's goes through ``query``.
        parameters: Values of ``?`` and ``$n``.
        through: Views of later scripts are left out, which saves their set-up.

    Returns:
        The answer.
    """

    def read(snapshot: Store) -> Answer:
        # A database with its views takes a twentieth of a second, and longer where rows
        # have to be read into it: a page asks 70 times.
        opened = snapshot.connections
        if opened is None:
            with connected(snapshot, through) as connection:
                return answer_of(connection, query, parameters)
        seen = (snapshot.grid, snapshot.mixed)
        # One with views of later scripts does as well.
        usable = [key for key in opened if key[1:] == seen and str(key[0]) >= through]
        key = usable[0] if usable else (through, *seen)
        if not usable:
            opened[key] = connected(snapshot, through)
        return answer_of(opened[key], query, parameters)

    return reading(store, read)


def connected(
    store: Store, through: str = "~", settings: Mapping[str, str] | None = None
) -> Connection:
    """A fresh in-memory database over one snapshot of a store; see ``connect``.

    Args:
        store: Snapshot of the store to read.
        through: Views of later scripts are left out.
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
        create_views(connection, through, opened["trials"] > _MANY_FILES)
        on_error.pop_all()
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
        # ``MATERIALIZED`` reads every file once into memory, which pays only for many
        # files.
        if not many_files:
            text = text.replace("AS MATERIALIZED", "AS NOT MATERIALIZED")
        connection.execute(text)


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
    if store.grid is None or table == "samples":  # samples follow their trials
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
    """Read many one-row files into memory; the paths of the others are returned."""
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
