"""100,000 trials on 1,024 devices in virtual time, by the code that runs real ones.

The grid is read, planned and arranged as ever; the real driver hands bundles to a
simulated executor, which packs them with the real packing and only leaves the work
away. Every step of every method and model has a hidden length and a hidden peak that
the predictor must learn: the stated prior of the device times a lognormal factor (sigma
0.5 in time, 0.3 in bytes), and evaluations forty times that. Single trials scatter
around their step with the sigma that is measured in a store (``--store``; 0.25 by
default), and every step in a hundred takes three times as long. One trial in a thousand
loses its worker, and twelve nodes fail and return; the bound knows of neither. The
longest chain that was run does: it has what a trial took in vain. What fails is drawn
several times.

Bundles that share a device are taken not to slow each other; ``whole`` shows what is
left of the gain where nothing is packed.
"""

from __future__ import annotations

import argparse
import heapq
import os
import random
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

os.environ["HF_HUB_OFFLINE"] = "1"

from _figures import show
from _world import STEPS, Chains, World, chains, write_grid

from harness.planning import grid as grids
from harness.planning import plan as plans
from harness.planning.configured_plugin import tolerate_unseen
from harness.planning.messages import Job
from harness.planning.plan import Bundle, Plan
from harness.planning.resources import ResourceRequest, Resources
from harness.running.driver import Clock, Driver
from harness.scheduling.hardware import Cluster, parse
from harness.scheduling.packing import LEAST, Packer
from harness.scheduling.predictor import Predictor
from harness.scheduling.priors import CONTEXT
from harness.scheduling.simulation import Simulated
from results.queries.db import ask as query
from results.storage.store import open_store


def measured_scatter(store: str) -> float:
    """Sigma of ln(seconds / mean of the same step), over steps above 0.1 s."""
    parts = " UNION ALL ".join(
        f"SELECT ln({s}_seconds / avg({s}_seconds) OVER w) AS off FROM steps "
        f"WHERE {s}_seconds > 0.1 WINDOW w AS (PARTITION BY model, model_options, "
        + ("task, task_options)" if s == "evaluate" else "method, method_options)")
        for s in STEPS
    )
    found = query(open_store(store), f"SELECT stddev(off), count(*) FROM ({parts})")
    sigma, count = found.rows[0]
    print(f"scatter   sigma {sigma:.2f} over {count} steps of {store}")
    return float(sigma)


@dataclass
class Bound:
    """What no schedule beats.

    Args:
        work: Total work over devices with perfect packing.
        chains: Trial -> seconds of an artifact, a load, a fit, and the trial.
        waits: Trial -> seconds of the artifact alone.
    """

    work: float
    chains: dict[str, float]
    waits: dict[str, float]

    @property
    def least(self) -> float:
        """Seconds."""
        return max(self.work, *self.chains.values())

    def after(self, took: Mapping[str, float]) -> float:
        """Seconds, once it is known what each trial's steps and lost attempts took."""
        return max(self.work, *(self.waits[t] + more for t, more in took.items()))


def bound(plan: Plan, world: World, cluster: Cluster) -> Bound:
    """Of a plan in which nothing fails.

    Each bundle counts once, with one load and one fit, at the share of a device that
    its true peak is (at least the least share that is ever given).
    """
    shares = processors = 0.0
    found = Bound(0.0, {}, {})
    size = float(world.device.bytes or 1)
    for artifact in plan.artifacts.values():
        processors += world.build(artifact)
        shares += world.build(artifact) * LEAST
    for bundle in plan.bundles:
        took = world.took(bundle)
        seconds = sum(sum(steps.values()) for steps in took)
        share = max(LEAST, (world.peak(bundle) + CONTEXT) / size)
        share = 1.0 if bundle.resources.gpus == 1 else share
        shares += seconds * share
        processors += seconds
        waits = max((world.build(a) for a in bundle.artifacts), default=0.0)
        for trial, own in chains(bundle, took):
            found.waits[trial] = waits
            found.chains[trial] = waits + own
    found.work = max(shares / cluster.gpus, processors / cluster.cpus)
    return found


def one_by_one(plan: Plan, world: World, devices: int) -> float:
    """First come, first served: each trial alone loads, fits and has a whole device.

    Artifacts are built once, before anything else; nothing fails.
    """
    free = [0.0] * devices
    for artifact in plan.artifacts.values():
        heapq.heapreplace(free, free[0] + world.build(artifact))
    start = max(free)
    free = [start] * devices
    for bundle in plan.bundles:
        for trial in bundle.trials:
            alone = world.took(replace(bundle, trials=(trial,)))[0]
            heapq.heapreplace(free, free[0] + sum(alone.values()))
    return max(free)


def run(
    plan: Plan, world: World, cluster: Cluster, predictor: Predictor
) -> tuple[float, Counter[str]]:
    """The real driver on the simulated cluster: seconds, and those of each trial."""
    watcher = Chains(world)
    executor = Simulated(cluster, world, predictor)
    with tempfile.TemporaryDirectory() as name:
        driver = Driver(
            plan=plan,
            store=open_store(Path(name) / "s", create=True),
            executor=executor,
            watcher=watcher,
            clock=Clock(executor.now, executor.sleep),
        )
        ended = driver.run().counts
    assert ended["ok"] == plan.trials, ended
    return executor.time, watcher.seconds


