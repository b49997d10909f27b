"""From trials to bundles and the artifacts that they need."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from harness.declarations import declared
from harness.options import dumps
from harness.planning.answers import remembered
from harness.planning.grid import Grid
from harness.planning.resources import Resources
from harness.planning.trial import PluginSpec, Trial, digest
from harness.registry import find
from results.outcomes import FINISHED, REPEATED
from results.text.labels import with_calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """An expensive result that several bundles read, stored under its content's name.

    Args:
        kind: ``dense`` (a checkpoint trained here) or ``calibration``.
        model: Plugin spec of the dense model.
        dtype: Floating-point type of the weights.
        task: The task whose data trains it; None for calibration.
        seed: Of the training; 0 for calibration.
        calibration: Canonical JSON of the calibration; None for checkpoints.
        training: The key of the data that trains it; None for calibration.
        id: Kind and hash of everything that can change the content.
    """

    kind: str
    model: PluginSpec
    dtype: str
    task: PluginSpec | None = None
    seed: int = 0
    calibration: str | None = None
    training: str | None = None
    id: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        # The task itself is not part of the id: tasks that train on the same data share
        # one checkpoint.
        what = [self.model.identity(), self.dtype, self.training, self.seed]
        name = f"{self.kind}-{digest([*what, self.calibration])}"
        object.__setattr__(self, "id", name)

    def __str__(self) -> str:
        if self.task is not None:
            return (
                f"dense {self.model.label}, trained on the data of {self.task.label}, "
                f"seed {self.seed}"
            )
        name = f"calibration of {self.model.label}"
        return with_calibration(name, self.calibration or "{}")


@dataclass(frozen=True, slots=True, eq=False)
class CostClass:
    """Everything that a bundle's time and memory depend on.

    Bundles of one class have equal predictions and equal resource requests. Equal
    classes are one object, so that they are compared by identity.

    Args:
        first: One trial of the bundle; all share its method, model, dtype, calibration.
        tasks: Each task with the number of trials that evaluate it.
        ratios: The number of different ratios.
        resources: The resources that the grid states for the bundle.
        exclusive: Whether the bundle needs a device alone.
        underestimated: How often it needed more memory than was predicted.
    """

    first: Trial
    tasks: tuple[tuple[PluginSpec, int], ...]
    ratios: int
    resources: Resources
    exclusive: bool
    underestimated: int

    def __reduce__(self) -> tuple[Any, ...]:
        """Unpickle as the one object that represents this class in the process."""
        asked = (self.resources, self.exclusive, self.underestimated)
        return _interned, (self.first, self.tasks, self.ratios, *asked)


# Grows with the different classes of a process, which are few, and not with the trials.
_COST_CLASSES: dict[tuple[Any, ...], CostClass] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Trials that share one load, one fit, and one compression per ratio.

    ``trials`` are in the order in which they run: by ratio, then by task;
    ``underestimated`` counts how often in this run they needed more memory than was
    predicted.
    """

    trials: tuple[Trial, ...]
    artifacts: tuple[Artifact, ...]
    resources: Resources
    exclusive: bool = False
    underestimated: int = 0
    _id: str = field(init=False, compare=False, repr=False, default="")
    _cost_class: CostClass | None = field(
        init=False, compare=False, repr=False, default=None
    )

    @property
    def id(self) -> str:
        """16 hexadecimal digits of the trials' ids."""
        # Computed at first use and kept, past the frozen dataclass: the driver asks for
        # the id of a bundle many times.
        if not self._id:
            joined = "".join(t.id for t in self.trials)
            name = hashlib.sha256(joined.encode()).hexdigest()[:16]
            object.__setattr__(self, "_id", name)
        return self._id

    @property
    def cost_class(self) -> CostClass:
        """Its cost class; a grid has few different ones."""
        if self._cost_class is None:
            object.__setattr__(self, "_cost_class", _cost_class(self))
        assert self._cost_class is not None
        return self._cost_class

    def part(self, trials: tuple[Trial, ...]) -> Bundle:
        """A bundle of some of the trials."""
        return Bundle(
            trials=trials,
            artifacts=self.artifacts,
            resources=self.resources,
            exclusive=self.exclusive,
            underestimated=self.underestimated,
        )

    def without(self, done: Iterable[str]) -> Bundle | None:
        """The bundle without trials that ended, or None if none is left."""
        gone = set(done)
        left = tuple(t for t in self.trials if t.id not in gone)
        return self.part(left) if left else None


