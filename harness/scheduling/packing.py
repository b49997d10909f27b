"""Decides what each bundle asks for, in which order bundles go, and where they fit."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress, count

from harness.planning.messages import Event
from harness.planning.plan import Bundle, CostClass
from harness.planning.resources import ResourceRequest
from harness.planning.trial import Trial
from harness.scheduling.hardware import CPU, Cluster, Device
from harness.scheduling.predictor import Need, Predictor
from harness.scheduling.priors import CONTEXT

MARGIN = 1.15  # over the predicted peak
LEAST = 0.05  # of a device: at most twenty bundles share one
STEP = 512 * 2**20  # host bytes are asked for in such steps: few shapes for Ray
USABLE = 0.9  # of a node's or a device's memory, where more is asked for
GRAIN = 0.25  # of the ideal time of the whole plan: longer bundles are cut
REPEATED = 0.1  # the share of a bundle that a cut may repeat when no slot is idle
AHEAD = 1.25  # of the cluster's room is handed to Ray, and never fewer than FEW bundles
FEW = 4
HELD = 1000  # bundles that may wait for artifacts, whatever the cluster


@dataclass(slots=True, kw_only=True)
class Packer:
    """The one place that decides; every executor asks it.

    Args:
        cluster: What there is; may be replaced while nodes come and go.
        predictor: What bundles will take.
    """

    cluster: Cluster
    predictor: Predictor = field(default_factory=Predictor)
    _arranged_at: int = 0

    @property
    def device(self) -> Device:
        """The kind of device that seconds are predicted for."""
        devices = self.cluster.devices
        return devices[0] if devices else CPU

    def need(self, bundle: Bundle) -> Need:
        """What a bundle will take, on a device unless it asks for none."""
        on_cpu = bundle.resources.gpus == 0 or not self.cluster.gpus
        return self.predictor.bundle(bundle, CPU if on_cpu else self.device)

    def request(self, bundle: Bundle) -> ResourceRequest:
        """What a bundle asks for.

        A number in the grid is obeyed. Else the device's share is the predicted peak
        with a margin over the device's memory, and host memory the predicted peak.
        A bundle whose prediction underestimated before gets its device alone.

        Args:
            bundle: The trials.

        Returns:
            The request.
        """
        asked, need = bundle.resources, self.need(bundle)
        alone = bundle.exclusive or bundle.underestimated > 0
        gpus, device, wanted = self._devices(bundle, need)
        if alone and gpus:
            gpus = float(math.ceil(gpus))
        cpus = asked.cpus
        if bundle.exclusive and not gpus:
            cpus = max((n.cpus for n in self.cluster.nodes), default=asked.cpus)
        return ResourceRequest(
            cpus=cpus,
            gpus=gpus,
            memory=self._memory(bundle, need),
            device=device,
            device_bytes=wanted if gpus else None,
            host_bytes=self._host_check(bundle, need),
        )

    def _devices(
        self, bundle: Bundle, need: Need
    ) -> tuple[float, str | None, int | None]:
        """The share of a device, its kind where it matters, and the bytes to check."""
        asked, devices = bundle.resources, self.cluster.devices
        stated = asked.device_bytes
        checked = _to_check(stated, need, devices)
        if asked.gpus is not None:
            return asked.gpus, None, checked
        if not self.cluster.gpus and stated is None:
            return 0.0, None, None
        peak = (stated or need.device.high) * MARGIN
        fitting = [d for d in devices if d.bytes is not None and d.bytes >= peak]
        if not fitting:  # of unknown size, or too small for the prediction: a whole one
            largest = [d for d in devices if d.bytes is not None][-1:]
            kind = largest[0].name if largest and len(devices) > 1 else None
            return 1.0, kind, checked
        smallest = fitting[0]
        assert smallest.bytes is not None
        share = max(LEAST, math.ceil(100 * peak / smallest.bytes) / 100)
        kind = smallest.name if len(fitting) < len(devices) else None
        return min(1.0, share), kind, checked

    def _memory(self, bundle: Bundle, need: Need) -> int | None:
        asked, most = bundle.resources.bytes, self.cluster.memory
        if asked is not None:
            wanted = asked * 2**bundle.underestimated
            return (
                wanted
                if not bundle.underestimated or most is None
                else min(wanted, most)
            )
        if most is None:
            return None
        wanted = (
            math.ceil(need.host.high * MARGIN / STEP) * STEP * 2**bundle.underestimated
        )
        return int(min(wanted, USABLE * most))

    def _host_check(self, bundle: Bundle, need: Need) -> int | None:
        sure = bundle.resources.bytes or (need.host.high if need.known else None)
        most = self.cluster.memory
        if sure is None or most is None:
            return None if sure is None else int(sure)
        return int(min(sure, USABLE * most))

    def learn(self, trial: Trial, request: ResourceRequest, event: Event) -> None:
        """Let the next prediction know what a trial took."""
        device = (request.device or self.device.name) if request.gpus else CPU.name
        self.predictor.learn(trial, event.numbers, device)

    def width(self, bundles: Sequence[Bundle]) -> int:
        """How many bundles like these can run at once, at least 1."""
        if not bundles:
            return 1
        counts = Counter(b.cost_class for b in bundles)
        used = dict.fromkeys(_capacity(self.cluster), 0.0)
        for cost_class, bundle in _some(bundles).items():
            for name, part in _slot(self.request(bundle)).items():
                used[name] += part * counts[cost_class]
        wide = [
            room * len(bundles) / used[name]
            for name, room in _capacity(self.cluster).items()
            if room and used[name]
        ]
        return max(1, int(min(wide, default=1)))

    def arrange(self, bundles: Sequence[Bundle]) -> list[Bundle]:
        """Bundles in the order in which they go, those that take long cut in parts.

        Longest predicted first, artifacts included, as list scheduling wants it
        (Graham 1969, doi:10.1137/0117039: at most 4/3 of the shortest time); what
        needs a device alone goes last, when nothing is left that would fill it.
        Bundles are cut by ratio, then by task, while slots are idle, or while a bundle
        takes more than a quarter of what the whole plan takes at best and a cut
        repeats little.

        Args:
            bundles: As planned, with the most sharing.

        Returns:
            As many bundles or more, with the same trials.
        """
        parts = self._cut(list(bundles))
        built = self._built(bundles)
        needs = {cost_class: self.need(b) for cost_class, b in _some(parts).items()}
        self._arranged_at = self.predictor.learnt

        def place(bundle: Bundle) -> tuple[bool, float]:
            waits = max((built[a.id] for a in bundle.artifacts), default=0.0)
            return bundle.exclusive, -(waits + needs[bundle.cost_class].seconds.mid)

        return sorted(parts, key=place)

    def stale(self) -> bool:
        """Whether so much was learnt that the order should be made anew."""
        return self.predictor.learnt >= max(64, 2 * self._arranged_at)

    def _built(self, bundles: Iterable[Bundle]) -> dict[str, float]:
        """Seconds that building each artifact takes."""
        artifacts = {a.id: a for b in bundles for a in b.artifacts}
        return {
            key: self.predictor.artifact(a, self.device).mid
            for key, a in artifacts.items()
        }

    def _cut(self, bundles: list[Bundle]) -> list[Bundle]:
        width, order = self.width(bundles), count()
        known = {cost_class: self.need(b) for cost_class, b in _some(bundles).items()}
        needs = [known[b.cost_class] for b in bundles]
        total = sum(n.seconds.mid for n in needs)
        built = self._built(bundles)
        chain = 0.0  # what the longest trial takes alone: no cut ends sooner
        heap = []
        for need, bundle in zip(needs, bundles, strict=True):
            wait = max((built[a.id] for a in bundle.artifacts), default=0.0)
            trial = (need.seconds.mid - need.setup) / len(bundle.trials)
            chain = max(chain, wait + need.setup + trial)
            heap.append((-wait - need.seconds.mid, next(order), need, bundle))
        heapq.heapify(heap)
        done: list[Bundle] = []
        while heap:
            idle = len(heap) + len(done) < width
            ideal = total / width
            # Whatever starts last ends at ``ideal`` plus its length, or sooner.
            length = max(GRAIN * ideal, chain - ideal)
            minus, _, need, bundle = heap[0]
            if not idle and -minus <= length:
                break
            heapq.heappop(heap)
            # Costs nobody anything, or all would wait for it.
            free = idle or -minus > max(ideal, chain)
            wanted = free or need.seconds.mid > length
            cheap = free or need.setup <= REPEATED * need.seconds.mid
            halves = _halves(bundle) if wanted and cheap else []
            parts = [(self.need(b), b) for b in halves]
            if not parts or not _sooner(need, [n for n, _ in parts], free=free):
                done.append(bundle)
                continue
            total += sum(n.seconds.mid for n, _ in parts) - need.seconds.mid
            wait = -minus - need.seconds.mid
            for its, half in parts:
                heapq.heappush(heap, (-wait - its.seconds.mid, next(order), its, half))
        kept = [b for _, _, _, b in sorted(heap, key=lambda one: one[1])]
        return done + kept


def _to_check(stated: int | None, need: Need, devices: Sequence[Device]) -> int | None:
    """Bytes that must be free on a device before a bundle starts.

    What is free there is told by a process that has CUDA's own part already. Nobody has
    more free than most of a device, whatever was predicted.
    """
    if stated is None and not need.known:
        return None
    wanted = stated if stated is not None else need.device.high - CONTEXT
    largest = max((d.bytes for d in devices if d.bytes is not None), default=None)
    return int(wanted if largest is None else min(wanted, USABLE * largest))


def _slot(request: ResourceRequest) -> dict[str, float]:
    """What a request takes from others; includes the unusable rest of a device."""
    parts = _parts(request)
    if 0 < request.gpus < 1:
        parts["gpu"] = 1 / int(1 / request.gpus + 1e-9)
    return parts


def _some(bundles: Iterable[Bundle]) -> dict[CostClass, Bundle]:
    """One bundle of each cost_class."""
    return {bundle.cost_class: bundle for bundle in bundles}


def _sooner(whole: Need, halves: Sequence[Need], *, free: bool) -> bool:
    """Whether a cut on idle slots ends sooner; one that others pay for always does."""
    longest = max(n.seconds.mid for n in halves)
    shorter = longest <= (1 - REPEATED) * whole.seconds.mid
    return not free or whole.guessed or shorter


def _halves(bundle: Bundle) -> list[Bundle]:
    """A bundle in two, by ratio, else by task; nothing where there is one of each."""
    trials = bundle.trials
    for axis in ("ratio", "task"):
        values = list(dict.fromkeys(getattr(t, axis) for t in trials))
        if len(values) > 1:
            first = set(values[: len(values) // 2])
            sides = [getattr(t, axis) in first for t in trials]
            return [
                bundle.part(tuple(compress(trials, keep)))
                for keep in (sides, [not side for side in sides])
            ]
    return []


class Window:
    """How much is with Ray: enough to keep every slot busy, no more.

    Bundles that wait for an artifact take no slot and do not count, so that one long
    training never keeps others from running.
    """

    def __init__(self, packer: Packer) -> None:
        self.packer = packer
        self._used = dict.fromkeys(_capacity(packer.cluster), 0.0)
        self._requests: dict[Hashable, ResourceRequest] = {}
        self._waits: dict[Hashable, set[str]] = {}
        self._waiting: dict[str, set[Hashable]] = {}

    def open(self) -> bool:
        """Whether another bundle may be handed over."""
        if len(self._waits) > HELD:
            return False
        if len(self._requests) - len(self._waits) < FEW:
            return True
        room = _capacity(self.packer.cluster)
        return all(
            self._used[name] < AHEAD * most
            for name, most in room.items()
            if self._used[name]
        )

    def add(
        self, job: Hashable, request: ResourceRequest, waits: Iterable[str] = ()
    ) -> None:
        """A job was handed over; ``waits`` are artifacts that are not built yet."""
        self._requests[job] = request
        missing = set(waits)
        if not missing:
            self._count(request, 1)
            return
        self._waits[job] = missing
        for artifact in missing:
            self._waiting.setdefault(artifact, set()).add(job)

    def built(self, artifact: str) -> None:
        """An artifact was built, or failed: who waited for it takes its slot."""
        for job in self._waiting.pop(artifact, set()):
            missing = self._waits.get(job)
            if missing is None:
                continue
            missing.discard(artifact)
            if not missing:
                del self._waits[job]
                self._count(self._requests[job], 1)

    def drop(self, job: Hashable) -> None:
        """A job ended."""
        request = self._requests.pop(job)
        if self._waits.pop(job, None) is None:
            self._count(request, -1)

    def _count(self, request: ResourceRequest, sign: int) -> None:
        for name, part in _parts(request).items():
            self._used[name] += sign * part
            if abs(self._used[name]) < 1e-6:  # sums of fractions
                self._used[name] = 0.0


def _parts(request: ResourceRequest) -> dict[str, float]:
    return {
        "cpu": request.cpus,
        "gpu": request.gpus,
        "memory": float(request.memory or 0),
    }


def _capacity(cluster: Cluster) -> dict[str, float]:
    memory = cluster.total_memory
    return {"cpu": cluster.cpus, "gpu": cluster.gpus, "memory": float(memory)}
