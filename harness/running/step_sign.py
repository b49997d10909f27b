"""Says which step of a trial a worker is in, to those that watch the run."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from results.errors import StoreError
from results.storage import leases
from results.storage.store import Store

MOMENT = 1.0  # seconds between two looks; shorter steps are not worth a write


class StepSign:
    """Writes the step of a job beside its lease; use as a context.

    A step that ends within ``MOMENT`` writes nothing, so that quick trials cost
    nothing. A store that cannot be written does not stop a trial here: its row will
    say so.

    Args:
        store: The store that the trials are written to.
        job: Name of the job.
    """

    def __init__(self, store: Store, job: str) -> None:
        self._store = store
        self._job = job
        # Trial, step and its start: of the step that runs, of the one that the last
        # look found, and of the last one that was written.
        self._running: tuple[str, str, float] | None = None
        self._seen: tuple[str, str, float] | None = None
        self._said: tuple[str, str, float] | None = None
        self._written = False
        self._ended = threading.Event()
        # Held while a step is written, so that the next one cannot begin before.
        self._lock = threading.Lock()
        # One thread for all steps of a job: to start one for each step took longer
        # than a quick trial.
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> StepSign:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._written:
            with contextlib.suppress(StoreError):
                leases.delete_step(self._store, self._job)

    @contextlib.contextmanager
    def during(self, trial: str, step: str) -> Iterator[None]:
        """Announce a step while the body runs.

        Args:
            trial: Id of the trial.
            step: What it does: ``loading``, ``fitting``, ``compressing``,
                ``evaluating``.
        """
        with self._lock:
            self._running = trial, step, time.time()
        try:
            yield
        finally:
            with self._lock:
                self._running = None

    def look(self) -> None:
        """Write the running step if the last look found it too: it is not short."""
        with self._lock:
            running = self._running
            if running is not None and running is self._seen is not self._said:
                self._write(*running)
                self._said = running
            self._seen = running

    def _watch(self) -> None:
        while not self._ended.wait(MOMENT):
            self.look()

    def _write(self, trial: str, step: str, since: float) -> None:
        self._written = True
        with contextlib.suppress(StoreError):
            leases.announce_step(self._store, self._job, trial, step, since)
