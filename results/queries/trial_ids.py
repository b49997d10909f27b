"""Trials by the beginning of their ids."""

from __future__ import annotations

from results.errors import StoreError
from results.queries.db import ask
from results.storage.store import Store

_NAMED = 5  # ids that a message lists


def find(store: Store, beginning: str) -> str:
    """The trial whose id begins so.

    Args:
        store: Where the trial was run.
        beginning: An id, or its first characters.

    Returns:
        The whole id.

    Raises:
        StoreError: If no trial with an attempt begins so, or several do.
    """
    found = [
        trial
        for (trial,) in ask(
            store,
            "SELECT DISTINCT trial FROM trials WHERE starts_with(trial, ?) "
            f"ORDER BY trial LIMIT {_NAMED + 1}",
            [beginning],
        ).rows
    ]
    if len(found) == 1 or beginning in found:
        return beginning if beginning in found else found[0]
    if found:
        listed = ", ".join(found[:_NAMED]) + (" ..." if len(found) > _NAMED else "")
        raise StoreError(
            f"several trials begin with {beginning!r}: {listed}; write more of the id"
        )
    raise StoreError(
        f'no trial of {store.uri} begins with {beginning!r}; `shrinkgrid sql "SELECT '
        'trial, method, model, task, ratio FROM newest"` lists them'
    )