def _cost_class(bundle: Bundle) -> CostClass:
    first = bundle.trials[0]
    tasks: dict[PluginSpec, int] = {}
    for trial in bundle.trials:
        tasks[trial.task] = tasks.get(trial.task, 0) + 1
    # How many ratios, not which ones: the predictor gives every ratio the same cost.
    ratios = len({t.ratio for t in bundle.trials})
    asked = (bundle.resources, bundle.exclusive, bundle.underestimated)
    return _interned(first, tuple(tasks.items()), ratios, *asked)


def _interned(first: Trial, *rest: Any) -> CostClass:
    key = (first.method, first.model, first.dtype, first.calibration, *rest)
    if key not in _COST_CLASSES:
        _COST_CLASSES[key] = CostClass(first, *rest)
    return _COST_CLASSES[key]


@dataclass(slots=True, kw_only=True)
class Plan:
    """What a run of a grid will do.

    Args:
        grid: The grid that the plan covers.
        bundles: What runs, in order of submission.
        unsupported: Trial and reason of each pair that makes no sense.
        done: Trials that the store has finished.
        failed: Trials whose newest attempt failed and that no ``--retry`` asked for.
    """

    grid: Grid
    bundles: list[Bundle] = field(default_factory=list)
    unsupported: list[tuple[Trial, str]] = field(default_factory=list)
    done: list[Trial] = field(default_factory=list)
    failed: list[tuple[Trial, str]] = field(default_factory=list)

    @property
    def trials(self) -> int:
        """How many trials run."""
        return sum(len(b.trials) for b in self.bundles)

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """Every artifact that a bundle needs, by id."""
        return {a.id: a for b in self.bundles for a in b.artifacts}

    def without_dense(self) -> list[str]:
        """Models that the grid compresses without a trial of the dense model.

        Recovery compares with the dense model; without its trial there is none.
        """
        pairs = list(self.grid.pairs())
        dense = {model for model, method in pairs if method == "dense"}
        return list(dict.fromkeys(m for m, _ in pairs if m not in dense))

    def shared(self) -> dict[str, tuple[int, int]]:
        """What sharing saves: step -> (times done, times without sharing)."""
        # "Without sharing" is every trial alone: one load, fit and compression for
        # each.
        fits = {(b.id, "fit") for b in self.bundles if has_fit(b.trials[0].method)}
        fitted = sum(len(b.trials) for b in self.bundles if has_fit(b.trials[0].method))
        ratios = sum(len({t.ratio for t in b.trials}) for b in self.bundles)
        needs = sum(len(b.artifacts) * len(b.trials) for b in self.bundles)
        return {
            "model loads": (len(self.bundles), self.trials),
            "fits": (len(fits), fitted),
            "compressions": (ratios, self.trials),
            "artifacts": (len(self.artifacts), needs),
        }


@remembered
def has_fit(method: PluginSpec) -> bool:
    """Whether a method has work that does not depend on the ratio."""
    return hasattr(find("method", method.plugin).cls, "fit")


