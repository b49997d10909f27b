"""A grid of 99,256 trials, and a made-up world in which each of them takes its time."""

from __future__ import annotations

import json
import math
import random
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import NormalDist

from harness.planning.messages import Event, Job
from harness.planning.plan import Artifact, Bundle
from harness.planning.resources import ResourceRequest
from harness.planning.trial import PluginSpec, Trial
from harness.scheduling.hardware import Device
from harness.scheduling.history import History
from harness.scheduling.priors import (
    CONTEXT,
    alive_bytes,
    artifact_seconds,
    step_seconds,
)

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
_CRASHED = Event(what="crashed", status="lost", error_class="infra")
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


@dataclass
class World:
    """What really happens; the predictor sees only what has ended."""

    device: Device
    scatter: float
    faults: bool = True
    dies: float = 0.001  # of trials lose their worker
    nodes: int = 1
    seed: int = 0
    draw: int = 0  # of what fails
    spent: float = 0.0  # seconds of this process that making the work up took
    _built: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.history = History()
        self.rng = random.Random(f"{self.seed} {self.draw}")

    def factor(self, sigma: float, *key: object) -> float:
        """A hidden lognormal factor, the same for equal keys."""
        drawn = (zlib.crc32(repr((self.seed, key)).encode()) + 0.5) / 2**32
        return math.exp(sigma * NORMAL.inv_cdf(drawn))

    def params(self, model: PluginSpec) -> int:
        """Parameters of a model: what its name says, or a hidden number."""
        guess = self.history.params(model)
        return guess if "/" in model.name else int(guess * self.factor(1, model.name))

    def step(self, step: str, trial: Trial, subject: PluginSpec | None) -> float:
        """Seconds of one step of one trial."""
        mid = step_seconds(
            step, trial.method, self.params(trial.model), self.device.relative_speed()
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
                artifact, self.params(artifact.model), self.device.relative_speed()
            ).mid
            hidden = self.factor(HIDDEN, artifact.kind, artifact.model.name)
            once = self.factor(self.scatter, artifact.id)
            self._built[artifact.id] = mid * hidden * once
        return self._built[artifact.id]

    def job(
        self, job: Job, request: ResourceRequest, node: int
    ) -> tuple[float, list[Event]]:
        """Seconds of a job and what it reports."""
        began = time.perf_counter()
        try:
            return self._job(job, request)
        finally:
            self.spent += time.perf_counter() - began

    def _job(self, job: Job, request: ResourceRequest) -> tuple[float, list[Event]]:
        peak = self.peak(job.bundle)
        weights = 4.0 * self.params(job.bundle.trials[0].model)
        found = self.took(job.bundle)
        seconds, events = 0.0, []
        for trial, steps in zip(job.bundle.trials, found, strict=True):
            if peak + CONTEXT > request.gpus * (self.device.bytes or 0):
                took = steps.get("load_seconds", 0.0)
                seconds += took
                ended = _ended(trial, "out_of_memory", "oom")
                events.append(replace(ended, seconds=took))
                continue
            took = sum(steps.values())
            seconds += took
            if self.faults and self.rng.random() < self.dies:
                events.append(replace(_CRASHED, seconds=took))
                break
            numbers = steps | {"peak_device_bytes": peak, "peak_memory_bytes": 1e9}
            numbers |= {"params_dense": weights / 4, "bytes_dense": weights}
            events.append(replace(_ended(trial, "ok", None, numbers), seconds=took))
        return seconds, events

    def outages(self) -> list[tuple[float, int, float]]:
        """Twelve nodes fail in the first half hour, for ten minutes each."""
        if not self.faults:
            return []
        rng = random.Random(f"{self.seed} {self.draw} nodes")
        return [
            (rng.uniform(0, 1800), rng.randrange(self.nodes), 600) for _ in range(12)
        ]


class Chains:
    """Watches a run and adds up what each trial had to wait for, one after the other.

    That is the load, the fit and the compression that it used, its own evaluation, and
    the same of every attempt that it lost.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.seconds: Counter[str] = Counter()
        self._steps: dict[str, Counter[object]] = {}  # of each job

    def event(self, job: Job, trial: Trial, event: Event) -> None:
        """A trial ended, or its worker died."""
        if event.status == "lost":
            first = job.bundle.trials[0]
            if trial.id != first.id:
                self.seconds[trial.id] += self.world.step("load", first, None)
                self.seconds[trial.id] += self.world.step("fit", first, first.method)
            self.seconds[trial.id] += event.seconds
        if event.numbers:
            had = self._steps.setdefault(job.key, Counter())
            had["setup"] += event.numbers.get("load_seconds", 0.0)
            had["setup"] += event.numbers.get("fit_seconds", 0.0)
            had[trial.ratio] += event.numbers.get("compress_seconds", 0.0)
            self.seconds[trial.id] += had["setup"] + had[trial.ratio]
            self.seconds[trial.id] += event.numbers["evaluate_seconds"]


def chains(
    bundle: Bundle, took: Sequence[Mapping[str, float]]
) -> Iterator[tuple[str, float]]:
    """Each trial's id and the load, fit, compression and evaluation that it needs."""
    setup = took[0]["load_seconds"] + took[0]["fit_seconds"]
    compress = {
        trial.ratio: steps["compress_seconds"]
        for trial, steps in zip(bundle.trials, took, strict=True)
        if "compress_seconds" in steps
    }
    for trial, steps in zip(bundle.trials, took, strict=True):
        yield trial.id, setup + compress[trial.ratio] + steps["evaluate_seconds"]


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
