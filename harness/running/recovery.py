"""After a crash: find which attempts were stored, and store rows for the others."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from results.errors import StoreError
from results.outcomes import ErrorClass, Status
from results.queries.db import ask
from results.storage import leases
from results.storage.store import Store


def committed(store: Store, attempt: str) -> tuple[str, str | None] | None:
    """Read the status and the error class of an attempt's row.

    Args:
        store: Store that may contain the row.
        attempt: Id of the attempt to look for.

    Returns:
        Status and error class, from the attempt's own file or from a compacted file;
        None if the attempt has no row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = store.folder.read(f"trials/{attempt}.parquet")
    if content is not None:
        with contextlib.suppress(pa.ArrowException, OSError):  # a damaged file
            columns = ["status", "error_class"]
            found = pq.read_table(pa.BufferReader(content), columns=columns)
            row = found.to_pylist()[0]
            return row["status"], row["error_class"]
    # A damaged file (content, but no row) may have its row in a compacted file.
    if content is None and not store.folder.names("trials/compacted"):
        return None
    query = "SELECT status, error_class FROM trials WHERE attempt = ?"
    rows = ask(store, query, [attempt]).rows
    return (str(rows[0][0]), rows[0][1]) if rows else None


def check_stored(store: Store, attempts: Sequence[str]) -> None:
    """Check at the end of a run that the rows which it stored are there.

    Args:
        store: Store that must contain the rows.
        attempts: Ids of the attempts that were stored.

    Raises:
        StoreError: If rows are missing, because files were deleted meanwhile.
    """
    files = set(store.folder.names("trials"))
    missing = {one for one in attempts if f"{one}.parquet" not in files}
    # Another driver may have compacted the store: its small files are gone, and the
    # rows are not.
    if missing and store.folder.names("trials/compacted"):
        compacted = ask(store, "SELECT attempt FROM trials").rows
        missing -= {attempt for (attempt,) in compacted}
    if missing:
        raise StoreError(
            f"{len(missing)} of the {len(attempts)} rows that this run stored are no "
            f"longer in {store.uri}: something deleted them; restore them from a "
            "backup, or run the same command again to compute them"
        )


def reconcile(store: Store) -> int:
    """Store a ``lost`` row for each trial that a dead worker of this machine ran.

    Args:
        store: Store of the killed runs.

    Returns:
        The number of rows that were stored.
    """
    lost = 0
    for lease in leases.read_all(store):
        # None means that it cannot be told: the lease is of another machine.
        if lease.alive() is not False:
            continue
        # In the order in which they ran: those with a row had ended, and the first one
        # without a row was running.
        for attempt, trial in lease.attempts:
            if committed(store, attempt) is None:
                store.append(_lost_row(store, lease, attempt, trial))
                lost += 1
                break  # the trials after it had not started
        leases.delete(store, lease.name)
    return lost


def _lost_row(
    store: Store, lease: leases.Lease, attempt: str, trial: str
) -> dict[str, Any]:
    columns = (
        "trial, grid, bundle, method, method_options, model, task, task_options, "
        "ratio, seed, identity"
    )
    query = f"SELECT {columns} FROM plans WHERE trial = ? LIMIT 1"
    planned = ask(store, query, [trial]).dicts()
    return (planned[0] if planned else {"trial": trial}) | {
        "attempt": attempt,
        "status": Status.LOST,
        "error_class": ErrorClass.INFRA,
        "reason": f"process {lease.pid} on {lease.host} died with the run",
        "started_at": datetime.fromtimestamp(lease.started_at, UTC),
        "host": lease.host,
        "measurements": [],
    }
