"""Forecasts the time and the memory of a plan on a cluster, with intervals."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from harness.core import BenchError
from harness.planning.messages import Event, Job
from harness.planning.plan import Artifact, Plan
from harness.planning.resources import ResourceRequest, gigabytes
from harness.scheduling.feasibility import misfits
from harness.scheduling.hardware import Cluster, Node
from harness.scheduling.interval import Interval, format_duration
from harness.scheduling.packing import Packer
from harness.scheduling.predictor import Predictor
from harness.scheduling.simulation import Simulated

# One slot that runs one bundle at a time, whatever the bundle requests.
ONE = Cluster(nodes=(Node(cpus=1),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The predicted cost of a plan.

    Args:
        seconds: From the start of the first bundle to the end of the last one.
        busy: Sum of the seconds of all devices; of processors if there are no devices.
        device: Peak bytes of the largest bundle on a device.
        host: Peak bytes of the largest bundle on the host.
        shares: The average number of bundles that run on one device at once.
        guessed: The number of trials whose seconds are partly a prior.
    """

    seconds: Interval
    busy: Interval
    device: Interval
    host: Interval
    shares: float
    guessed: int


class _AsPredicted:
    """A world in which everything takes exactly as long as predicted."""

    def __init__(self, packer: Packer) -> None:
        self.packer = packer

    def build(self, artifact: Artifact) -> float:
        return self.packer.predictor.artifact(artifact, self.packer.device).mid

    def job(
        self, job: Job, request: ResourceRequest, node: int
    ) -> tuple[float, list[Event]]:
        return self.packer.need(job.bundle).seconds.mid, []

    def outages(self) -> list[tuple[float, int, float]]:
        return []


def forecast(plan: Plan, cluster: Cluster, predictor: Predictor) -> Forecast:
    """Runs a plan in virtual time.

    The time is that of a simulation in which every bundle takes as long as predicted.
    The interval around it assumes that the errors of one method and model go the same
    way, and that those of different methods or models are independent.

    Args:
        plan: A plan with at least one bundle.
        cluster: The machines; ``ONE`` runs one bundle after the other.
        predictor: Predicts the cost of each bundle.

    Returns:
        The forecast.

    Raises:
        BenchError: If no node can hold some bundle; names every such method and model.
    """
    packer = Packer(cluster=cluster, predictor=predictor)
    # Bundles as they are planned; the simulation sorts and cuts them.
    needs = [(b, packer.need(b)) for b in plan.bundles]
    # One slot has no packing: the work is a sum, whatever the bundles request.
    if cluster is ONE:
        built = (predictor.artifact(a).mid for a in plan.artifacts.values())
        time = busy = sum(n.seconds.mid for _, n in needs) + sum(built)
    else:
        time, busy = _simulated(plan, packer)
    requests = [packer.request(b) for b, _ in needs]
    spread = _spread(plan, packer)
    return Forecast(
        seconds=_around(time, spread),
        busy=_around(busy, spread),
        device=max((n.device for _, n in needs), key=lambda s: s.high),
        host=max((n.host for _, n in needs), key=lambda s: s.high),
        shares=len(requests) / (sum(a.gpus for a in requests) or len(requests)),
        guessed=sum(len(b.trials) for b, n in needs if n.guessed),
    )


def _simulated(plan: Plan, packer: Packer) -> tuple[float, float]:
    """Seconds from start to end, and the sum of the seconds of all devices."""
    wrong = misfits(packer, plan.bundles)
    if wrong:
        raise BenchError(*wrong)
    work = Simulated(packer.cluster, _AsPredicted(packer), packer.predictor)
    # Only the clock counts: nobody retries in a forecast, so that no event is answered.
    for _ in work.run(_jobs(plan, packer)):
        pass
    return work.time, work.busy


def _jobs(plan: Plan, packer: Packer) -> Iterator[Job]:
    for bundle in packer.arrange(plan.bundles):
        yield Job(bundle=bundle, attempts={}, store="", grid="", run="")


def _spread(plan: Plan, packer: Packer) -> Interval:
    """The interval of the whole work, as multiples of its middle."""
    # Errors within a kind add up; errors of different kinds add as squares.
    kinds: dict[object, Interval] = defaultdict(lambda: Interval(0.0, 0.0, 0.0))
    for bundle in plan.bundles:
        first = bundle.trials[0]
        kinds[first.method, first.model] += packer.need(bundle).seconds
    for artifact in plan.artifacts.values():
        seconds = packer.predictor.artifact(artifact, packer.device)
        kinds[artifact.kind, artifact.model] += seconds
    mid = sum(s.mid for s in kinds.values()) or 1.0  # nothing takes time: no interval
    # The two sides are added apart, since priors reach further up than down.
    below = math.sqrt(sum((s.mid - s.low) ** 2 for s in kinds.values()))
    above = math.sqrt(sum((s.high - s.mid) ** 2 for s in kinds.values()))
    # As factors, so that one spread serves both the time on the cluster, which is
    # shorter than the work, and the busy seconds of its devices.
    return Interval(max(0.0, 1 - below / mid), 1.0, 1 + above / mid)


def _around(value: float, spread: Interval) -> Interval:
    return Interval(value * spread.low, value, value * spread.high)


def sentences(plan: Plan, cluster: Cluster, predictor: Predictor) -> Iterator[str]:
    """Describes the forecast of a plan in sentences.

    Args:
        plan: A plan, possibly without bundles.
        cluster: The machines, or ``ONE``.
        predictor: Predicts the cost of each bundle.

    Yields:
        Lines of text.
    """
    if not plan.trials:
        yield "no work left"
        return
    try:
        found = forecast(plan, cluster, predictor)
    except BenchError as why:
        yield from (f"no forecast: {reason}" for reason in why.errors)
        return
    if cluster is ONE:
        yield f"about {_times(found.seconds)} of work for one slot"
    else:
        what = "device" if cluster.gpus else "processor"
        yield (
            f"on {cluster}: about {_times(found.seconds)}, {_hours(found.busy)} "
            f"{what}-hours"
        )
    if cluster.gpus:
        yield (
            f"largest bundle: {_bytes(found.device)} on a device, {_bytes(found.host)} "
            f"on its host; {found.shares:.3g} bundles share a device"
        )
    else:
        yield f"largest bundle: {_bytes(found.host)} of host memory"
    if found.guessed:
        yield (
            f"no history for {found.guessed} of {plan.trials} trials: default "
            "estimates are used (within a factor of ten)"
        )


def _times(value: Interval) -> str:
    low, mid, high = map(format_duration, (value.low, value.mid, value.high))
    return f"{mid} ({low} to {high})"


def _hours(value: Interval) -> str:
    low, mid, high = (v / 3600 for v in (value.low, value.mid, value.high))
    return f"{mid:.3g} ({low:.3g} to {high:.3g})"


def _bytes(value: Interval) -> str:
    return f"{gigabytes(value.mid)} ({gigabytes(value.low)} to {gigabytes(value.high)})"
