"""How many bundles are handed to the cluster at a time."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from harness.planning.resources import ResourceRequest
from harness.scheduling.packing import Packer, amounts

# Requests for so many times the cluster's capacity are handed over at a time, but never
# fewer than FEW bundles.
AHEAD = 1.25
FEW = 4
HELD = 1000  # the most bundles that wait for artifacts, on any cluster


class Window:
    """Counts what is handed over: enough to keep every slot busy, and not more.

    What was not handed over yet can still be reordered and cut. Bundles that wait for
    an artifact occupy no slot and do not count, so that one long training does not keep
    others from running.

    Args:
        packer: Its cluster, which may change, states the capacity.
    """

    def __init__(self, packer: Packer) -> None:
        self.packer = packer
        # Job -> its request; job -> artifacts that it waits for; artifact -> its jobs.
        self._used = dict.fromkeys(packer.cluster.capacity, 0.0)
        self._requests: dict[Hashable, ResourceRequest] = {}
        self._waits: dict[Hashable, set[str]] = {}
        self._waiting: dict[str, set[Hashable]] = {}

    def open(self) -> bool:
        """Whether another bundle may be handed over."""
        if len(self._waits) > HELD:
            return False
        if len(self._requests) - len(self._waits) < FEW:
            return True
        # A resource that nothing uses is skipped: its capacity may be zero or unknown.
        room = self.packer.cluster.capacity
        return all(
            self._used[name] < AHEAD * most
            for name, most in room.items()
            if self._used[name]
        )

    def add(
        self, job: Hashable, request: ResourceRequest, waits: Iterable[str] = ()
    ) -> None:
        """Counts a job that was handed over; ``waits`` are artifacts not built yet."""
        self._requests[job] = request
        missing = set(waits)
        if not missing:
            self._count(request, 1)
            return
        self._waits[job] = missing
        for artifact in missing:
            self._waiting.setdefault(artifact, set()).add(job)

    def built(self, artifact: str) -> None:
        """Counts the jobs that waited only for this artifact, now built or failed."""
        for job in self._waiting.pop(artifact, set()):
            missing = self._waits.get(job)
            if missing is None:  # the job ended before its artifact
                continue
            missing.discard(artifact)
            if not missing:
                del self._waits[job]
                self._count(self._requests[job], 1)

    def drop(self, job: Hashable) -> None:
        """Removes a job that ended."""
        request = self._requests.pop(job)
        if self._waits.pop(job, None) is None:
            self._count(request, -1)

    def _count(self, request: ResourceRequest, sign: int) -> None:
        for name, part in amounts(request).items():
            self._used[name] += sign * part
            if abs(self._used[name]) < 1e-6:  # rounding of sums of fractions
                self._used[name] = 0.0
