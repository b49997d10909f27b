"""After a crash: store what was made, and rows for the trials that were lost."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from results.errors import StoreError
from results.outcomes import ErrorClass, Status
from results.queries.db import ask
from results.storage import leases, pending
from results.storage.store import Store


def committed(
    store: Store, attempts: Sequence[str]
) -> dict[str, tuple[str, str | None]]:
    """Find the rows of attempts that one worker made.

    Args:
        store: Store that may contain the rows.
        attempts: Ids in the order in which they ran.

    Returns:
        Attempt -> status and error class, up to the first attempt without a row; those
        after it had not started.
    """
    known: dict[str, tuple[str, str | None]] = {}
    found = {}
    for attempt in attempts:
        # A file is named after the first of its attempts, so that those after it in the
        # file are known by now.
        if attempt not in known:
            known |= _in_own_file(store, attempt) or _compacted(store, attempt)
        if attempt not in known:
            break
        found[attempt] = known[attempt]
    return found


def _in_own_file(store: Store, attempt: str) -> dict[str, tuple[str, str | None]]:
    """The rows of the file that is named after an attempt; none if it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = store.folder.read(f"trials/{attempt}.parquet")
    if content is not None:
        with contextlib.suppress(pa.ArrowException, OSError):
            columns = ["attempt", "status", "error_class"]
            table = pq.read_table(pa.BufferReader(content), columns=columns)
            rows = table.to_pylist()
            return {r["attempt"]: (r["status"], r["error_class"]) for r in rows}
    return {}


def _compacted(store: Store, attempt: str) -> dict[str, tuple[str, str | None]]:
    """The row of an attempt whose file was compacted, or is damaged."""
    damaged = store.folder.read(f"trials/{attempt}.parquet") is not None
    if not damaged and not store.folder.names("trials/compacted"):
        return {}
    query = "SELECT status, error_class FROM trials WHERE attempt = ?"
    rows = ask(store, query, [attempt]).rows
    return {attempt: (str(rows[0][0]), rows[0][1])} if rows else {}


def settle(store: Store, job: str) -> None:
    """Store the rows that a worker which is gone had made, but not committed.

    Args:
        store: The store of the job.
        job: Name of the job, whose lease is deleted or of a dead process.

    Raises:
        StoreError: If the store cannot be written.
    """
    left = pending.read(store, job)
    # It may have died after it committed them, and before it emptied the file.
    stored = committed(store, [str(row["attempt"]) for row in left.trials])
    left.leave_out(stored)
    left.store(store)
    pending.delete(store, job)


def check_stored(store: Store, attempts: Sequence[str]) -> None:
    """Check at the end of a run that the rows which it stored are there.

    Args:
        store: Store that must contain the rows.
        attempts: Ids of the attempts that were stored.

    Raises:
        StoreError: If rows are missing, because files were deleted meanwhile.
    """
    files = set(store.folder.names("trials"))
    named = [one for one in attempts if f"{one}.parquet" in files]
    missing = set(attempts).difference(named)
    # Quick trials share the file of one of them. Files are read one by one, since all
    # rows of a large run at once would be the driver's largest piece of memory.
    for attempt in named:
        if not missing:
            break
        missing -= _in_own_file(store, attempt).keys()
    # Another driver may have compacted the store: its small files are gone, and the
    # rows are not.
    if missing and store.files("trials"):
        query = "SELECT attempt FROM trials WHERE attempt IN (SELECT unnest($1))"
        missing -= {one for (one,) in ask(store, query, [sorted(missing)]).rows}
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
    found = leases.read_all(store)
    # None means that it cannot be told: the lease is of another machine.
    dead = [lease for lease in found if lease.alive() is False]
    # Also of jobs without a lease, which their worker deletes last.
    working = {lease.job for lease in found if lease not in dead}
    for job in pending.jobs(store):
        if job not in working:
            settle(store, job)
    for lease in dead:
        # In the order in which they ran: those with a row had ended, and the first one
        # without a row was running.
        stored = committed(store, [attempt for attempt, _ in lease.attempts])
        for attempt, trial in lease.attempts[len(stored) :][:1]:
            store.append(_lost_row(store, lease, attempt, trial))
            lost += 1
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
