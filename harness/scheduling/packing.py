"""Decides what each bundle requests and in which order bundles run."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress, count

from harness.planning.messages import Event
from harness.planning.plan import Bundle, CostClass
from harness.planning.resources import ResourceRequest
from harness.planning.trial import Trial
from harness.scheduling.hardware import CPU, Cluster, Device
from harness.scheduling.predictor import Need, Predictor
from harness.scheduling.priors import CONTEXT

MARGIN = 1.15  # factor over the predicted peak
LEAST = 0.05  # the smallest share of a device: at most twenty bundles on one
# Host bytes are requested in multiples of this, since Ray queues tasks by their request
# and is slow with many different ones.
STEP = 512 * 2**20
USABLE = 0.9  # the largest share of a node's or a device's memory that is requested
GRAIN = 0.25  # bundles longer than this share of the plan's ideal time are cut
REPEATED = 0.1  # the share of a bundle that a cut may repeat when no slot is idle


@dataclass(slots=True, kw_only=True)
class Packer:
    """Decides requests and order for every executor, real or simulated.

    Args:
        cluster: The nodes; replaced by the executor when nodes join or leave.
        predictor: Predicts the cost of bundles.
    """

    cluster: Cluster
    predictor: Predictor = field(default_factory=Predictor)
    _arranged_at: int = 0  # trials that the predictor had seen at the last order

    @property
    def device(self) -> Device:
        """The kind of device that seconds are predicted for: the smallest one."""
        devices = self.cluster.devices
        return devices[0] if devices else CPU

    def need(self, bundle: Bundle) -> Need:
        """The predicted cost of a bundle, on a CPU if its grid says ``gpus: 0``."""
        on_cpu = bundle.resources.gpus == 0 or not self.cluster.gpus
        return self.predictor.bundle(bundle, CPU if on_cpu else self.device)

    def request(self, bundle: Bundle) -> ResourceRequest:
        """The resources that a bundle requests from the cluster.

        Numbers in the grid win. Without them the share of a device is the predicted
        peak, with a margin, divided by the memory of the smallest device that holds it;
        host memory is the predicted peak with a margin. A bundle whose peak was
        underestimated before gets its device alone and more host memory.
        """
        asked, need = bundle.resources, self.need(bundle)
        alone = bundle.exclusive or bundle.underestimated > 0
        gpus, device, wanted = self._devices(bundle, need)
        if alone and gpus:
            # A share would let the packing put other bundles beside this one.
            gpus = float(math.ceil(gpus))
        cpus = asked.cpus
        # A measurement of speed must not share the processors of its node.
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
        """Share of a device, its kind if only some kinds fit, bytes to check."""
        asked, devices = bundle.resources, self.cluster.devices
        stated = asked.device_bytes
        checked = _to_check(stated, need, devices)
        # The user's own number is not tied to a kind of device.
        if asked.gpus is not None:
            return asked.gpus, None, checked
        # Without devices, a bundle that states device memory still requests one: the
        # check before the run then reports that no node has it.
        if not self.cluster.gpus and stated is None:
            return 0.0, None, None
        peak = (stated or need.device.high) * MARGIN
        fitting = [d for d in devices if d.bytes is not None and d.bytes >= peak]
        # All sizes are unknown, or below the prediction: the largest device, whole.
        if not fitting:
            largest = [d for d in devices if d.bytes is not None][-1:]
            kind = largest[0].name if largest and len(devices) > 1 else None
            return 1.0, kind, checked
        # Rounded up to 1 %: a share that is too small would let one bundle too many in.
        smallest = fitting[0]
        assert smallest.bytes is not None
        share = max(LEAST, math.ceil(100 * peak / smallest.bytes) / 100)
        kind = smallest.name if len(fitting) < len(devices) else None
        return min(1.0, share), kind, checked

    def _memory(self, bundle: Bundle, need: Need) -> int | None:
        """Host bytes to request; None if nothing states a limit."""
        stated, most = bundle.resources.bytes, self.cluster.memory
        # Twice as much for each time that the bundle ran out of memory.
        doubled = 2**bundle.underestimated
        if stated is not None:
            # The grid's own number stands even if no node has so much: the check before
            # the run reports that. Only our doubling is limited to the largest node.
            if not bundle.underestimated or most is None:
                return stated * doubled
            return min(stated * doubled, most)
        if most is None:
            return None
        steps = math.ceil(need.host.high * MARGIN / STEP)
        return int(min(steps * STEP * doubled, USABLE * most))

    def _host_check(self, bundle: Bundle, need: Need) -> int | None:
        """Host bytes that must be free at the start; a prior alone is not checked."""
        sure = bundle.resources.bytes or (need.host.high if need.known else None)
        most = self.cluster.memory
        if sure is None or most is None:
            return None if sure is None else int(sure)
        return int(min(sure, USABLE * most))

    def learn(self, trial: Trial, request: ResourceRequest, event: Event) -> None:
        """Passes the measurements of a trial that ended to the predictor."""
        device = (request.device or self.device.name) if request.gpus else CPU.name
        self.predictor.learn(trial, event.numbers, device)

    def width(self, bundles: Sequence[Bundle]) -> int:
        """How many of such bundles run at once on an empty cluster, at least 1."""
        if not bundles:
            return 1
        # The mix of bundles is scaled up until the first kind of resource is exhausted.
        counts = Counter(b.cost_class for b in bundles)
        used = dict.fromkeys(self.cluster.capacity, 0.0)
        for cost_class, bundle in _examples(bundles).items():
            for name, part in _slot(self.request(bundle)).items():
                used[name] += part * counts[cost_class]
        # Running the whole mix at once would take ``used``; the share room / used of it
        # fits.
        wide = [
            room * len(bundles) / used[name]
            for name, room in self.cluster.capacity.items()
            if room and used[name]
        ]
        return max(1, int(min(wide, default=1)))

    def arrange(self, bundles: Sequence[Bundle]) -> list[Bundle]:
        """Cuts long bundles and sorts all of them into the order of submission.

        The longest predicted bundle runs first, the wait for its artifacts included.
        Such list scheduling takes at most 4/3 of the shortest possible time (Graham
        1969, doi:10.1137/0117039). Bundles that need a device alone run last, since
        they would keep other bundles from sharing it.

        A bundle is cut by ratio, then by task, while slots are idle, or while it takes
        more than a quarter of the ideal time of the plan and a cut repeats little.

        Args:
            bundles: The bundles of the plan, each as large as sharing allows.

        Returns:
            The same trials in as many bundles or more.
        """
        parts = self._cut(list(bundles))
        built = self._built(bundles)
        needs = {cost_class: self.need(b) for cost_class, b in _examples(parts).items()}
        self._arranged_at = self.predictor.learnt

        def rank(bundle: Bundle) -> tuple[bool, float]:
            waits = max((built[a.id] for a in bundle.artifacts), default=0.0)
            return bundle.exclusive, -(waits + needs[bundle.cost_class].seconds.mid)

        return sorted(parts, key=rank)

    def stale(self) -> bool:
        """Whether so many trials ended that the order should be computed again."""
        return self.predictor.learnt >= max(64, 2 * self._arranged_at)

    def _built(self, bundles: Iterable[Bundle]) -> dict[str, float]:
        """Artifact id -> seconds that building it takes."""
        artifacts = {a.id: a for b in bundles for a in b.artifacts}
        return {
            key: self.predictor.artifact(a, self.device).mid
            for key, a in artifacts.items()
        }

    def _cut(self, bundles: list[Bundle]) -> list[Bundle]:
        """Cuts the longest bundle in two until no cut ends the plan sooner."""
        width, order = self.width(bundles), count()
        needs = {c: self.need(b) for c, b in _examples(bundles).items()}
        built = self._built(bundles)
        # ``total`` is the work of all bundles; ``chain`` the longest time that one
        # trial takes with its artifacts and fit: no cut makes the plan shorter.
        total, chain = 0.0, 0.0
        heap = []
        for bundle in bundles:
            need = needs[bundle.cost_class]
            wait = max((built[a.id] for a in bundle.artifacts), default=0.0)
            trial = (need.seconds.mid - need.setup) / len(bundle.trials)
            chain = max(chain, wait + need.setup + trial)
            total += need.seconds.mid
            # The longest bundle is first. The running number keeps equal ones in order
            # and the comparison away from bundles, which have none.
            heap.append((-wait - need.seconds.mid, next(order), need, bundle))
        heapq.heapify(heap)
        done: list[tuple[Need, Bundle]] = []
        while heap:
            idle = len(heap) + len(done) < width
            ideal = total / width
            # In list scheduling the bundle that starts last starts before ``ideal``, so
            # that the plan ends at most its length later. Shorter bundles than this are
            # not worth a repeated fit.
            length = max(GRAIN * ideal, chain - ideal)
            minus, _, need, bundle = heap[0]
            if not idle and -minus <= length:
                break
            heapq.heappop(heap)
            # A repeated fit costs nothing if the slot were idle otherwise, or if all
            # others, and the fit, would end before this bundle.
            free = idle or -minus > max((total + need.setup) / width, chain)
            wanted = free or need.seconds.mid > length
            cheap = free or need.setup <= REPEATED * need.seconds.mid
            halves = _halves(bundle) if wanted and cheap else []
            parts = [(self.need(b), b) for b in halves]
            others = [] if idle else [n for _, _, n, _ in heap] + [n for n, _ in done]
            if (
                not parts
                or not _sooner(need, [n for n, _ in parts], free=free)
                or (free and _crowded(-minus, [n for n, _ in parts], others, width))
            ):
                done.append((need, bundle))
                continue
            total += sum(n.seconds.mid for n, _ in parts) - need.seconds.mid
            wait = -minus - need.seconds.mid
            for its, half in parts:
                heapq.heappush(heap, (-wait - its.seconds.mid, next(order), its, half))
        kept = [b for _, _, _, b in sorted(heap, key=lambda one: one[1])]
        return [b for _, b in done] + kept


def _to_check(stated: int | None, need: Need, devices: Sequence[Device]) -> int | None:
    """Bytes that must be free on a device before a bundle starts.

    The check runs in the worker, after CUDA has taken its own part of the memory, so
    that part is not required once more. At most 90 % of a device are required, since no
    device ever reports all of its memory as free.
    """
    if stated is None and not need.known:
        return None
    wanted = stated if stated is not None else need.device.high - CONTEXT
    largest = max((d.bytes for d in devices if d.bytes is not None), default=None)
    return int(wanted if largest is None else min(wanted, USABLE * largest))


def _slot(request: ResourceRequest) -> dict[str, float]:
    """What a request takes from others; includes the unusable rest of a device."""
    parts = amounts(request)
    if 0 < request.gpus < 1:
        # Two bundles with a share of 0.4 leave 0.2 that no third one can use. The 1e-9
        # repairs a quotient that rounding left just below a whole number.
        parts["gpu"] = 1 / int(1 / request.gpus + 1e-9)
    return parts


def _examples(bundles: Iterable[Bundle]) -> dict[CostClass, Bundle]:
    """One bundle of each cost class, since equal classes have equal predictions."""
    return {bundle.cost_class: bundle for bundle in bundles}


def _sooner(whole: Need, halves: Sequence[Need], *, free: bool) -> bool:
    """Whether the longer half is shorter than the whole by a tenth.

    A bundle that is mostly one fit or one trial gains nothing from a cut. The fraction
    is not asked if the cost is a guess, or if the caller checked that setup is short.
    """
    longest = max(n.seconds.mid for n in halves)
    shorter = longest <= (1 - REPEATED) * whole.seconds.mid
    return not free or whole.guessed or shorter


def _crowded(
    length: float, halves: Sequence[Need], others: Sequence[Need], width: int
) -> bool:
    """Whether the halves of a bundle that takes ``length`` seconds cannot end sooner.

    Of more than ``width`` bundles that take h seconds or longer two run in one slot, so
    that they end after 2 h: four bundles of 4 s on three slots take 8 s.
    """
    least = min(n.seconds.mid for n in halves)
    as_long = len(halves) + sum(n.seconds.mid >= least for n in others)
    return as_long > width and 2 * least >= length


def _halves(bundle: Bundle) -> list[Bundle]:
    """Two parts by ratio, else by task; none if all trials have one of each."""
    trials = bundle.trials
    # A cut by ratio repeats load and fit only; a cut by task repeats compressions too.
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


def amounts(request: ResourceRequest) -> dict[str, float]:
    """The amount of each kind of resource in a request."""
    return {
        "cpu": request.cpus,
        "gpu": request.gpus,
        "memory": float(request.memory or 0),
    }
