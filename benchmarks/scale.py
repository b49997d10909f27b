"""100,000 trials on 1,024 devices in virtual time, by the code that runs real ones.

The grid is read, planned and arranged as ever; the real driver hands bundles to a
simulated executor, which packs them with the real packing and only leaves the work
away. Every step of every method and model has a hidden length and a hidden peak that
the predictor must learn: the stated prior of the device times a lognormal factor (sigma
0.5 in time, 0.3 in bytes), and evaluations forty times that. Single trials scatter
around their step with the sigma that is measured in a store (``--store``; 0.25 by
default), and every step in a hundred takes three times as long. One trial in a thousand
loses its worker, and twelve nodes fail and return; the bound knows of neither.

Bundles that share a device are taken not to slow each other; ``whole`` shows what is
left of the gain where nothing is packed.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import random
import resource
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from statistics import NormalDist

os.environ["HF_HUB_OFFLINE"] = "1"

from harness import grid as grids
from harness import plan as plans
from harness.accelerators import Cluster, Device, parse
from harness.chosen import tolerate_unseen
from harness.driver import Clock, Driver
from harness.estimate import Predictor
from harness.events import Event, Job
from harness.executors.simulated import Simulated
from harness.packing import LEAST, Packer
from harness.plan import Artifact, Bundle, Plan
from harness.priors import CONTEXT, alive_bytes, artifact_seconds, step_seconds
from harness.resources import Ask, Resources
from harness.trial import Part, Trial
from results.db import ask as query
from results.store import open_store

LANGUAGE = [
    f"{name}-{size}"
    for name in ("a", "b", "c", "d", "e", "f")
    for size in ("125m", "350m", "1b", "1.5b", "3b", "7b")
]
IMAGES = ["mlp", "lenet5", "resnet20", "resnet56", "vgg16", "densenet"]
RATIOS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
WHOLE_TEST_SET = 40.0  # as long as the priors' few windows
STRAGGLER = 3.0  # as long as it should: one step in a hundred
HIDDEN = 0.5  # sigma of how far methods and models lie from the priors
NORMAL = NormalDist()
STEPS = ("load", "fit", "compress", "evaluate")


def write_grid(folder: Path, seeds: int) -> Path:
    """Language models with calibrated methods, and image classifiers of many seeds."""
    text = {
        "models": [f"some/{name}" for name in LANGUAGE],
        "methods": [
            "dense",
            "svd",
            "magnitude",
            "round_to_nearest",
            "wanda",
            "svd_llm",
        ],
        "tasks": ["pydoc-512", {"name": "pydoc-512", "limit": 64}, "pydoc-cloze"],
        "ratios": RATIOS,
    }
    images = {
        "models": [*IMAGES, *({"name": n, "recipe": {"epochs": 9}} for n in IMAGES)],
        "methods": ["dense", "svd", "magnitude", "dropback", "l1_filter", "taylor"],
        "tasks": ["digits", {"name": "digits", "limit": 300}],
        "ratios": RATIOS,
        "seeds": list(range(seeds)),
    }
    grid: dict[str, object] = {"blocks": [text, images]}
    path = folder / "scale.yaml"
    path.write_text(json.dumps(grid))
    return path


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
class World:
    """What really happens; the predictor sees only what has ended."""

    device: Device
    scatter: float
    faults: bool = True
    lost: float = 0.001  # of trials lose their worker
    nodes: int = 1
    seed: int = 0
    spent: float = 0.0  # seconds of this process that making the work up took
    _built: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.predictor = Predictor()
        self.rng = random.Random(self.seed)

    def factor(self, sigma: float, *key: object) -> float:
        """A hidden lognormal factor, the same for equal keys."""
        drawn = (zlib.crc32(repr((self.seed, key)).encode()) + 0.5) / 2**32
        return math.exp(sigma * NORMAL.inv_cdf(drawn))

    def params(self, model: Part) -> int:
        """Parameters of a model: what its name says, or a hidden number."""
        guess = self.predictor.params(model)
        return guess if "/" in model.name else int(guess * self.factor(1, model.name))

    def step(self, step: str, trial: Trial, subject: Part | None) -> float:
        """Seconds of one step of one trial."""
        mid = step_seconds(
            step, trial.method, self.params(trial.model), self.device.pace()
        ).mid
        who = "" if subject is None else subject.label
        hidden = self.factor(HIDDEN, step, who, trial.model.name)
        once = self.factor(self.scatter, step, trial.id)
        if zlib.crc32(f"{step} {trial.id}".encode()) % 100 == 0:
            once *= STRAGGLER
        return mid * hidden * once * (WHOLE_TEST_SET if step == "evaluate" else 1)

    def peak(self, bundle: Bundle) -> float:
        """Bytes of tensors at a bundle's peak."""
        first = bundle.trials[0]
        alive = alive_bytes(first.method, self.params(first.model), first.dtype).mid
        hidden = self.factor(0.3, "peak", first.method.label, first.model.label)
        return min(alive * hidden, 0.8 * (self.device.bytes or 0))

    def took(self, bundle: Bundle) -> list[dict[str, float]]:
        """The steps of each trial of a bundle, in order."""
        found, ratios = [], set()
        for index, trial in enumerate(bundle.trials):
            steps = {"evaluate_seconds": self.step("evaluate", trial, trial.task)}
            if not index:
                steps["load_seconds"] = self.step("load", trial, None)
                steps["fit_seconds"] = self.step("fit", trial, trial.method)
            if trial.ratio not in ratios:
                ratios.add(trial.ratio)
                steps["compress_seconds"] = self.step("compress", trial, trial.method)
            found.append(steps)
        return found

    def build(self, artifact: Artifact) -> float:
        """Seconds of an artifact."""
        if artifact.id not in self._built:
            mid = artifact_seconds(
                artifact, self.params(artifact.model), self.device.pace()
            ).mid
            hidden = self.factor(HIDDEN, artifact.kind, artifact.model.name)
            once = self.factor(self.scatter, artifact.id)
            self._built[artifact.id] = mid * hidden * once
        return self._built[artifact.id]

    def job(self, job: Job, ask: Ask, node: int) -> tuple[float, list[Event]]:
        """Seconds of a job and what it reports."""
        began = time.process_time()
        try:
            return self._job(job, ask)
        finally:
            self.spent += time.process_time() - began

    def _job(self, job: Job, ask: Ask) -> tuple[float, list[Event]]:
        peak = self.peak(job.bundle)
        weights = 4.0 * self.params(job.bundle.trials[0].model)
        seconds, events = 0.0, []
        for trial, steps in zip(job.bundle.trials, self.took(job.bundle), strict=True):
            if peak + CONTEXT > ask.gpus * (self.device.bytes or 0):
                took = steps.get("load_seconds", 0.0)
                seconds += took
                ended = _ended(trial, "out_of_memory", "oom")
                events.append(replace(ended, seconds=took))
                continue
            took = sum(steps.values())
            seconds += took
            if self.faults and self.rng.random() < self.lost:
                events.append(Event(what="crashed", status="lost", error_class="infra"))
                break
            numbers = steps | {"peak_device_bytes": peak, "peak_memory_bytes": 1e9}
            numbers |= {"params_dense": weights / 4, "bytes_dense": weights}
            events.append(replace(_ended(trial, "ok", None, numbers), seconds=took))
        return seconds, events

    def outages(self) -> list[tuple[float, int, float]]:
        """Twelve nodes fail in the first half hour, for ten minutes each."""
        if not self.faults:
            return []
        rng = random.Random(self.seed + 1)
        return [
            (rng.uniform(0, 1800), rng.randrange(self.nodes), 600) for _ in range(12)
        ]


