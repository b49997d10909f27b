"""What finished trials took, by everything that it may depend on."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from harness.core import BenchError
from harness.planning.trial import Part, Trial
from harness.scheduling.hardware import CPU, Device, known
from harness.scheduling.interval import Interval
from harness.scheduling.priors import guessed_params, step_seconds, tokens
from results.storage.store import Store

# Step -> what it depends on beside the model.
STEPS = {"load": "", "fit": "method", "compress": "method", "evaluate": "task"}


@dataclass(slots=True)
class Seen:
    """What was seen of one kind of number."""

    n: float = 0.0
    total: float = 0.0
    low: float = math.inf
    high: float = 0.0

    def add(self, unit: float, found: Sequence[float]) -> None:
        """Add how many, their mean, and tenths at both ends, all times ``unit``."""
        n, mean, low, high = found
        self.n += n
        self.total += n * mean * unit
        self.low = min(self.low, low * unit)
        self.high = max(self.high, high * unit)

    def span(self) -> Interval:
        """The mean, between the lowest and the highest tenth."""
        return Interval(self.low, self.total / self.n, self.high)


@dataclass(slots=True)
class History:
    """Seconds and bytes that were seen.

    Args:
        seconds: By ``places``.
        peaks: By ``peak_places``: bytes, what was read at a time, and the bytes of it
            that do not grow with that.
        trials: How often something was noted.
        news: How often it was of a new kind, or a larger peak than any before.
    """

    seconds: dict[tuple[Any, ...], Seen] = field(default_factory=dict)
    peaks: dict[tuple[Any, ...], tuple[float, int, float]] = field(default_factory=dict)
    trials: int = 0
    news: int = 0
    _params: dict[Any, int] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store) -> History:
        """That of a store's finished trials."""
        from results.queries.db import ask

        made = cls()
        if store.files("trials"):
            for row in ask(store, _HISTORY).dicts():
                with contextlib.suppress(ValueError, TypeError, AttributeError):
                    made.add(row)  # else what it says of itself is no JSON object
        return made

    def add(self, row: Mapping[str, Any]) -> None:
        """Note equal trials.

        Args:
            row: A row of ``_HISTORY``, in which each step has how many there were,
                their mean, and their tenths at both ends; None if there was none.
        """
        params = row["params_dense"]
        model = (row["model"], row["model_options"] or "{}")
        before = len(self.seconds), len(self.peaks), self._params.get(row["model"])
        if params:
            self._params[model] = self._params[row["model"]] = params
        options = row["method_options"] or "{}"
        subjects = {
            "method": (row["method"], (options, row["calibration"])),
            "task": (row["task"], row["task_options"] or "{}"),
            "": ("", ""),
        }
        part = _part(row["method"], options)
        device, speed = _device_and_speed(
            row["device"], row["threads"], row["peak_device_bytes"]
        )
        for step, who in STEPS.items():
            found = row[step]
            if found is None:
                continue
            found_at = places(step, subjects[who], model, row["dtype"], device)
            for level, place in enumerate(found_at):
                factor = unit(level, speed, (step, part, params))
                if factor is None:
                    continue
                if place not in self.seconds:
                    self.seconds[place] = Seen()
                self.seconds[place].add(factor, found)
        grown = self._add_peaks(row, subjects, model)
        self.trials += 1
        now = len(self.seconds), len(self.peaks), self._params.get(row["model"])
        self.news += grown or now != before

    def _add_peaks(
        self,
        row: Mapping[str, Any],
        subjects: Mapping[str, tuple[Any, Any]],
        model: tuple[str, str],
    ) -> bool:
        """Keep the largest peaks; whether one grew."""
        grown = False
        method, task = subjects["method"], subjects["task"]
        for kind in ("device", "memory"):
            peak = row[f"peak_{kind}_bytes"]
            if not peak:
                continue
            weights = row["bytes_dense"] or 0
            this = (float(peak), tokens(row["protocol_fields"] or "{}"), weights)
            for place in peak_places(kind, method, model, row["dtype"], task):
                if this > self.peaks.get(place, (0.0, 1, 0.0)):
                    self.peaks[place] = this
                    grown = True
        return grown

    def learn(self, trial: Trial, numbers: Mapping[str, float], device: str) -> None:
        """Note one trial of this run that ended well.

        Args:
            trial: The trial.
            numbers: What its worker measured; see ``harness.running.worker``.
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
        for step in STEPS:
            value = numbers.get(f"{step}_seconds")
            row[step] = None if value is None else (1, value, value, value)
        self.add(row)

    def params(self, model: Part) -> int:
        """Parameters of a model: seen, or in its name, or typical of its kind."""
        for key in ((model.name, model.options), model.name):
            if key in self._params:
                return self._params[key]
        return guessed_params(model)


def places(
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


def unit(level: int, speed: float, guess: tuple[str, Part, int | None]) -> float | None:
    """What seconds are multiplied by to be comparable at a level.

    Args:
        level: Index into ``places``.
        speed: Of the device.
        guess: Step, method and parameters: what the prior knows of them.

    Returns:
        The factor; None where the prior says nothing.
    """
    if level < 3:
        return speed if level else 1.0
    step, method, params = guess
    if not params:
        return None
    try:
        prior = step_seconds(step, method, params, speed).mid
    except BenchError:  # a method of an earlier time, which nobody has now
        return None
    return 1 / prior if prior else None


def peak_places(
    kind: str,
    method: tuple[Any, Any],
    model: tuple[str, str],
    dtype: str,
    task: tuple[str, str],
) -> tuple[tuple[Any, ...], ...]:
    """Where a peak is kept; the second forgets the options of the task: its batch."""
    return ((kind, *method, *model, dtype, *task), (kind, *method, *model, dtype))


@lru_cache(maxsize=4096)
def _part(name: str, options: str) -> Part:
    return Part(name=name, plugin=name, options=options)


def _device_and_speed(
    device: str | None, threads: float | None, on_device: Any
) -> tuple[str, float]:
    """The kind of device that a row was measured on, and its speed."""
    found = known(device or "")
    if found.name == CPU.name and on_device:  # a GPU by a name that says nothing
        found = Device(name=str(device))
    return found.name, found.relative_speed(threads or 1)


def _columns() -> Iterable[str]:
    for step in STEPS:
        value = f"{step}_seconds"
        tenths = (f"quantile_cont({value}, {share})" for share in (0.1, 0.9))
        found = ", ".join([f"count({value})", f"avg({value})", *tenths])
        yield f"CASE WHEN count({value}) > 0 THEN [{found}] END AS {step}"


_HISTORY = f"""
SELECT method, method_options, model, model_options, task, task_options, calibration,
       protocol_fields, dtype, device, threads, {", ".join(_columns())},
       max(peak_device_bytes) AS peak_device_bytes,
       quantile_cont(peak_memory_bytes, 0.9) AS peak_memory_bytes,
       max(bytes_dense) AS bytes_dense, max(params_dense) AS params_dense
FROM steps GROUP BY ALL
"""
