"""A person's SQL: one SELECT that reads the store's views and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import duckdb

from results.errors import StoreError
from results.queries import isolated
from results.queries.databases import Connection
from results.queries.db import answer_of, connected
from results.queries.isolated import Limits
from results.queries.messages import first_line, quoted, with_hints
from results.queries.reading import reading
from results.schema import TABLES
from results.storage.store import Store
from results.text.answer import Answer

Fill = Callable[[Connection, Store], None]


def query(
    store: Store, sql: str, *, fill: Fill | None = None, limits: Limits | None = None
) -> Answer:
    """Runs a person's SQL in a process of its own, with bounded time and memory.

    Args:
        store: The store to read.
        sql: One SELECT statement (or DESCRIBE, SHOW, SUMMARIZE).
        fill: Inserts the rows of ``stored.comparison``, which takes a second; it is
            called only for a query whose plan reads that table.
        limits: A minute and a quarter of the machine's memory by default.

    Returns:
        The rows.

    Raises:
        StoreError: If the statement is anything else, reads another file, is not valid
            SQL, or reaches a limit; the message says what is allowed.
    """
    text = checked(sql)
    given = limits or Limits()
    answer, warnings = isolated.call(_select, store, text, fill, limits=given)
    store.warnings += warnings
    return answer


def checked(sql: str) -> str:
    """Returns SQL that DuckDB can take: UTF-8 without the character NUL."""
    try:
        sql.encode()
    except UnicodeEncodeError as why:
        shown = sql.encode(errors="surrogateescape")[why.start : why.start + 8]
        raise StoreError(
            f"the query is not UTF-8 text: it has the bytes {shown!r} at character "
            f"{why.start}; save it as UTF-8"
        ) from why
    if "\0" in sql:
        raise StoreError("the query has a character NUL; remove it")
    return sql


def _select(
    store: Store, sql: str, fill: Fill | None, settings: Mapping[str, str]
) -> tuple[Answer, list[str]]:
    """The rows of a query, and the warnings of reading the store."""
    before = len(store.warnings)
    return select(store, sql, fill, settings), store.warnings[before:]


def select(
    store: Store,
    sql: str,
    fill: Fill | None = None,
    settings: Mapping[str, str] | None = None,
) -> Answer:
    """Runs a person's SQL in this process; nothing is written, no other file read.

    Args:
        store: The store to read.
        sql: SQL text of one statement, as in ``query``.
        fill: Inserts the rows of ``stored.comparison``, as for ``query``.
        settings: Settings of DuckDB, as ``Limits.settings`` makes them.

    Returns:
        The rows.

    Raises:
        StoreError: As ``query`` does, except for the limits of time.
    """

    def read(snapshot: Store) -> Answer:
        # The order is a rule: parse, fill, lock, run. After the lock nothing can be
        # written, and the person's SQL runs only then.
        with connected(snapshot, settings=settings) as connection:
            _require_select(connection, sql)
            # `fill` writes into the connection, so it has to come before the lock.
            if fill is not None and _reads_comparison(connection, sql):
                fill(connection, snapshot)
            _lock(connection, snapshot)
            return answer_of(connection, sql)

    try:
        return reading(store, read)
    except duckdb.PermissionException as why:
        raise StoreError(
            f"this reaches outside the store: {first_line(why)}; a query reads the "
            "store's views only"
        ) from why
    except duckdb.OutOfMemoryException as why:
        raise StoreError(
            f"the query reached its memory limit: {first_line(why)}; select fewer rows "
            "or columns, aggregate, or raise --memory"
        ) from why
    except duckdb.Error as why:
        raise StoreError(
            f"{with_hints(why)} (`shrinkgrid sql 'show tables'` lists "
            "the views, `describe VIEW` their columns)"
        ) from why


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
    # Views are resolved in the plan, so that a table is found behind any of them.
    plan = next(text for kind, text in plans if kind == "logical_plan")
    return re.search(r'"Table": "[^\n]*\.comparison"', plan) is not None


def _require_select(connection: Connection, sql: str) -> None:
    """Refuse everything but one SELECT, by DuckDB's own parser."""
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        what = f"not {len(statements)}" if statements else "the query is empty"
        raise StoreError(f"write one SELECT statement at a time: {what}")
    try:
        kind = statements[0].type.name
    except ValueError:  # a type that DuckDB's Python client has no name for
        kind = "OTHER"
    if kind != "SELECT":
        raise StoreError(
            f"a query of the store only reads, and this is a statement of type "
            f"{kind}; write one SELECT (`shrinkgrid export FILE.duckdb` makes a copy "
            "that you can change)"
        )


def _lock(connection: Connection, snapshot: Store) -> None:
    """From here on the connection reads the snapshot's own files, and nothing else."""
    # Only the files of this snapshot: what is written later is another state.
    allowed = (
        f"{snapshot.folder.local}/{path}"
        for table in TABLES
        for path in snapshot.files(table)
        if snapshot.folder.local
    )
    paths = ", ".join(quoted(path) for path in allowed)
    # The order matters: no setting can change after `lock_configuration`.
    connection.execute(f"SET allowed_paths = [{paths}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    connection.execute("BEGIN TRANSACTION READ ONLY")
