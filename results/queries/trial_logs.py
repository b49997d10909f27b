"""The log of a trial: what the process that ran it printed."""

from __future__ import annotations

from results.queries.db import ask
from results.storage import logs
from results.storage.logs import Log
from results.storage.store import Store

_ATTEMPTS = """
SELECT attempt, bundle FROM trials WHERE trial = ? AND bundle IS NOT NULL
ORDER BY started_at DESC, attempt DESC
"""


def log_of(store: Store, trial: str) -> Log | None:
    """The log of the newest attempt of a trial that printed something.

    Args:
        store: Where the trial was run.
        trial: Id of the trial, all 16 digits.

    Returns:
        The log of the job that ran the attempt; None if there is none.
    """
    names = logs.names(store)
    if not names:
        return None
    return logs.of_attempts(store, ask(store, _ATTEMPTS, [trial]).rows, names)
