"""What a bundle will take, predicted from finished trials; else from stated priors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.planning.plan import Artifact, Bundle, CostClass
from harness.planning.trial import Part, Trial
from harness.scheduling.hardware import CPU, Device
from harness.scheduling.history import STEPS, History, peak_places, places, unit
from harness.scheduling.interval import Interval
from harness.scheduling.priors import (
    BASE,
    CONTEXT,
    WIDE,
    alive_bytes,
    artifact_seconds,
    step_seconds,
    tokens,
)
from results.storage.store import Store

REMEMBERED = 1.02  # a prediction is made anew once so much more was seen of its kinds


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a bundle will take.

    Args:
        seconds: From its start to its end, artifacts apart.
        setup: The part of it that a second half of the bundle would repeat.
        device: Peak bytes on a device, what CUDA takes for itself included.
        host: Peak bytes of host memory.
        known: Whether the bytes were seen, of the very same trials on such a device.
        guessed: Whether a prior stands for some of the seconds.
    """

    seconds: Interval
    setup: float
    device: Interval
    host: Interval
    known: bool
    guessed: bool


@dataclass(slots=True)
class Predictor:
    """Predicts bundles; learns from the store, and from trials as they end.

    A trial is four steps: load, fit, compress, evaluate. Each step is looked up by
    what it depends on, from the very same (options, dtype, kind of device) to any
    model; the first place where something was seen is the guess. Steps move between
    devices by their speed. Between models
    moves how far off the prior was: a small model
    takes seconds of which most are overhead, so seconds a parameter say nothing.
    """

    learnt: int = 0
    history: History = field(default_factory=History)
    _built: frozenset[str] = frozenset()
    # Until something new is seen, or REMEMBERED times as much.
    _memo: dict[tuple[CostClass, Device], Need] = field(default_factory=dict)
    _news: int = 0
    _forget_at: float = 0.0

    @classmethod
    def of(cls, store: Store | None) -> Predictor:
        """One that knows a store's finished trials.

        Args:
            store: The history; None is none.

        Returns:
            The predictor.
        """
        if store is None:
            return cls()
        built = frozenset(p.name for p in store.here("artifacts").iterdir())
        return cls(history=History.of(store), _built=built)

    def learn(self, trial: Trial, numbers: Mapping[str, float], device: str) -> None:
        """Learn from one trial of this run that ended well.

        Args:
            trial: The trial.
            numbers: What its worker measured; see ``harness.running.worker``.
            device: The name of the hardware.
        """
        self.history.learn(trial, numbers, device)
        self.learnt += 1
        if self.history.news > self._news or self.history.trials >= self._forget_at:
            self._memo.clear()
            self._news = self.history.news
            self._forget_at = REMEMBERED * self.history.trials

    def bundle(self, bundle: Bundle, device: Device = CPU) -> Need:
        """What a bundle will take.

        Args:
            bundle: The trials.
            device: What it will run on; ``CPU`` counts the threads of its resources.

        Returns:
            The prediction.
        """
        key = (bundle.cost_class, device)
        if key not in self._memo:
            self._memo[key] = self._need(*key)
        return self._memo[key]

    def _need(self, cost_class: CostClass, device: Device) -> Need:
        speed = device.relative_speed(cost_class.resources.cpus)
        question = _Question(self.history, cost_class.first, device.name, speed)
        load, fit, compress = (question.step(s) for s in ("load", "fit", "compress"))
        seconds = load + fit + compress * cost_class.ratios
        for task, times in cost_class.tasks:
            seconds += question.step("evaluate", task) * times
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
        """Seconds that building an artifact takes: a prior, none if it is there."""
        if artifact.id in self._built:
            return Interval(0.0, 0.0, 0.0)
        return artifact_seconds(
            artifact, self.history.params(artifact.model), device.relative_speed()
        )


@dataclass(slots=True)
class _Question:
    """The look-ups for one bundle."""

    history: History
    trial: Trial
    device: str
    speed: float
    guessed: bool = False

    def step(self, step: str, task: Part | None = None) -> Interval:
        """Seconds of one step."""
        trial = self.trial
        params = self.history.params(trial.model)
        model = (trial.model.name, trial.model.options)
        subject: tuple[Any, Any] = ("", "")
        if STEPS[step] == "method":
            subject = (trial.method.name, (trial.method.options, trial.calibration))
        elif task is not None:
            subject = (task.name, task.options)
        found_at = places(step, subject, model, trial.dtype, self.device)
        for level, place in enumerate(found_at):
            seen = self.history.seconds.get(place)
            if seen is not None:
                factor = unit(level, self.speed, (step, trial.method, params))
                value = seen.span() * (0.0 if factor is None else 1 / factor)
                return value.wider(WIDE[max(0, level - 1)])
        prior = step_seconds(step, trial.method, params, self.speed)
        self.guessed = self.guessed or prior.mid > 0  # no fit takes no time for sure
        return prior

    def peaks(self, task: Part) -> tuple[Interval, Interval, bool]:
        """Peak bytes on the device and on the host, and whether they were seen."""
        trial = self.trial
        params = self.history.params(trial.model)
        alive = alive_bytes(trial.method, params, trial.dtype)
        (host, same_host), (on_device, same) = (
            self._peak(kind, task) for kind in ("memory", "device")
        )
        if on_device is None and host is not None:  # seen on a CPU: what torch held
            on_device = _without(host, BASE)
        if on_device is None:
            on_device = alive
        if host is None:
            host = alive + Interval(BASE, BASE, BASE)
        sure = same_host and (same or self.device == CPU.name)
        return on_device + Interval(CONTEXT, CONTEXT, CONTEXT), host, sure

    def _peak(self, kind: str, task: Part) -> tuple[Interval | None, bool]:
        """Bytes where something was seen, and whether it was of the very same task."""
        trial = self.trial
        found_at = peak_places(
            kind,
            (trial.method.name, (trial.method.options, trial.calibration)),
            (trial.model.name, trial.model.options),
            trial.dtype,
            (task.name, task.options),
        )
        for level, place in enumerate(found_at):
            found = self.history.peaks.get(place)
            if found is not None:
                peak, read, fixed = found
                more = max(1.0, tokens(task.protocol or "{}") / read)
                fixed = min(fixed, peak)
                value = fixed + (peak - fixed) * more
                return Interval(value, value, value).wider((1.0, 1.2)[level]), not level
        return None, False


def _without(span: Interval, taken: float) -> Interval:
    """A span of bytes without what something else takes, never under a tenth."""
    return Interval(*(max(v - taken, v / 10) for v in (span.low, span.mid, span.high)))
