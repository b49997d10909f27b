"""Says which step of a trial a worker is in, to those that watch the run."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from results.errors import StoreError
from results.storage import leases
from results.storage.store import Store

MOMENT = 1.0  # seconds; a shorter step is not worth a write to the store


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
        self._written = False

    def __enter__(self) -> StepSign:
        return self

    def __exit__(self, *_: object) -> None:
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
        timer = threading.Timer(MOMENT, self._write, (trial, step, time.time()))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            # A write that has begun ends before the next step can write.
            timer.join()

    def _write(self, trial: str, step: str, since: float) -> None:
        self._written = True
        with contextlib.suppress(StoreError):
            leases.announce_step(self._store, self._job, trial, step, since)
