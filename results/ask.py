"""Answers a person's SQL over a store; the entry for commands and notebooks."""

from __future__ import annotations

from results.queries import restricted
from results.queries.isolated import Limits
from results.storage.store import Store
from results.tables import comparison
from results.text.answer import Answer


def query(store: Store, sql: str | bytes, limits: Limits | None = None) -> Answer:
    """Runs one SELECT of a person over the views of a store.

    Args:
        store: The store to read.
        sql: One SELECT statement (or DESCRIBE, SHOW, SUMMARIZE); bytes are UTF-8.
        limits: A minute and a quarter of the machine's memory by default.

    Returns:
        The rows.

    Raises:
        StoreError: If the statement is not a SELECT, reads another file, is not valid
            SQL, or reaches a limit; the message says what is allowed.
    """
    if isinstance(sql, bytes):
        sql = sql.decode(errors="surrogateescape")
    return restricted.query(store, sql, fill=comparison.fill, limits=limits)
