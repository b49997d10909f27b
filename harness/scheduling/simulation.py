"""Runs bundles in virtual time, with the code that schedules real ones."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.planning.messages import Event, Job
from harness.planning.plan import Artifact, Bundle
from harness.planning.resources import ResourceRequest
from harness.scheduling.free_capacity import FreeCapacity, Location
from harness.scheduling.hardware import Cluster
from harness.scheduling.packing import Packer
from harness.scheduling.predictor import Predictor
from harness.scheduling.window import Window
from harness.scheduling.work_stealing import WorkStealing
from results.outcomes import ErrorClass, Status


class World(Protocol):
    """Decides how long the work takes and how it ends."""

    def build(self, artifact: Artifact) -> float:
        """Seconds that building an artifact takes."""

    def job(
        self, job: Job, request: ResourceRequest, node: int
    ) -> tuple[float, list[Event]]:
        """Seconds until a job ends on a node, and its events, one for each trial.

        Seconds in excess of the sum of the events pass before the last event.
        """

    def outages(self) -> list[tuple[float, int, float]]:
        """Failures of nodes: time of the failure, index of the node, seconds of it."""


_NOWHERE = Location(-1)  # of what did not start yet


@dataclass(slots=True, eq=False)
class _Work:
    """A job, or the building of an artifact, from its submission to its end."""

    request: ResourceRequest
    job: Job | None = None
    artifact: Artifact | None = None
    location: Location = _NOWHERE
    began: float = 0.0
    since: float = 0.0  # when the running trial began
    # One entry for each trial to come: seconds, the trial's id, the event at its end.
    ahead: deque[tuple[float, str, Event | None]] = field(default_factory=deque)
    back: frozenset[str] = frozenset()  # trials that it was asked to return
    over: bool = False


class Simulated:
    """An executor whose clock jumps to the next event.

    Jobs are placed as Ray intends to: of each kind of request the first job in the
    queue starts at the location that it fits best as soon as that is free. The jobs of
    a node that fails crash.

    Args:
        cluster: The simulated machines and their resources.
        world: Decides how long the work takes and how it ends.
        predictor: The predictor of the packing; it learns as on a real cluster.
    """

    def __init__(
        self, cluster: Cluster, world: World, predictor: Predictor | None = None
    ) -> None:
        self.packer = Packer(cluster=cluster, predictor=predictor or Predictor())
        self.world = world
        self.time = 0.0
        self.busy = 0.0  # seconds of devices, or of processors if there are no devices
        self._window = Window(self.packer)
        self._stealing = WorkStealing(self.packer)
        self._free = FreeCapacity(cluster)
        # The state of a job moves from ``_held`` (an artifact is missing) to
        # ``_queues`` (nothing has room) to ``_works`` (it runs on a node).
        self._artifacts: dict[str, _Work | None] = {}  # None once it is built
        # Only the head of each queue is tested for room: all others request the same.
        self._queues: dict[Any, deque[_Work]] = {}
        # Artifact id -> jobs whose first missing artifact it is.
        self._held: dict[str, list[_Work]] = {}
        # Works by node, in the order of their starts, to know which crash with it.
        self._works: dict[int, dict[_Work, None]] = {}
        # A heap of (time, running number, what, about). The number keeps events of one
        # moment in the order in which they were added, so that a run can be repeated
        # exactly.
        self._agenda: list[tuple[float, int, str, Any]] = []
        self._order = 0
        for when, node, seconds in world.outages():
            self._at(when, "fails", (node, seconds))

    def check(self, bundles: Sequence[Bundle], store: str) -> None:
        """Accepts everything, since no real resources are used."""

    def arrange(self, bundles: Sequence[Bundle]) -> list[Bundle]:
        """As on a real cluster."""
        return self.packer.arrange(bundles)

    def stale(self) -> bool:
        """As on a real cluster."""
        return self.packer.stale()

    def now(self) -> float:
        """Seconds since the beginning."""
        return self.time

    def sleep(self, seconds: float) -> None:
        """Lets time pass without work."""
        self.time += seconds

    def run(self, jobs: Iterator[Job]) -> Iterator[tuple[Job, list[Event]]]:
        """Runs jobs, which are taken from the iterator as slots become free.

        Args:
            jobs: May depend on the events yielded before.

        Yields:
            A job and its next events.
        """
        running = 0
        while True:
            while self._window.open():
                job = next(jobs, None)
                # The driver has nothing to start now; events of running jobs may change
                # that.
                if job is None:
                    self._steal()
                    break
                self._submit(job)
                running += 1
            if not running:
                return
            for work, events in self._step():
                job = work.job
                assert job is not None
                running -= work.over
                # The predictor learns before the driver sees the event, so that a job
                # that the driver submits in answer is predicted with it.
                for event in events:
                    if event.numbers:
                        trial = job.trial(event.trial)
                        self.packer.learn(trial, work.request, event)
                yield job, events

    def _steal(self) -> None:
        for work, trials in self._stealing.due(self.time).items():
            assert isinstance(work, _Work)
            work.back = frozenset(trials)

    def close(self) -> None:
        """Nothing to close."""

    def _submit(self, job: Job) -> None:
        request = self.packer.request(job.bundle)
        work = _Work(request=request, job=job)
        self._stealing.add(work, job.bundle)
        for artifact in job.bundle.artifacts:
            if artifact.id not in self._artifacts:
                building = _Work(request=request, artifact=artifact)
                self._artifacts[artifact.id] = building
                self._window.add(building, request)
                self._queue(building)
        missing = self._missing(job.bundle)
        self._window.add(work, request, missing)
        if missing:
            self._held.setdefault(missing[0], []).append(work)
        else:
            self._queue(work)

    def _missing(self, bundle: Bundle) -> list[str]:
        """Artifacts of a bundle that are not built yet."""
        return [a.id for a in bundle.artifacts if self._artifacts[a.id] is not None]

    def _queue(self, work: _Work) -> None:
        queue = self._queues.setdefault(_queue_key(work.request), deque())
        # Behind others of its kind it has to wait: they do not fit anywhere either.
        location = None if queue else self._free.find(work.request)
        if location is None:
            queue.append(work)
        else:
            self._begin(work, location)

    def _begin(self, work: _Work, location: Location) -> None:
        self._free.take(work.request, location)
        work.location, work.began, work.since = location, self.time, self.time
        self._works.setdefault(location.node, {})[work] = None
        if work.job is None:
            assert work.artifact is not None
            self._at(self.time + self.world.build(work.artifact), "ends", work)
            return
        left, events = self.world.job(work.job, work.request, location.node)
        # Trials end one after the other at their own events. The last event, or the end
        # of a job without events, takes the rest of the time.
        ids = [t.id for t in work.job.bundle.trials]
        ends: list[Event | None] = [*events] or [None]
        for trial, end in zip(ids, ends[:-1], strict=False):
            assert end is not None
            work.ahead.append((end.seconds, trial, end))
            left -= end.seconds
        work.ahead.append((max(0.0, left), ids[len(ends) - 1], ends[-1]))
        # It was asked for trials while it waited in the queue, and answers now, as a
        # real worker does between two trials.
        if work.back:
            self._at(self.time, "gives", work)
        self._at(self.time + work.ahead[0][0], "ends", work)

    def _at(self, when: float, what: str, about: Any) -> None:
        self._order += 1
        heapq.heappush(self._agenda, (when, self._order, what, about))

    def _step(self) -> Iterator[tuple[_Work, list[Event]]]:
        """Advances to the next event; yields what the jobs report of it."""
        when, _, what, about = heapq.heappop(self._agenda)
        # ``sleep`` may have moved the clock past events that were due.
        self.time = max(self.time, when)
        if what == "fails":
            node, seconds = about
            # Marked as down first, so that what crashed is not placed on this node
            # again.
            self._free.down.add(node)
            for work in list(self._works.get(node, ())):
                yield from self._fail(work)
            self._at(self.time + seconds, "returns", node)
        elif what == "returns":
            self._free.down.discard(about)
            self._refill(about)
        elif about.over:  # it crashed with its node before this event
            return
        elif what == "gives":
            yield from self._give_back(about)
        elif about.artifact is not None:
            self._built(about)
        else:
            yield from self._trial_ends(about)

    def _trial_ends(self, work: _Work) -> Iterator[tuple[_Work, list[Event]]]:
        _, _, end = work.ahead.popleft()
        if not work.ahead:
            yield from self._end(work, [] if end is None else [end])
            return
        assert end is not None
        work.since = self.time
        yield work, self._stealing.observe(work, [end])
        yield from self._give_back(work)
        self._at(self.time + work.ahead[0][0], "ends", work)

    def _give_back(self, work: _Work) -> Iterator[tuple[_Work, list[Event]]]:
        """Returns the requested trials, except for the trial that begins now."""
        assert work.job is not None
        begins = work.ahead[0][1]
        ids = [t.id for t in work.job.bundle.trials]
        given = tuple(t for t in ids[ids.index(begins) + 1 :] if t in work.back)
        work.back = frozenset()
        work.ahead = deque(one for one in work.ahead if one[1] not in given)
        if given:
            returned = Event(what="returned", trials=given)
            yield work, self._stealing.observe(work, [returned])

    def _fail(self, work: _Work) -> Iterator[tuple[_Work, list[Event]]]:
        if work.artifact is not None:  # Ray builds it again on another node
            # Jobs that wait for an artifact look only at its id: they keep waiting for
            # the second build. The first build's end is skipped, since ``over`` is set.
            self._release(work)
            again = _Work(request=work.request, artifact=work.artifact)
            self._artifacts[work.artifact.id] = again
            self._window.drop(work)
            self._window.add(again, again.request)
            self._queue(again)
            return
        crash = Event(
            what="crashed",
            status=Status.LOST,
            error_class=ErrorClass.INFRA,
            summary="node failed",
            seconds=self.time - work.since,
        )
        yield from self._end(work, [crash])

    def _built(self, work: _Work) -> None:
        assert work.artifact is not None
        # Freed before the waiting jobs are queued: one of them may start in this place.
        self._release(work)
        self._window.drop(work)
        key = work.artifact.id
        self._artifacts[key] = None
        self._window.built(key)
        for waiting in self._held.pop(key, []):
            assert waiting.job is not None
            missing = self._missing(waiting.job.bundle)
            # It waits for one missing artifact at a time, not for each of them.
            if missing:
                self._held.setdefault(missing[0], []).append(waiting)
            else:
                self._queue(waiting)
        self._refill(work.location.node)

    def _end(
        self, work: _Work, events: list[Event]
    ) -> Iterator[tuple[_Work, list[Event]]]:
        self._release(work)
        self._window.drop(work)
        self._stealing.drop(work)
        yield work, events
        self._refill(work.location.node)

    def _release(self, work: _Work) -> None:
        work.over = True
        self._works[work.location.node].pop(work)
        self._free.give(work.request, work.location)
        # As in ``Forecast.busy``: device-seconds, or processor-seconds without devices.
        parts = work.request.gpus if self.packer.cluster.gpus else work.request.cpus
        self.busy += (self.time - work.began) * parts

    def _refill(self, node: int) -> None:
        """Starts queued works on a node where something was freed."""
        for key, queue in list(self._queues.items()):
            while queue:
                location = self._free.find(queue[0].request, node)
                if location is None:
                    break
                self._begin(queue.popleft(), location)
            if not queue:
                del self._queues[key]


def _queue_key(request: ResourceRequest) -> tuple[Any, ...]:
    """Requests of one key fit the same locations.

    The bytes that a worker checks before it starts are not part of the key: they do
    not decide where a bundle is placed.
    """
    return request.cpus, request.gpus, request.memory, request.device