def history(plan: Plan, world: World, share: float) -> Predictor:
    """A predictor that has seen a share of the bundles end before."""
    predictor = Predictor()
    packer = Packer(cluster=parse("1xH100"), predictor=predictor)
    rng = random.Random(7)
    for bundle in plan.bundles:
        if rng.random() < share:
            trials = {t.id: t for t in bundle.trials}
            for event in world.job(_job(bundle), ResourceRequest(cpus=1, gpus=1), 0)[1]:
                if event.numbers:
                    packer.learn(
                        trials[event.trial], ResourceRequest(cpus=1, gpus=1), event
                    )
    predictor.learnt = 0
    return predictor


def _job(bundle: Bundle) -> Job:
    return Job(bundle=bundle, attempts={}, store="", grid="", run="")


def planned(folder: Path, seeds: int) -> Plan:
    """Read and plan the grid."""
    with tolerate_unseen():
        return plans.make(grids.read(write_grid(folder, seeds)))


@dataclass
class Readings:
    """One case, played several times with other failures."""

    hours: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # its bound
    after: list[float] = field(default_factory=list)  # what its trials then took
    planning: list[float] = field(default_factory=list)

    def print(self, name: str) -> None:
        """Medians, with the smallest and the largest."""
        print(f"{name:34}{_around(self.hours)} h")
        print(f"{'':10}{_around(self.times)} times its bound")
        print(f"{'':10}{_around(self.after)} times the longest chain that it ran")
        print(f"{'':10}{_around(self.planning)} s of planning and handing out")


def _around(values: list[float]) -> str:
    low, mid, high = min(values), median(values), max(values)
    return f"{mid:8.2f}" + (f" ({low:.2f} to {high:.2f})" if low < high else "")


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=116)
    parser.add_argument("--devices", type=int, default=1024)
    parser.add_argument("--store", help="Measure the scatter of trials here.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=4, help="How many of the rows.")
    parser.add_argument("--draws", type=int, default=3, help="Of what fails.")
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    asked = _asked()
    scatter = measured_scatter(asked.store) if asked.store else 0.25
    cluster = parse(f"{asked.devices}xH100")

    def world(draw: int | None = None) -> World:
        return World(
            device=cluster.devices[0],
            scatter=scatter,
            faults=draw is not None,
            nodes=len(cluster.nodes),
            seed=asked.seed,
            draw=draw or 0,
        )

    with tempfile.TemporaryDirectory() as name:
        began = time.perf_counter()
        plan = planned(Path(name), asked.seeds)
        read = time.perf_counter() - began
    print(
        f"grid      {plan.trials} trials in {len(plan.bundles)} bundles, "
        f"{len(plan.artifacts)} artifacts; {asked.devices} devices"
    )
    alone = [replace(b, resources=Resources(gpus=1)) for b in plan.bundles]
    whole = replace(plan, bundles=alone)
    bounds = {id(p): bound(p, world(), cluster) for p in (plan, whole)}
    chain = max(bounds[id(plan)].chains.values()) / 3600
    print(
        f"bound     total work {bounds[id(plan)].work / 3600:.2f} h, "
        f"longest chain {chain:.2f} h"
    )
    singly = one_by_one(plan, world(), asked.devices) / 3600
    print(f"{'one by one, a device a trial':34}{singly:8.2f} h")
    for name, made, known, faults in CASES[: asked.cases]:
        readings = Readings()
        here = whole if made == "whole" else plan
        least = bounds[id(here)]
        for draw in range(asked.draws) if faults else [None]:
            random.seed(draw)  # the waits before retries
            predictor = history(here, world(), 0.02) if known else Predictor()
            what = world(draw)
            began = time.perf_counter()
            seconds, each = run(here, what, cluster, predictor)
            took = time.perf_counter() - began - what.spent
            readings.hours.append(seconds / 3600)
            readings.times.append(seconds / least.least)
            readings.after.append(seconds / least.after(each))
            readings.planning.append(took + read)
        readings.print(name)
        if name in BARS:
            what = f"{plan.trials:,} trials, {asked.devices:,} devices, {name}"
            times, spent = median(readings.times), median(readings.planning)
            show(f"{what}: beside the bound", times, "x", side="most", bar=BARS[name])
            show(f"{what}: planning", spent, "s", side="most", bar=15)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"memory    {peak:.2f} GiB at most, the simulated work included")


# Case -> its time beside the bound.
BARS = {"packed, history, no faults": 1.05, "packed, no history, faults": 1.3}
# Name, how bundles are placed, whether something is known, whether anything fails.
CASES = [
    ("packed, history, faults", "packed", True, True),
    ("packed, history, no faults", "packed", True, False),
    ("packed, no history, faults", "packed", False, True),
    ("bundles on whole devices, history", "whole", True, True),
]


if __name__ == "__main__":
    main()
