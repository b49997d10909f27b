"""Seconds and peak bytes of finished trials, under keys of decreasing detail."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from harness.core import BenchError
from harness.planning.trial import PluginSpec, Trial
from harness.scheduling.hardware import CPU, Device, known
from harness.scheduling.interval import Interval
from harness.scheduling.priors import guessed_params, step_seconds, tokens
from results.storage.store import Store

# Step -> the part of the trial that it depends on in addition to the model.
STEPS = {"load": "", "fit": "method", "compress": "method", "evaluate": "task"}


@dataclass(slots=True)
class Seen:
    """Summary of the numbers that were measured under one key."""

    n: float = 0.0
    total: float = 0.0
    low: float = math.inf
    high: float = 0.0

    def add(self, unit: float, found: Sequence[float]) -> None:
        """Adds (count, mean, 10 % quantile, 90 % quantile) in units of ``unit``."""
        n, mean, low, high = found
        # The mean is weighted by counts. The quantiles are not averaged: the lowest and
        # the highest one of all groups make the interval rather too wide than too
        # narrow.
        self.n += n
        self.total += n * mean * unit
        self.low = min(self.low, low * unit)
        self.high = max(self.high, high * unit)

    def interval(self) -> Interval:
        """The mean, with the lowest 10 % and the highest 90 % quantile as its ends."""
        return Interval(self.low, self.total / self.n, self.high)


@dataclass(slots=True)
class History:
    """Seconds and peak bytes of finished trials.

    Args:
        seconds: By the keys of ``step_keys``.
        peaks: By the keys of ``peak_keys``: peak bytes, tokens of one forward pass, and
            the bytes of the weights, which do not grow with the tokens.
        trials: How many rows were added.
        news: How many of them added a key, changed a parameter count or raised a peak.
    """

    seconds: dict[tuple[Any, ...], Seen] = field(default_factory=dict)
    peaks: dict[tuple[Any, ...], tuple[float, int, float]] = field(default_factory=dict)
    trials: int = 0
    news: int = 0
    _params: dict[Any, int] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store) -> History:
        """Builds the history from a store's finished trials.

        This query and ``Predictor.of`` are the only places where the scheduling reads
        a store; everything else works on values that are passed in.
        """
        from results.queries.db import ask

        made = cls()
        if store.files("trials"):
            for row in ask(store, _HISTORY).dicts():
                with contextlib.suppress(ValueError, TypeError, AttributeError):
                    made.add(row)  # a row whose options are not JSON teaches nothing
        return made

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a group of equal trials.

        Args:
            row: A row of ``_HISTORY``. Each step has (count, mean, 10 % quantile, 90 %
                quantile) of its seconds, or None if no trial measured it.
        """
        params = row["params_dense"]
        model = (row["model"], row["model_options"] or "{}")
        # The predictor computes its predictions again only on news. One more trial like
        # many before it is not news.
        before = len(self.seconds), len(self.peaks), self._params.get(row["model"])
        # Also under the name alone, for a model with options that were never seen.
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
        for step, depends in STEPS.items():
            found = row[step]
            if found is None:
                continue
            keys = step_keys(step, subjects[depends], model, row["dtype"], device)
            for level, key in enumerate(keys):
                # Every row is entered under all its keys, each time in the unit of that
                # level.
                factor = unit(level, speed, (step, part, params))
                if factor is None:
                    continue
                if key not in self.seconds:
                    self.seconds[key] = Seen()
                self.seconds[key].add(factor, found)
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
        """Keeps the largest peaks; returns whether one grew."""
        grown = False
        method, task = subjects["method"], subjects["task"]
        for kind in ("device", "memory"):
            peak = row[f"peak_{kind}_bytes"]
            if not peak:
                continue
            # Compared by the peak first; tokens and weights belong to the trial that
            # had it.
            weights = row["bytes_dense"] or 0
            this = (float(peak), tokens(row["protocol_fields"] or "{}"), weights)
            for key in peak_keys(kind, method, model, row["dtype"], task):
                if key not in self.peaks or this > self.peaks[key]:
                    self.peaks[key] = this
                    grown = True
        return grown

    def learn(self, trial: Trial, numbers: Mapping[str, float], device: str) -> None:
        """Adds one trial of this run that ended with status ``ok``.

        Args:
            trial: The trial that ended.
            numbers: The measurements of its worker, by column of the store.
            device: The name of the hardware, as torch or Ray reports it.
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
            # A single trial: its count is 1, and it is its own mean and quantiles.
            row[step] = None if value is None else (1, value, value, value)
        self.add(row)

    def params(self, model: PluginSpec) -> int:
        """Parameters of a model: measured, else estimated from its files or name."""
        # The exact options first: they may set the width or depth of the network.
        for key in ((model.name, model.options), model.name):
            if key in self._params:
                return self._params[key]
        return guessed_params(model)


def step_keys(
    step: str,
    subject: tuple[Any, Any],
    model: tuple[str, str],
    dtype: str,
    device: str,
) -> tuple[tuple[Any, ...], ...]:
    """The keys of a step's seconds, from an equal trial to any model and options.

    The levels are: everything equal; another device; another dtype or other options;
    another model.
    """
    name, options = subject
    return (
        (step, name, options, *model, dtype, device),
        (step, name, options, *model, dtype),
        (step, name, model[0]),
        (step, name),
    )


def unit(
    level: int, speed: float, guess: tuple[str, PluginSpec, int | None]
) -> float | None:
    """The factor that makes seconds comparable at a level of detail.

    On equal hardware seconds are kept as they are (level 0). On other hardware they are
    multiplied by its relative speed (levels 1 and 2). For other models they are divided
    by the prior (level 3), which knows the size of the model and the device.

    Args:
        level: Index into ``step_keys``: 0 for an equal trial, 3 for any model.
        speed: Relative speed of the device, 1 for one processor thread.
        guess: Step, method and number of parameters, from which the prior follows.

    Returns:
        The factor; None if there is no prior or the prior is zero.
    """
    if level < 3:
        return speed if level else 1.0
    step, method, params = guess
    if not params:
        return None
    try:
        prior = step_seconds(step, method, params, speed).mid
    except BenchError:  # the store has a method that is not installed
        return None
    return 1 / prior if prior else None


def peak_keys(
    kind: str,
    method: tuple[Any, Any],
    model: tuple[str, str],
    dtype: str,
    task: tuple[str, str],
) -> tuple[tuple[Any, ...], ...]:
    """The keys of a peak; the second ignores the task, whose batch is then scaled."""
    return ((kind, *method, *model, dtype, *task), (kind, *method, *model, dtype))


@lru_cache(maxsize=4096)
def _part(name: str, options: str) -> PluginSpec:
    return PluginSpec(name=name, plugin=name, options=options)


def _device_and_speed(
    device: str | None, threads: float | None, on_device: Any
) -> tuple[str, float]:
    """The kind of device that a row was measured on, and its relative speed."""
    found = known(device or "")
    if found.name == CPU.name and on_device:  # a GPU with an unknown name
        found = Device(name=str(device))
    return found.name, found.relative_speed(threads or 1)


def _columns() -> Iterable[str]:
    for step in STEPS:
        # The four numbers are in the order that ``Seen.add`` reads. Without the CASE a
        # step that was never measured would be [0, NULL, NULL, NULL] instead of NULL.
        value = f"{step}_seconds"
        tenths = (f"quantile_cont({value}, {share})" for share in (0.1, 0.9))
        found = ", ".join([f"count({value})", f"avg({value})", *tenths])
        yield f"CASE WHEN count({value}) > 0 THEN [{found}] END AS {step}"


# One row for each group of equal trials on equal hardware, since reading every trial of
# a large store would take longer than planning. A worker's host memory also has what
# earlier bundles left in it, so that the highest tenth of its peaks is ignored; a peak
# on a device is of one bundle's own process.
_HISTORY = f"""
SELECT method, method_options, model, model_options, task, task_options, calibration,
       protocol_fields, dtype, device, threads, {", ".join(_columns())},
       max(peak_device_bytes) FILTER (placement IS DISTINCT FROM 'blockwise')
           AS peak_device_bytes,
       quantile_cont(peak_memory_bytes, 0.9) AS peak_memory_bytes,
       max(bytes_dense) AS bytes_dense, max(params_dense) AS params_dense
FROM steps GROUP BY ALL
"""
