"""What a bundle will take, predicted from finished trials; else from stated priors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.accelerators import CPU, Device, known
from harness.core import BenchError
from harness.plan import Artifact, Bundle
from harness.priors import (
    BASE,
    CONTEXT,
    WIDE,
    Span,
    alive_bytes,
    artifact_seconds,
    guessed_params,
    step_seconds,
    tokens,
)
from harness.trial import Part, Trial
from results.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a bundle will take.

    Args:
        seconds: From its start to its end, artifacts apart.
        setup: The part of it that a second half of the bundle would repeat.
        device: Peak bytes on a device, what CUDA takes for itself included.
        host: Peak bytes of host memory.
        known: Whether the bytes were seen on this kind of device, not guessed.
        guessed: Whether a prior stands for some of the seconds.
    """

    seconds: Span
    setup: float
    device: Span
    host: Span
    known: bool
    guessed: bool


@dataclass(slots=True)
class _Seen:
    """What was seen of one kind of number."""

    n: int = 0
    total: float = 0.0
    low: float = math.inf
    high: float = 0.0

    def add(self, n: int, mean: float, low: float, high: float) -> None:
        self.n += n
        self.total += n * mean
        self.low, self.high = min(self.low, low), max(self.high, high)

    def span(self) -> Span:
        return Span(self.low, self.total / self.n, self.high)


