"""How long a plan will take on a cluster, and what it needs there, with an interval."""

from __future__ import annotations

import math
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

ONE = Cluster(nodes=(Node(cpus=1),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a plan will take.

    Args:
        seconds: From the first bundle to the last.
        busy: Seconds of devices, or of processors where there is none.
        device: Peak bytes of the largest bundle on a device.
        host: Peak bytes of the largest bundle on the host.
        shares: How many of the plan's bundles run on one device at once, on average.
        guessed: Trials in whose seconds a prior stands for what was never seen.
    """

    seconds: Interval
    busy: Interval
    device: Interval
    host: Interval
    shares: float
    guessed: int


class _AsPredicted:
    """A world in which everything takes as long as predicted."""

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
    """Run a plan in virtual time.

    The time is that of a simulation with every bundle as long as predicted. Its
    interval is that of the work: within trials of one method and model all err
    together, those of different ones independently.

    Args:
        plan: What is to run; at least one bundle.
        cluster: Where.
        predictor: What is known.

    Returns:
        The forecast.

    Raises:
        BenchError: If no node could ever hold some bundle; names each.
    """
    packer = Packer(cluster=cluster, predictor=predictor)
    needs = [(b, packer.need(b)) for b in plan.bundles]
    if cluster is ONE:  # whatever a bundle asks for, one goes after the other
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
    """Seconds from the first bundle to the last, and of all devices."""
    wrong = misfits(packer, plan.bundles)
    if wrong:
        raise BenchError(*wrong)
    work = Simulated(packer.cluster, _AsPredicted(packer), packer.predictor)
    for _ in work.run(_jobs(plan, packer)):
        pass
    return work.time, work.busy


def _jobs(plan: Plan, packer: Packer) -> Iterator[Job]:
    for bundle in packer.arrange(plan.bundles):
        yield Job(bundle=bundle, attempts={}, store="", grid="", run="")


def _spread(plan: Plan, packer: Packer) -> Interval:
    """The whole work as a share of its middle: errors of one kind add up."""
    kinds: dict[object, Interval] = {}
    for bundle in plan.bundles:
        key = (bundle.trials[0].method, bundle.trials[0].model)
        seconds = packer.need(bundle).seconds
        kinds[key] = kinds[key] + seconds if key in kinds else seconds
    for artifact in plan.artifacts.values():
        kinds[artifact.kind, artifact.model] = packer.predictor.artifact(
            artifact, packer.device
        )
    mid = sum(s.mid for s in kinds.values()) or 1.0
    below = math.sqrt(sum((s.mid - s.low) ** 2 for s in kinds.values()))
    above = math.sqrt(sum((s.high - s.mid) ** 2 for s in kinds.values()))
    return Interval(max(0.0, 1 - below / mid), 1.0, 1 + above / mid)


def _around(value: float, spread: Interval) -> Interval:
    return Interval(value * spread.low, value, value * spread.high)


def sentences(plan: Plan, cluster: Cluster, predictor: Predictor) -> Iterator[str]:
    """A forecast as a person reads it.

    Args:
        plan: What is to run.
        cluster: Where.
        predictor: What is known.

    Yields:
        Lines.
    """
    if not plan.trials:
        yield "no work left"
        return
    try:
        found = forecast(plan, cluster, predictor)
    except BenchError as why:
        yield from (f"no forecast: {reason}" for reason in why.mistakes)
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
            f"{found.guessed} of {plan.trials} trials are like none that finished: "
            "stated priors stand for them, good to a factor of ten"
        )


def _times(value: Interval) -> str:
    low, mid, high = map(format_duration, (value.low, value.mid, value.high))
    return f"{mid} ({low} to {high})"


def _hours(value: Interval) -> str:
    low, mid, high = (v / 3600 for v in (value.low, value.mid, value.high))
    return f"{mid:.3g} ({low:.3g} to {high:.3g})"


def _bytes(value: Interval) -> str:
    return f"{gigabytes(value.mid)} ({gigabytes(value.low)} to {gigabytes(value.high)})"
