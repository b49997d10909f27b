"""Predicts seconds and bytes of bundles from finished trials, or from priors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.planning.plan import Artifact, Bundle, CostClass
from harness.planning.trial import PluginSpec, Trial
from harness.scheduling.hardware import CPU, Device
from harness.scheduling.history import STEPS, History, peak_keys, step_keys, unit
from harness.scheduling.interval import Interval
from harness.scheduling.priors import (
    BASE,
    CONTEXT,
    WIDE,
    alive_bytes,
    artifact_seconds,
    peak_bytes,
    step_seconds,
    tokens,
)
from results.storage.store import Store

# Predictions are cached until the history has grown by this factor.
REMEMBERED = 1.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """The predicted cost of a bundle.

    Args:
        seconds: From the start to the end of the bundle, without building artifacts.
        setup: Seconds of load and fit, which each part repeats when a bundle is cut.
        device: Peak bytes on a device, including those that CUDA itself takes.
        host: Peak bytes of host memory.
        known: Whether both peaks were measured on equal trials and such a device.
        guessed: Whether a prior was used for some of the seconds.
    """

    seconds: Interval
    setup: float
    device: Interval
    host: Interval
    known: bool
    guessed: bool


@dataclass(slots=True)
class Predictor:
    """Predicts the cost of bundles; learns from the store and from trials that end.

    A trial has four steps: load, fit, compress, evaluate. Each step is looked up in the
    history under keys of decreasing detail, from an equal trial (options, dtype, kind
    of device) to any model; the first key with an entry gives the prediction. Between
    devices, seconds are scaled by the relative speed. Between models, the ratio of the
    measured seconds to the prior is kept: most of a small model's seconds are overhead,
    so that its seconds per parameter would be far too long for a large model.
    """

    learnt: int = 0  # trials of this run
    history: History = field(default_factory=History)
    _built: frozenset[str] = frozenset()
    # Emptied when something new is seen, or when the history has grown enough.
    _memo: dict[tuple[CostClass, Device], Need] = field(default_factory=dict)
    _news: int = 0
    _forget_at: float = 0.0

    @classmethod
    def of(cls, store: Store | None) -> Predictor:
        """Builds a predictor from a store's finished trials; None means no history."""
        if store is None:
            return cls()
        built = frozenset(p.name for p in store.here("artifacts").iterdir())
        return cls(history=History.of(store), _built=built)

    def learn(self, trial: Trial, numbers: Mapping[str, float], device: str) -> None:
        """Learns from one trial of this run that ended with status ``ok``.

        Args:
            trial: The trial that ended.
            numbers: The measurements of its worker, by column of the store.
            device: The name of the hardware, as torch or Ray reports it.
        """
        self.history.learn(trial, numbers, device)
        self.learnt += 1
        # An executor predicts each bundle several times. Forgetting all predictions at
        # each of 100,000 trials would cost more than scheduling itself.
        if self.history.news > self._news or self.history.trials >= self._forget_at:
            self._memo.clear()
            self._news = self.history.news
            self._forget_at = REMEMBERED * self.history.trials

    def bundle(self, bundle: Bundle, device: Device = CPU) -> Need:
        """Predicts the cost of a bundle.

        Args:
            bundle: Only its cost class matters.
            device: The hardware that it will run on; for ``CPU`` the threads of the
                bundle's resources count.

        Returns:
            The same object for equal cost classes, until the history has grown.
        """
        key = (bundle.cost_class, device)
        if key not in self._memo:
            self._memo[key] = self._need(*key)
        return self._memo[key]

    def _need(self, cost_class: CostClass, device: Device) -> Need:
        speed = device.relative_speed(cost_class.resources.cpus)
        question = _Question(self.history, cost_class.first, device.name, speed)
        # A bundle loads and fits once, compresses once per ratio, evaluates each trial.
        load, fit, compress = (question.step(s) for s in ("load", "fit", "compress"))
        seconds = load + fit + compress * cost_class.ratios
        # Intervals are added end by end: if one step of a bundle takes longer than
        # predicted, the others are assumed to do so, too.
        for task, times in cost_class.tasks:
            seconds += question.step("evaluate", task) * times
        # Tasks run one after the other: the largest peak counts, not their sum.
        peaks = [question.peaks(task) for task, _ in cost_class.tasks]
        return Need(
            seconds=seconds,
            setup=load.mid + fit.mid,
            device=max((d for d, _, _ in peaks), key=lambda s: s.high),
            host=max((h for _, h, _ in peaks), key=lambda s: s.high),
            known=all(sure for _, _, sure in peaks),
            guessed=question.guessed,
        )

    def artifact(self, artifact: Artifact, device: Device = CPU) -> Interval:
        """Seconds of building an artifact, from a prior; zero if the store has it."""
        if artifact.id in self._built:
            return Interval(0.0, 0.0, 0.0)
        return artifact_seconds(
            artifact, self.history.params(artifact.model), device.relative_speed()
        )


