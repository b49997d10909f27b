"""In-memory databases over a store, which a process uses for one reading after another.

To start DuckDB takes longer than most queries, and so does checking the views. A
database that has answered is therefore kept, without the tables of its store, for the
next reading. Two readings never use one at the same time.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import duckdb

from results.errors import StoreError
from results.queries import views
from results.queries.messages import first_line, quoted
from results.queries.reading import RemoteReadError
from results.schema import TABLES, arrow, ddl
from results.storage import encoding, footers
from results.storage.store import Store

Connection: TypeAlias = duckdb.DuckDBPyConnection
_MANY_FILES = 50
_MOST_IDLE = 4  # databases that wait for the next reading; each has threads
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


class Database:
    """An in-memory database with the project's views over one snapshot of a store.

    Args:
        settings: Settings of DuckDB beside the usual ones.

    Attributes:
        connection: The only connection.
    """

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.process = os.getpid()
        self._views: dict[str, str] = {}  # name -> the statement that made it
        self._tables: set[str] = set()  # those of the store that are open
        self._many_files = False
        self.connection = duckdb.connect(config={**SETTINGS, **(settings or {})})
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.connection.close)
            self.connection.execute(
                "SET enable_progress_bar = false; "  # stdout is for rows
                "CREATE SCHEMA empty; CREATE SCHEMA fetched; CREATE SCHEMA stored; "
                f"CREATE TABLE stored.comparison ({COMPARISON})"
            )
            on_error.pop_all()

    def open(self, store: Store, query: str | None = None) -> None:
        """Create what a query reads, as far as it is not there.

        DuckDB checks a view when it is created, with all that it reads, which takes
        longer than many a query.

        Args:
            store: A snapshot; the same at each call until ``release``.
            query: Only the tables and views that it reads are created; None creates
                all.
        """
        wanted = views.every() if query is None else views.needed(query)
        tables = set(TABLES) if query is None else set(views.tables_of(query))
        tables.update(*(view.tables for view in wanted))
        if store.grid is not None:
            tables.add("plans")  # they say which trials are of a grid
        for table in reversed(TABLES):  # plans first
            if table in tables and table not in self._tables:
                # Noted before: a table that was made in part has to be removed, too.
                self._tables.add(table)
                opened = _create_stored(self.connection, store, table)
                if table == "trials":
                    self._many_files = opened > _MANY_FILES
        # Opening many files takes the time, not reading them: each is read once.
        for view in wanted:
            sql = view.statement(read_once=self._many_files)
            if self._views.get(view.name) != sql:
                self.connection.execute(sql)
                self._views[view.name] = sql

    def release(self) -> None:
        """Forget the store, and wait for the next reading; see ``taken``."""
        try:
            for table in self._tables:
                self.connection.execute(
                    f"DROP VIEW IF EXISTS stored.{table}; "
                    f"DROP TABLE IF EXISTS fetched.{table}"
                )
        except duckdb.Error:  # what DuckDB cannot tidy up is not used again
            self.close()
            return
        self._tables.clear()
        _idle.append(self)
        # Another thread may do the same at this moment, so the length comes second.
        while len(_idle) > _MOST_IDLE and (oldest := _popped(0)):
            oldest.close()

    def close(self) -> None:
        """End the database."""
        if self.process == os.getpid():
            self.connection.close()
        else:
            _of_others.append(self)


def _create_stored(connection: Connection, store: Store, table: str) -> int:
    """A view ``stored.TABLE`` over a table's files; how many of them it opens."""
    # An empty table of all columns: a store without files has typed views, and files of
    # other columns are joined to all of them by name.
    connection.execute(f"CREATE TABLE IF NOT EXISTS empty.{table} ({ddl(table)})")
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


# A list's ``append`` and ``pop`` need no lock.
_idle: list[Database] = []
# A forked process has the memory of its parent's databases and not their threads, for
# which DuckDB would wait when it closes them. They stay here.
_of_others: list[Database] = []


def taken() -> Database:
    """A database that no other reading uses; ``release`` or ``close`` gives it back."""
    while found := _popped(-1):
        if found.process == os.getpid():
            return found
        found.close()
    return Database()


def _popped(at: int) -> Database | None:
    """An idle database, which another thread may have taken a moment ago."""
    try:
        return _idle.pop(at)
    except IndexError:
        return None


def _close_idle() -> None:
    while found := _popped(-1):
        found.close()


atexit.register(_close_idle)
os.register_at_fork(before=_close_idle)


@contextlib.contextmanager
def lent(store: Store, query: str | None = None) -> Iterator[Connection]:
    """A connection to a database over a snapshot, for one reading.

    Args:
        store: The snapshot.
        query: As for ``Database.open``.

    Yields:
        The connection; nothing may be created in it, since the next reading gets it.
    """
    database = taken()
    with contextlib.ExitStack() as on_error:
        # After an error nobody knows what state the database is in.
        on_error.callback(database.close)
        database.open(store, query)
        yield database.connection
        on_error.pop_all()
    database.release()
