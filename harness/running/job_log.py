"""Stores what the process of a job prints, while it runs and when it has ended."""

from __future__ import annotations

import io
import time
from typing import IO

from harness.planning.messages import Job
from results.errors import StoreError
from results.storage import logs
from results.storage.store import Store, open_store

EVERY = 2.0  # seconds between two copies of a log that grows
_SHARE = 20  # copying takes at most one part in so many of the time


class JobLog:
    """Copies the output of a job's process into the store.

    A job that prints nothing costs one look at the size of a file each second. A log
    is never a reason to fail: after an error of the store nothing more is copied.

    Args:
        job: The job, which names the store and the log.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._store: Store | None = None
        self._copied = 0  # bytes that were printed when it was last copied
        self._due = time.monotonic() + EVERY
        self._failed = False

    def look(self, printed: IO[bytes]) -> None:
        """Copy what was printed, if the last copy is old enough."""
        if time.monotonic() >= self._due:
            self._copy(printed)

    def close(self, printed: IO[bytes]) -> None:
        """Copy what was printed since the last copy."""
        self._copy(printed)

    def _copy(self, printed: IO[bytes]) -> None:
        began = time.monotonic()
        size = printed.seek(0, io.SEEK_END)
        if size != self._copied and not self._failed:
            self._copied = size
            text = logs.bounded(printed)
            if text:
                self._write(text)
        now = time.monotonic()
        self._due = now + max(EVERY, _SHARE * (now - began))

    def _write(self, text: str) -> None:
        try:
            if self._store is None:
                self._store = open_store(self._job.store)
            logs.write(self._store, self._job.bundle.id, self._job.name, text)
        except StoreError:
            self._failed = True