def _ended(
    trial: Trial,
    status: str,
    error_class: str | None,
    numbers: Mapping[str, float] | None = None,
) -> Event:
    return Event(
        what="ended",
        trial=trial.id,
        status=status,
        error_class=error_class,
        numbers=numbers or {},
    )


class Silent:
    """A watcher that shows nothing."""

    def event(self, job: Job, trial: Trial, event: Event) -> None:
        """Nothing."""


def bounds(plan: Plan, world: World, cluster: Cluster) -> tuple[float, float]:
    """Total work over devices with perfect packing, and the longest chain.

    Each bundle counts once, with one load and one fit, at the share of a device that
    its true peak is (at least the least share that is ever given); a chain is an
    artifact, a load, a fit, and one trial.
    """
    shares = processors = chain = 0.0
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
        setup = took[0]["load_seconds"] + took[0]["fit_seconds"]
        compress = max(steps.get("compress_seconds", 0.0) for steps in took)
        evaluate = max(steps["evaluate_seconds"] for steps in took)
        waits = max((world.build(a) for a in bundle.artifacts), default=0.0)
        chain = max(chain, waits + setup + compress + evaluate)
    return max(shares / cluster.gpus, processors / cluster.cpus), chain


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
) -> tuple[Simulated, Driver]:
    """The real driver on the simulated cluster."""
    executor = Simulated(cluster, world, predictor)
    with tempfile.TemporaryDirectory() as name:
        driver = Driver(
            plan=plan,
            store=open_store(Path(name) / "s", create=True),
            executor=executor,
            watcher=Silent(),
            clock=Clock(executor.now, executor.sleep),
        )
        driver.run()
    return executor, driver