def make(
    grid: Grid,
    *,
    statuses: Mapping[str, str] | None = None,
    only: set[str] | None = None,
    retry: Iterable[str] = (),
    again: Iterable[str] = (),
) -> Plan:
    """Plan a grid against what the store has.

    Args:
        grid: The grid whose trials are planned.
        statuses: Trial id -> status of its newest attempt.
        only: Ids of the trials to consider; None is all.
        retry: Statuses to run again (``failed``, ``out_of_memory``, ``timed_out``).
        again: Ids of finished trials to run again (``--refresh stale``).

    Returns:
        The plan.
    """
    known = statuses or {}
    # The empty status is that of a trial that the store has no attempt of.
    wanted = {"", *REPEATED, *retry}
    refresh = set(again)
    plan = Plan(grid=grid)
    groups: dict[Any, list[Trial]] = {}
    for point in grid.points():
        trial = point.trial
        trial_id = trial.id
        if only is not None and trial_id not in only:
            continue
        status = known.get(trial_id, "")
        # First, so that an older attempt of a pair that is unsupported today is not
        # repeated.
        if point.unsupported is not None:
            plan.unsupported.append((trial, point.unsupported))
        elif status in wanted or trial_id in refresh:
            groups.setdefault(_key(trial), []).append(trial)
        elif status in FINISHED:
            plan.done.append(trial)
        else:
            plan.failed.append((trial, status))
    plan.bundles = [_bundle(grid, trials) for trials in groups.values()]
    return plan


@remembered
def trained(model: PluginSpec) -> bool:
    """Whether a model is trained here."""
    return bool(find("model", model.plugin).facts["trained"])


@remembered
def training_key(task: PluginSpec) -> str:
    """The key of a task's training data; tasks of one key share dense checkpoints."""
    key = declared(f"task {task.name!r}", configured("task", task), "training")
    return dumps(task.identity()) if key is None else str(key)


@lru_cache(maxsize=4096)
def configured(kind: str, part: PluginSpec) -> Any:
    """The plugin instance behind a part, in any process.

    Args:
        kind: ``method``, ``task`` or ``model``.
        part: Its name, plugin and options.

    Returns:
        The same instance for equal parts; plugins are frozen.
    """
    return find(kind, part.plugin).build(json.loads(part.options))


def _key(trial: Trial) -> tuple[Any, ...]:
    """Trials of equal keys read the same things: one bundle."""
    # Trials that differ in ratio or task only can share one load and one fit. A
    # measurement of speed needs a device alone and is kept apart, since the whole
    # bundle would request one.
    exclusive = is_exclusive(trial.task)
    data = training_key(trial.task) if trained(trial.model) else ""
    return (
        trial.method,
        trial.model,
        data,
        trial.calibration,
        trial.seed,
        trial.dtype,
        exclusive,
    )


@remembered
def is_exclusive(task: PluginSpec) -> bool:
    """Whether a task must have its device alone."""
    return bool(find("task", task.plugin).facts.get("exclusive", False))


def _bundle(grid: Grid, trials: list[Trial]) -> Bundle:
    first = trials[0]
    return Bundle(
        trials=tuple(sorted(trials, key=lambda t: t.ratio)),
        # Every trial of the bundle needs the same ones: ``_key`` has all that decides
        # them.
        artifacts=needed(first),
        resources=grid.resources.of(first.method.name, first.model.name),
        exclusive=is_exclusive(first.task),
    )


def needed(trial: Trial) -> tuple[Artifact, ...]:
    """The artifacts that a trial's bundle reads.

    Args:
        trial: Any trial of the bundle.

    Returns:
        A dense checkpoint for a model that is trained here; calibration for a method
        that reads it.
    """
    found = []
    if trained(trial.model):
        found.append(
            Artifact(
                kind="dense",
                model=trial.model,
                dtype=trial.dtype,
                task=trial.task,
                seed=trial.seed,
                training=training_key(trial.task),
            )
        )
    if trial.calibration is not None:
        found.append(
            Artifact(
                kind="calibration",
                model=trial.model,
                dtype=trial.dtype,
                calibration=trial.calibration,
            )
        )
    return tuple(found)
