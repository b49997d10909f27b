"""The project's own queries over a store, through the views of results/sql."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from results.queries.databases import Connection, Database, lent, taken
from results.queries.reading import reading
from results.storage.store import Store
from results.text.answer import Answer


def connect(store: Store) -> Connection:
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
            with lent(snapshot, query) as connection:
                return answer_of(connection, query, parameters)
        # A page asks 70 times: all queries of a reading share a database.
        key = (snapshot.grid, snapshot.mixed)
        if key not in opened:
            opened[key] = taken()
        opened[key].open(snapshot, query)
        return answer_of(opened[key].connection, query, parameters)

    return reading(store, read)


def connected(
    store: Store, query: str | None = None, settings: Mapping[str, str] | None = None
) -> Connection:
    """A fresh in-memory database over one snapshot of a store; see ``connect``.

    Args:
        store: Snapshot of the store to read.
        query: Only what this query reads is created; None creates all tables and views.
        settings: Settings of DuckDB beside the usual ones.

    Returns:
        The connection; the caller closes it.
    """
    database = Database(settings)
    with contextlib.ExitStack() as on_error:
        on_error.callback(database.close)
        database.open(store, query)
        on_error.pop_all()
    return database.connection


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
