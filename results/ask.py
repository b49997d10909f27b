"""Answers a person's SQL over a store; the entry for commands and notebooks."""

from __future__ import annotations

from results.queries import db
from results.storage.store import Store
from results.tables import comparison
from results.text.answer import Answer


def query(store: Store, sql: str) -> Answer:
    """Runs one SELECT of a person over the views of a store.

    Args:
        store: The store to read.
        sql: One SELECT statement (or DESCRIBE, SHOW, SUMMARIZE).

    Returns:
        The rows.

    Raises:
        StoreError: If the statement is not a SELECT, reads another file, or is not
            valid SQL; the message says what is allowed.
    """
    return db.query(store, sql, fill=comparison.fill)
