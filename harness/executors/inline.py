"""Bundles one after the other in this process: for tests, and to debug a method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.planning.messages import ArtifactJob, Built, Event, Job
from harness.planning.plan import Bundle
from harness.running import artifacts, worker
from harness.running.global_state import GlobalState


class Inline:
    """The executor without Ray; its rows equal those that Ray's workers write."""

    def __init__(self) -> None:
        self._built: dict[str, Built] = {}
        self._state = GlobalState()

    def arrange(self, bundles: Sequence[Bundle]) -> list[Bundle]:
        """As planned: one after the other, any order takes as long."""
        return list(bundles)

    def stale(self) -> bool:
        """Never: the order makes no difference."""
        return False

    def check(self, bundles: Sequence[Bundle], store: str) -> None:
        """Everything may run here."""

    def run(self, jobs: Iterator[Job]) -> Iterator[tuple[Job, list[Event]]]:
        """Yield each job with its events, in order.

        Args:
            jobs: Drawn one at a time.

        Yields:
            The job, and its next events.
        """
        for job in jobs:
            built = [self._artifact(job, a.id) for a in job.bundle.artifacts]
            for event in worker.run(job, built, self._state):
                yield job, [event]

    def _artifact(self, job: Job, key: str) -> Built:
        if key not in self._built:
            artifact = next(a for a in job.bundle.artifacts if a.id == key)
            # As a process of its own would: what building changes in this process, such
            # as the default dtype, is put back before the trials.
            self._state.begin()
            self._built[key] = artifacts.produce(
                ArtifactJob(
                    artifact=artifact,
                    store=job.store,
                    run=job.run,
                    placement=job.bundle.resources.placement,
                    gpus=job.bundle.resources.gpus or 0.0,
                )
            )
            self._state.restore(artifact.model)
        return self._built[key]

    def close(self) -> None:
        """Nothing to close."""