def history(plan: Plan, world: World, share: float) -> Predictor:
    """A predictor that has seen a share of the bundles end before."""
    predictor = Predictor()
    packer = Packer(cluster=parse("1xH100"), predictor=predictor)
    rng = random.Random(7)
    for bundle in plan.bundles:
        if rng.random() < share:
            trials = {t.id: t for t in bundle.trials}
            for event in world.job(_job(bundle), Ask(cpus=1, gpus=1), 0)[1]:
                if event.numbers:
                    packer.learn(trials[event.trial], Ask(cpus=1, gpus=1), event)
    predictor.learnt = 0
    return predictor


def _job(bundle: Bundle) -> Job:
    return Job(bundle=bundle, attempts={}, store="", grid="", run="")


def planned(folder: Path, seeds: int) -> Plan:
    """Read and plan the grid."""
    with tolerate_unseen():
        return plans.make(grids.read(write_grid(folder, seeds)))


def report(name: str, seconds: float, bound: float, least: float) -> None:
    """One line of the table."""
    print(
        f"{name:34} {seconds / 3600:8.2f} h   {seconds / bound:5.2f} x its bound   "
        f"{seconds / least:6.2f} x the packed bound"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=116)
    parser.add_argument("--devices", type=int, default=1024)
    parser.add_argument("--store", help="Measure the scatter of trials here.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=4, help="How many of the rows.")
    asked = parser.parse_args()
    scatter = measured_scatter(asked.store) if asked.store else 0.25
    cluster = parse(f"{asked.devices}xH100")
    device = cluster.devices[0]

    def world(*, faults: bool = True) -> World:
        made = World(device=device, scatter=scatter, faults=faults, seed=asked.seed)
        made.nodes = len(cluster.nodes)
        return made

    with tempfile.TemporaryDirectory() as name:
        began = time.process_time()
        plan = planned(Path(name), asked.seeds)
        read = time.process_time() - began
    print(
        f"grid      {plan.trials} trials in {len(plan.bundles)} bundles, "
        f"{len(plan.artifacts)} artifacts; {asked.devices} devices"
    )
    alone = [replace(b, resources=Resources(gpus=1)) for b in plan.bundles]
    whole = replace(plan, bundles=alone)
    work, chain = bounds(plan, world(faults=False), cluster)
    least = max(work, chain)
    print(
        f"bound     total work {work / 3600:.2f} h, longest chain {chain / 3600:.2f} h"
    )
    whole_bound = max(bounds(whole, world(faults=False), cluster))
    singly = one_by_one(plan, world(faults=False), asked.devices)
    for name, made, predictor, faults in islice(
        _cases(plan, whole, world(faults=False)), asked.cases
    ):
        bound = whole_bound if made is whole else least
        here = world(faults=faults)
        began = time.process_time()
        executor, driver = run(made, here, cluster, predictor)
        took = time.process_time() - began - here.spent
        report(name, executor.time, bound, least)
        counts = dict(driver.outcome.counts)
        print(f"{'':10}{counts}; planning and handing out {took + read:.0f} s")
    report("one by one, a device a trial", singly, singly, least)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"memory    {peak:.2f} GiB at most, the simulated work included")


def _cases(
    plan: Plan, whole: Plan, world: World
) -> Iterator[tuple[str, Plan, Predictor, bool]]:
    yield "packed, history, faults", plan, history(plan, world, 0.02), True
    yield "packed, no history, faults", plan, Predictor(), True
    yield "bundles on whole devices, history", whole, history(plan, world, 0.02), True
    yield "packed, history, no faults", plan, history(plan, world, 0.02), False


if __name__ == "__main__":
    main()