@dataclass(slots=True)
class Predictor:
    """Predicts bundles; learns from the store, and from trials as they end.

    A trial is four steps: load, fit, compress, evaluate. Each step is looked up by
    what it depends on, from the very same (options, dtype, kind of device) to any
    model; the first place where something was seen is the guess. Steps move between
    devices by their pace. Between models moves how far off the prior was: a small model
    takes seconds of which most are overhead, so seconds a parameter say nothing.
    """

    learnt: int = 0
    _seen: dict[tuple[Any, ...], _Seen] = field(default_factory=dict)
    _peaks: dict[tuple[Any, ...], tuple[float, int, float]] = field(
        default_factory=dict
    )
    _params: dict[Any, int] = field(default_factory=dict)
    _built: frozenset[str] = frozenset()
    _memo: dict[Any, Need] = field(default_factory=dict)  # until something is learnt

    @classmethod
    def of(cls, store: Store | None) -> Predictor:
        """One that knows a store's finished trials.

        Args:
            store: The history; None is none.

        Returns:
            The predictor.
        """
        from results.db import ask

        made = cls()
        if store is not None and store.files("trials"):
            for row in ask(store, _HISTORY).dicts():
                made.add(row)
        if store is not None:
            made._built = frozenset(p.name for p in store.here("artifacts").iterdir())
        return made

    def add(self, row: Mapping[str, Any]) -> None:
        """Learn from equal trials.

        Args:
            row: A row of ``_HISTORY``, in which each step has ``n``, ``mean``,
                ``low`` and ``high``.
        """
        self._memo.clear()
        device, pace = _pace(row["device"], row["threads"], row["peak_device_bytes"])
        params = row["params_dense"]
        model = (row["model"], row["model_options"] or "{}")
        if params:
            self._params[model] = self._params[row["model"]] = params
        options = row["method_options"] or "{}"
        method = (row["method"], (options, row["calibration"]))
        part = Part(name=row["method"], plugin=row["method"], options=options)
        task = (row["task"], row["task_options"] or "{}")
        for step, who in _STEPS.items():
            subject = {"method": method, "task": task, "": ("", "")}[who]
            n, mean, low, high = (
                row[f"{step}_{k}"] for k in ("n", "mean", "low", "high")
            )
            if not n:
                continue
            places = _places(step, subject, model, row["dtype"], device)
            for level, place in enumerate(places):
                unit = _unit(level, pace, (step, part, params))
                if unit is None:
                    continue
                seen = self._seen.setdefault(place, _Seen())
                seen.add(n, mean * unit, low * unit, high * unit)
        for kind in ("device", "memory"):
            peak = row[f"peak_{kind}_bytes"]
            if peak:
                weights = row["bytes_dense"] or 0
                read = tokens(row["protocol_fields"] or "{}")
                for place in _peak_places(kind, method, model, row["dtype"], task):
                    before = self._peaks.get(place, (0.0, 1, 0.0))
                    self._peaks[place] = max(before, (float(peak), read, weights))

    def learn(self, trial: Trial, numbers: Mapping[str, float], device: str) -> None:
        """Learn from one trial of this run that ended well.

        Args:
            trial: The trial.
            numbers: What its worker measured; see ``harness.bundle``.
            device: The name of the hardware.
        """
        row: dict[str, Any] = {
            "method": trial.method.name,
            "method_options": trial.method.options,
            "model": trial.model.name,
            "model_options": trial.model.options,
            "task": trial.task.name,
            "task_options": trial.task.options,
            "calibration": trial.calibration,
            "dtype": trial.dtype,
            "protocol_fields": trial.task.protocol,
            "device": device,
            "threads": numbers.get("threads"),
        }
        for column in ("params_dense", "bytes_dense"):
            row[column] = numbers.get(column)
        for kind in ("device", "memory"):
            row[f"peak_{kind}_bytes"] = numbers.get(f"peak_{kind}_bytes")
        for step in _STEPS:
            value = numbers.get(f"{step}_seconds")
            row[f"{step}_n"] = int(value is not None)
            row |= {f"{step}_{k}": value or 0.0 for k in ("mean", "low", "high")}
        self.add(row)
        self.learnt += 1

    def bundle(self, bundle: Bundle, device: Device = CPU) -> Need:
        """What a bundle will take.

        Args:
            bundle: The trials.
            device: What it will run on; ``CPU`` counts the threads of its resources.

        Returns:
            The prediction.
        """
        first = bundle.trials[0]
        tasks = Counter(t.task for t in bundle.trials)
        ratios = len({t.ratio for t in bundle.trials})
        parts = (first.method, first.model, first.dtype, first.calibration)
        cpus = bundle.resources.cpus
        key = (parts, tuple(tasks.items()), ratios, device, cpus)
        if key not in self._memo:
            self._memo[key] = self._bundle(first, tasks, ratios, (device, cpus))
        return self._memo[key]

    def _bundle(
        self, first: Trial, tasks: Counter[Part], ratios: int, on: tuple[Device, float]
    ) -> Need:
        device, cpus = on
        pace = device.pace(cpus)
        question = _Question(self, first, device.name, pace)
        load, fit, compress = (question.step(s) for s in ("load", "fit", "compress"))
        seconds = load + fit + compress * ratios
        for task, times in tasks.items():
            seconds += question.step("evaluate", task) * times
        peaks = [question.peaks(task) for task in tasks]
        return Need(
            seconds=seconds,
            setup=load.mid + fit.mid,
            device=max((d for d, _, _ in peaks), key=lambda s: s.high),
            host=max((h for _, h, _ in peaks), key=lambda s: s.high),
            known=all(sure for _, _, sure in peaks),
            guessed=question.guessed,
        )

    def artifact(self, artifact: Artifact, device: Device = CPU) -> Span:
        """Seconds that building an artifact takes: a prior, none if it is there."""
        if artifact.id in self._built:
            return Span(0.0, 0.0, 0.0)
        return artifact_seconds(artifact, self.params(artifact.model), device.pace())

    def params(self, model: Part) -> int:
        """Parameters of a model: seen, or in its name, or typical of its kind."""
        for key in ((model.name, model.options), model.name):
            if key in self._params:
                return self._params[key]
        return guessed_params(model)


