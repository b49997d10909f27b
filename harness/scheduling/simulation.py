"""Bundles in virtual time, handed out by the code that hands out real ones."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from harness.planning.messages import Event, Job
from harness.planning.plan import Artifact, Bundle
from harness.planning.resources import ResourceRequest
from harness.scheduling.hardware import Cluster
from harness.scheduling.packing import Packer, Window
from harness.scheduling.predictor import Predictor
from harness.scheduling.work_stealing import WorkStealing
from results.outcomes import ErrorClass, Status

_ROOM = 1e-9  # fractions of a device add up to 1 within this


class World(Protocol):
    """What happens to the work."""

    def build(self, artifact: Artifact) -> float:
        """Seconds that an artifact takes."""

    def job(
        self, job: Job, request: ResourceRequest, node: int
    ) -> tuple[float, list[Event]]:
        """Seconds until a job ends on a node, and its events, one a trial.

        What their own seconds leave of it comes before the last.
        """

    def outages(self) -> list[tuple[float, int, float]]:
        """When a node fails, which, and for how many seconds."""


@dataclass(slots=True, eq=False)
class _Work:
    """A job or the building of an artifact, from its submission to its end."""

    request: ResourceRequest
    job: Job | None = None
    artifact: Artifact | None = None
    place: tuple[int, tuple[int, ...]] = (-1, ())  # node, devices
    began: float = 0.0
    since: float = 0.0  # when the trial in hand began
    # What is still to come, trial by trial: seconds, the trial's id, how it ends.
    ahead: deque[tuple[float, str, Event | None]] = field(default_factory=deque)
    back: frozenset[str] = frozenset()  # trials that it was asked to give back
    over: bool = False


class Simulated:
    """An executor whose clock jumps to the next event.

    Placement is what Ray's is meant to be: the first job of each shape goes where it
    fits best as soon as anything is free, and a node that fails takes its jobs along.

    Args:
        cluster: What there is.
        world: What happens.
        predictor: What the packing knows; it learns as on a real cluster.
    """

    def __init__(
        self, cluster: Cluster, world: World, predictor: Predictor | None = None
    ) -> None:
        self.packer = Packer(cluster=cluster, predictor=predictor or Predictor())
        self.world = world
        self.time = 0.0
        self.busy = 0.0  # seconds of devices (of processors where there are none)
        self._window = Window(self.packer)
        self._stealing = WorkStealing(self.packer)
        self._room = _Room(cluster)
        self._artifacts: dict[str, _Work | None] = {}  # None once it is built
        self._queues: dict[Any, deque[_Work]] = {}
        self._held: dict[str, list[_Work]] = {}
        self._agenda: list[tuple[float, int, str, Any]] = []
        self._order = 0
        for when, node, seconds in world.outages():
            self._at(when, "fails", (node, seconds))

    def check(self, bundles: Sequence[Bundle], store: str) -> None:
        """Nothing real is asked for."""

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
        """Let time pass without work."""
        self.time += seconds

    def run(self, jobs: Iterator[Job]) -> Iterator[tuple[Job, list[Event]]]:
        """Yield each job with its events as they come.

        Args:
            jobs: Drawn as a real executor draws them.

        Yields:
            The job and its next events.
        """
        in_hand = 0
        while True:
            while self._window.open():
                job = next(jobs, None)
                if job is None:
                    self._ask_back()
                    break
                self._submit(job)
                in_hand += 1
            if not in_hand:
                return
            for work, events in self._step():
                job = work.job
                assert job is not None
                in_hand -= work.over
                for event in events:
                    if event.numbers:
                        trial = job.trial(event.trial)
                        self.packer.learn(trial, work.request, event)
                yield job, events

    def _ask_back(self) -> None:
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
        missing = [
            a.id for a in job.bundle.artifacts if self._artifacts[a.id] is not None
        ]
        self._window.add(work, request, missing)
        if missing:
            self._held.setdefault(missing[0], []).append(work)
        else:
            self._queue(work)

    def _queue(self, work: _Work) -> None:
        queue = self._queues.setdefault(_queue_key(work.request), deque())
        place = None if queue else self._room.find(work.request)
        if place is None:
            queue.append(work)
        else:
            self._begin(work, place)

    def _begin(self, work: _Work, place: tuple[int, tuple[int, ...]]) -> None:
        self._room.take(work.request, place)
        work.place, work.began, work.since = place, self.time, self.time
        self._room.put(work)
        if work.job is None:
            assert work.artifact is not None
            self._at(self.time + self.world.build(work.artifact), "ends", work)
            return
        left, events = self.world.job(work.job, work.request, place[0])
        ids = [t.id for t in work.job.bundle.trials]
        ends: list[Event | None] = [*events] or [None]
        for trial, end in zip(ids, ends[:-1], strict=False):
            assert end is not None
            work.ahead.append((end.seconds, trial, end))
            left -= end.seconds
        work.ahead.append((max(0.0, left), ids[len(ends) - 1], ends[-1]))
        if work.back:
            self._at(self.time, "gives", work)
        self._at(self.time + work.ahead[0][0], "ends", work)

    def _at(self, when: float, what: str, about: Any) -> None:
        self._order += 1
        heapq.heappush(self._agenda, (when, self._order, what, about))

    def _step(self) -> Iterator[tuple[_Work, list[Event]]]:
        """The next thing that happens; what jobs tell of it."""
        when, _, what, about = heapq.heappop(self._agenda)
        self.time = max(self.time, when)
        if what == "fails":
            node, seconds = about
            self._room.down.add(node)
            for work in self._room.on(node):
                yield from self._fail(work)
            self._at(self.time + seconds, "returns", node)
        elif what == "returns":
            self._room.down.discard(about)
            self._refill((about, ()))
        elif about.over:
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
        """What it was asked for, but for the trial that begins now."""
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
        if work.artifact is not None:  # Ray builds it again, elsewhere
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
            headline="node failed",
            seconds=self.time - work.since,
        )
        yield from self._end(work, [crash])

    def _built(self, work: _Work) -> None:
        assert work.artifact is not None
        self._release(work)
        self._window.drop(work)
        key = work.artifact.id
        self._artifacts[key] = None
        self._window.built(key)
        for waiting in self._held.pop(key, []):
            assert waiting.job is not None
            missing = [
                a.id
                for a in waiting.job.bundle.artifacts
                if self._artifacts[a.id] is not None
            ]
            if missing:
                self._held.setdefault(missing[0], []).append(waiting)
            else:
                self._queue(waiting)
        self._refill(work.place)

    def _end(
        self, work: _Work, events: list[Event]
    ) -> Iterator[tuple[_Work, list[Event]]]:
        self._release(work)
        self._window.drop(work)
        self._stealing.drop(work)
        yield work, events
        self._refill(work.place)

    def _release(self, work: _Work) -> None:
        work.over = True
        self._room.give(work)
        parts = work.request.gpus if self.packer.cluster.gpus else work.request.cpus
        self.busy += (self.time - work.began) * parts

    def _refill(self, place: tuple[int, tuple[int, ...]]) -> None:
        """Give what was freed to the first job of each shape that fits there."""
        for key, queue in list(self._queues.items()):
            while queue:
                found = self._room.find(queue[0].request, place)
                if found is None:
                    break
                self._begin(queue.popleft(), found)
            if not queue:
                del self._queues[key]


def _queue_key(request: ResourceRequest) -> tuple[Any, ...]:
    """What Ray queues by."""
    return request.cpus, request.gpus, request.memory, request.device


def placeable(cluster: Cluster, request: ResourceRequest) -> bool:
    """Whether any node could hold a job, were nothing else running."""
    return _Room(cluster).find(request) is not None


class _Room:
    """What is free where."""

    def __init__(self, cluster: Cluster) -> None:
        owners = [i for i, n in enumerate(cluster.nodes) for _ in range(int(n.gpus))]
        self.kinds = [n.device.name if n.device else "" for n in cluster.nodes]
        self.owner = np.array(owners, dtype=int)
        self.devices: dict[int, list[int]] = {}
        for device, node in enumerate(owners):
            self.devices.setdefault(node, []).append(device)
        self.gpu = np.ones(len(owners))
        self.cpu = np.array([n.cpus for n in cluster.nodes], dtype=float)
        endless = float("inf")
        self.memory = np.array([n.memory or endless for n in cluster.nodes])
        self.down: set[int] = set()
        self._works: dict[int, dict[_Work, None]] = {}  # in the order of their starts

    def on(self, node: int) -> list[_Work]:
        """What runs on a node."""
        return list(self._works.get(node, ()))

    def find(
        self, request: ResourceRequest, near: tuple[int, tuple[int, ...]] | None = None
    ) -> tuple[int, tuple[int, ...]] | None:
        """Where an request fits best, anywhere or only where something was freed."""
        if not request.gpus:
            nodes = [near[0]] if near is not None else range(len(self.cpu))
            fit = [n for n in nodes if self._holds(request, n)]
            return (min(fit, key=lambda n: self.cpu[n]), ()) if fit else None
        if request.gpus > 1:
            return self._several(request, near)
        if near is None:
            free = np.flatnonzero(self.gpu >= request.gpus - _ROOM)
            ranked = free[np.argsort(self.gpu[free], kind="stable")].tolist()
        elif self._holds(request, near[0]):
            there = self.devices.get(near[0], [])
            share = {d: float(self.gpu[d]) for d in there}
            ranked = [d for d in there if share[d] >= request.gpus - _ROOM]
            ranked.sort(key=share.__getitem__)
        else:
            return None
        for device in ranked:
            node = int(self.owner[device])
            if self._holds(request, node):
                return node, (device,)
        return None

    def _several(
        self, request: ResourceRequest, near: tuple[int, tuple[int, ...]] | None
    ) -> tuple[int, tuple[int, ...]] | None:
        nodes = [near[0]] if near is not None else range(len(self.cpu))
        for node in nodes:
            whole = [d for d in self.devices.get(node, []) if self.gpu[d] == 1]
            if len(whole) >= request.gpus and self._holds(request, node):
                return node, tuple(whole[: int(request.gpus)])
        return None

    def _holds(self, request: ResourceRequest, node: int) -> bool:
        return (
            node not in self.down
            and self.cpu[node] >= request.cpus - _ROOM
            and self.memory[node] >= (request.memory or 0)
            and request.device in (None, self.kinds[node])
        )

    def take(
        self, request: ResourceRequest, place: tuple[int, tuple[int, ...]]
    ) -> None:
        """Occupy a place."""
        self._move(request, place, -1)

    def give(self, work: _Work) -> None:
        """Leave a place."""
        self._works[work.place[0]].pop(work)
        self._move(work.request, work.place, 1)

    def put(self, work: _Work) -> None:
        """Remember who is where."""
        self._works.setdefault(work.place[0], {})[work] = None

    def _move(
        self, request: ResourceRequest, place: tuple[int, tuple[int, ...]], sign: int
    ) -> None:
        node, taken = place
        self.cpu[node] += sign * request.cpus
        self.memory[node] += sign * (request.memory or 0)
        for device in taken:
            share = self.gpu[device] + sign * min(1.0, request.gpus)
            self.gpu[device] = 1.0 if abs(share - 1) < _ROOM else max(0.0, share)