@dataclass(slots=True)
class _Question:
    """Looks up the steps and peaks of one cost class in the history."""

    history: History
    trial: Trial
    device: str
    speed: float
    guessed: bool = False

    def step(self, step: str, task: PluginSpec | None = None) -> Interval:
        """Seconds of one step; ``task`` is given for ``evaluate`` only."""
        trial = self.trial
        params = self.history.params(trial.model)
        model = (trial.model.name, trial.model.options)
        subject: tuple[Any, Any] = ("", "")
        if STEPS[step] == "method":
            subject = (trial.method.name, (trial.method.options, trial.calibration))
        elif task is not None:
            subject = (task.name, task.options)
        keys = step_keys(step, subject, model, trial.dtype, self.device)
        for level, key in enumerate(keys):
            seen = self.history.seconds.get(key)
            if seen is not None:
                # The history was multiplied by this factor, so that entries of several
                # devices or models could be averaged.
                factor = unit(level, self.speed, (step, trial.method, params))
                value = seen.interval() * (0.0 if factor is None else 1 / factor)
                # Levels 0 and 1 are the same trial, on this or on another device, and
                # are not widened; other options double the interval, another model
                # triples it.
                return value.wider(WIDE[max(0, level - 1)])
        prior = step_seconds(step, trial.method, params, self.speed)
        # A method without a fit has a prior of exactly zero, which is not a guess.
        self.guessed = self.guessed or prior.mid > 0
        return prior

    def peaks(self, task: PluginSpec) -> tuple[Interval, Interval, bool]:
        """Peak bytes on the device and on the host, and whether they were measured."""
        trial = self.trial
        params = self.history.params(trial.model)
        sizes = (trial.dtype, trial.calibration or "{}", task.protocol or "{}")
        alive = peak_bytes(trial.method, trial.model, *sizes)
        if alive is None:
            alive = alive_bytes(trial.method, params, trial.dtype)
        (host, same_host), (on_device, same) = (
            self._peak(kind, task) for kind in ("memory", "device")
        )
        # On a CPU the tensors are part of the host's memory, beside the worker itself.
        if on_device is None and host is not None:
            on_device = _without(host, BASE)
        if on_device is None:
            on_device = alive
        if host is None:
            host = alive + Interval(BASE, BASE, BASE)
        # A trial on a CPU has no device peak.
        sure = same_host and (same or self.device == CPU.name)
        return on_device + Interval(CONTEXT, CONTEXT, CONTEXT), host, sure

    def _peak(self, kind: str, task: PluginSpec) -> tuple[Interval | None, bool]:
        """Bytes of the first key with an entry; whether it is of the same task."""
        trial = self.trial
        keys = peak_keys(
            kind,
            (trial.method.name, (trial.method.options, trial.calibration)),
            (trial.model.name, trial.model.options),
            trial.dtype,
            (task.name, task.options),
        )
        for level, key in enumerate(keys):
            found = self.history.peaks.get(key)
            if found is not None:
                peak, read, fixed = found
                # Weights do not grow with the batch; everything else is assumed to grow
                # with the tokens of a forward pass.
                more = max(1.0, tokens(task.protocol or "{}") / read)
                fixed = min(fixed, peak)
                value = fixed + (peak - fixed) * more
                return Interval(value, value, value).wider((1.0, 1.2)[level]), not level
        return None, False


def _without(span: Interval, taken: float) -> Interval:
    """Subtracts bytes from an interval; at least a tenth of each end remains."""
    return Interval(*(max(v - taken, v / 10) for v in (span.low, span.mid, span.high)))