@dataclass(slots=True)
class _Question:
    """The look-ups for one bundle."""

    predictor: Predictor
    trial: Trial
    device: str
    pace: float
    guessed: bool = False

    def step(self, step: str, task: Part | None = None) -> Span:
        """Seconds of one step."""
        trial = self.trial
        params = self.predictor.params(trial.model)
        model = (trial.model.name, trial.model.options)
        subject: tuple[Any, Any] = ("", "")
        if _STEPS[step] == "method":
            subject = (trial.method.name, (trial.method.options, trial.calibration))
        elif task is not None:
            subject = (task.name, task.options)
        places = _places(step, subject, model, trial.dtype, self.device)
        for level, place in enumerate(places):
            seen = self.predictor._seen.get(place)
            if seen is not None:
                unit = _unit(level, self.pace, (step, trial.method, params))
                value = seen.span() * (0.0 if unit is None else 1 / unit)
                return value.wider(WIDE[max(0, level - 1)])
        self.guessed = True
        return step_seconds(step, trial.method, params, self.pace)

    def peaks(self, task: Part) -> tuple[Span, Span, bool]:
        """Peak bytes on the device and on the host, and whether they were seen."""
        trial = self.trial
        params = self.predictor.params(trial.model)
        alive = alive_bytes(trial.method, params, trial.dtype)
        host = self._peak("memory", task)
        on_device = self._peak("device", task)
        sure = on_device is not None
        if on_device is None and host is not None:  # seen on a CPU: what torch held
            on_device = _without(host, BASE)
        if on_device is None:
            on_device = alive
        if host is None:
            sure = False
            host = alive + Span(BASE, BASE, BASE)
        if self.device == CPU.name:
            sure = self._peak("memory", task) is not None
        return on_device + Span(CONTEXT, CONTEXT, CONTEXT), host, sure

    def _peak(self, kind: str, task: Part) -> Span | None:
        trial = self.trial
        places = _peak_places(
            kind,
            (trial.method.name, (trial.method.options, trial.calibration)),
            (trial.model.name, trial.model.options),
            trial.dtype,
            (task.name, task.options),
        )
        for level, place in enumerate(places):
            found = self.predictor._peaks.get(place)
            if found is not None:
                peak, read, fixed = found
                more = max(1.0, tokens(task.protocol or "{}") / read)
                fixed = min(fixed, peak)
                value = fixed + (peak - fixed) * more
                return Span(value, value, value).wider((1.0, 1.2)[level])
        return None


def _without(span: Span, taken: float) -> Span:
    """A span of bytes without what something else takes, never under a tenth."""
    return Span(*(max(v - taken, v / 10) for v in (span.low, span.mid, span.high)))


# Step -> what it depends on beside the model.
_STEPS = {"load": "", "fit": "method", "compress": "method", "evaluate": "task"}


def _places(
    step: str,
    subject: tuple[Any, Any],
    model: tuple[str, str],
    dtype: str,
    device: str,
) -> tuple[tuple[Any, ...], ...]:
    """Where a step's seconds are kept, from the very same to any model."""
    name, options = subject
    return (
        (step, name, options, *model, dtype, device),
        (step, name, options, *model, dtype),
        (step, name, model[0]),
        (step, name),
    )


def _unit(level: int, pace: float, guess: tuple[str, Part, int | None]) -> float | None:
    """What seconds are multiplied by to be comparable at a level.

    Args:
        level: Index into ``_places``.
        pace: Of the device.
        guess: Step, method and parameters: what the prior knows of them.

    Returns:
        The factor; None where the prior says nothing.
    """
    if level < 3:
        return pace if level else 1.0
    step, method, params = guess
    if not params:
        return None
    try:
        prior = step_seconds(step, method, params, pace).mid
    except BenchError:  # a method of an earlier time, which nobody has now
        return None
    return 1 / prior if prior else None


def _peak_places(
    kind: str,
    method: tuple[Any, Any],
    model: tuple[str, str],
    dtype: str,
    task: tuple[str, str],
) -> tuple[tuple[Any, ...], ...]:
    """Where a peak is kept; the second forgets the options of the task: its batch."""
    return ((kind, *method, *model, dtype, *task), (kind, *method, *model, dtype))


def _pace(
    device: str | None, threads: float | None, on_device: Any
) -> tuple[str, float]:
    """The kind of device that a row was measured on, and its pace."""
    found = known(device or "")
    if found.name == CPU.name and on_device:  # a GPU by a name that says nothing
        found = Device(name=str(device))
    return found.name, found.pace(threads or 1)


def _columns() -> Iterable[str]:
    for step in _STEPS:
        value = f"{step}_seconds"
        yield f"count({value}) AS {step}_n, avg({value}) AS {step}_mean"
        yield f"quantile_cont({value}, 0.1) AS {step}_low"
        yield f"quantile_cont({value}, 0.9) AS {step}_high"


_HISTORY = f"""
SELECT method, method_options, model, model_options, task, task_options, calibration,
       protocol_fields, dtype, device, threads, {", ".join(_columns())},
       max(peak_device_bytes) AS peak_device_bytes,
       quantile_cont(peak_memory_bytes, 0.9) AS peak_memory_bytes,
       max(bytes_dense) AS bytes_dense, max(params_dense) AS params_dense
FROM steps GROUP BY ALL
"""
