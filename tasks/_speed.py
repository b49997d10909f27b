"""Time and memory of a network while no other trial uses its device."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from harness.core import BenchError, Goal, Measurement, Model, Unsupported
from harness.registry import Plugin, resolve
from harness.toolkit import devices, host_memory
from harness.toolkit.text_part import vocabulary


@dataclass(frozen=True, slots=True)
class Member:
    """A task that another task uses, and its configured instance."""

    plugin: Plugin
    instance: Any


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The options of all measurements of speed.

    Args:
        batch: Number of inputs in one run.
        warmups: Number of runs before those that are measured.
        repeats: Number of runs that are measured, at least 2.
        trained_on: For a model that is trained here, the task (a name, or a mapping
            with its options) that gives the training data.
    """

    batch: int = 1
    warmups: int = 2
    repeats: int = 10
    trained_on: str | dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("warmups", 0), ("repeats", 2)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} {value} is not {least} or more")

    def protocol(self) -> dict[str, Any]:
        """What must be equal for two numbers to be comparable, beside the machine."""
        return {**asdict(self), "statistic": "median", "spread": "quartiles"}

    def place(self) -> dict[str, Any]:
        """Host, device and threads; numbers are comparable within one place only."""
        return {
            "host": devices.host(),
            "device": devices.name(devices.pick()),
            "threads": devices.threads(),
        }

    def fingerprint(self) -> str:
        """The input is synthetic; a trained model's data has its own identity."""
        if self.trained_on is None:
            return "synthetic"
        return str(self._data_task.fingerprint())

    @property
    def by_content(self) -> bool:
        """Whether ``fingerprint`` depends on the content of files and texts alone."""
        if self.trained_on is None:
            return True
        return bool(getattr(self._data_task, "by_content", False))

    def members(self) -> list[Member]:
        """The task named by ``trained_on``; its code decides what is measured too."""
        return [] if self.trained_on is None else [self._member]

    def training(self) -> str:
        """The key of the training data, so that the checkpoint is shared.

        Returns:
            That of the task named by ``trained_on``.

        Raises:
            BenchError: If none is named.
        """
        return str(self._data_task.training())

    def data(self) -> Any:
        """The training data of the task named by ``trained_on``."""
        return self._data_task.data()

    @property
    def side(self) -> int | None:
        """Height and width of the images of ``trained_on`` in pixels, if it has any."""
        if self.trained_on is None:
            return None
        return getattr(self._data_task, "side", None)

    @property
    def _data_task(self) -> Any:
        return self._member.instance

    @cached_property
    def _member(self) -> Member:
        if self.trained_on is None:
            raise BenchError(
                "a model that is trained here needs data before its speed can be "
                "measured: name a task, like {name: latency, trained_on: digits}"
            )
        item = self.trained_on
        options = dict(item) if isinstance(item, Mapping) else {"name": item}
        plugin, implied = resolve("task", str(options.pop("name", None)))
        if "training_data" not in plugin.facts["gives"]:
            raise BenchError(f"trained_on: task {plugin.name} gives no training data")
        return Member(plugin, plugin.build({**implied, **options}))


def seconds(run: Callable[[], object], *, warmups: int, repeats: int) -> list[float]:
    """Measure the duration of each of ``repeats`` runs, after ``warmups`` runs.

    Args:
        run: The work that is measured.
        warmups: Number of runs before, which are not measured.
        repeats: Number of runs that are measured.

    Returns:
        Seconds of each measured run, in order.
    """

    def whole() -> Iterator[object]:
        yield run()

    return [lap[0] for lap in laps(whole, warmups=warmups, repeats=repeats)]


def laps(
    start: Callable[[], Iterator[object]], *, warmups: int, repeats: int
) -> list[list[float]]:
    """Measure the duration of each step of ``repeats`` runs, after ``warmups`` runs.

    The device is idle before and after each step, and garbage collection is off.

    Args:
        start: Prepares a run, which is not measured, and returns its steps; a step is
            the work that the iterator does for one item.
        warmups: Number of runs before, which are not measured.
        repeats: Number of runs that are measured.

    Returns:
        For each measured run the seconds of its steps, in order.
    """
    device = devices.pick()
    found = []
    # A collection in the middle of a run would count as the network's time.
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(warmups + repeats):
            steps = start()
            times = [_now(device)]
            times += (_now(device) for _ in steps)
            found.append([after - before for before, after in pairwise(times)])
    finally:
        if enabled:
            gc.enable()
    return found[warmups:]


def _now(device: torch.device) -> float:
    # A GPU returns before its work is done: wait, so that the work before this moment
    # is complete and the work after it starts on an idle device.
    devices.synchronize(device)
    return time.perf_counter()


def median(
    metric: str, values: Sequence[float], *, unit: str, goal: Goal
) -> Iterator[Measurement]:
    """The median over repeats, and the distance between the quartiles.

    Args:
        metric: Name of the median; the distance is called ``metric_spread``.
        values: One value for each repeat, at least two.
        unit: Unit of the values, for instance ``ms``.
        goal: Direction that is better: ``min`` or ``max``.

    Yields:
        Two measurements; the first has the repeats as its values.
    """
    # Median and quartiles: a single run that the machine disturbed moves neither.
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    yield Measurement(
        metric=metric,
        value=statistics.median(values),
        unit=unit,
        goal=goal,
        n=len(values),
        values=list(values),
    )
    yield Measurement(
        metric=f"{metric}_spread", value=third - first, unit=unit, n=len(values)
    )


def device_of(net: nn.Module) -> torch.device:
    """The device of a network's parameters."""
    return host_memory.compute_device(net)


def tokens(model: Model, batch: int, length: int) -> torch.Tensor:
    """Token ids to measure with, on the network's device.

    Args:
        model: A language model of transformers.
        batch: Number of sequences per batch.
        length: Number of tokens per sequence.

    Returns:
        Shape ``(batch, length)``; the values do not matter to the time.

    Raises:
        Unsupported: If the model is of another kind, or reads no sequence so long.
    """
    if getattr(model.net, "config", None) is None:
        raise Unsupported(f"{model.name} is not a network of transformers")
    if model.max_length is not None and length > model.max_length:
        raise Unsupported(
            f"{model.name} reads {model.max_length} tokens at most, not {length}"
        )
    ids = torch.arange(batch * length) % vocabulary(model.net)
    return ids.view(batch, length).to(device_of(model.net))


def batched(model: Model, batch: int) -> dict[str, Any]:
    """The arguments of one forward pass over ``batch`` copies of the model's example.

    Args:
        model: Its ``example`` is one input, with the batch first.
        batch: Number of copies of the example.

    Returns:
        Keyword arguments on the network's device, in its floating-point type.
    """
    weights = next(model.net.parameters())
    made = {}
    for name, value in model.example().items():
        made[name] = value
        if isinstance(value, torch.Tensor):
            dtype = weights.dtype if value.is_floating_point() else value.dtype
            # Copies of one example: the time does not depend on the values.
            many = value.repeat(batch, *[1] * (value.ndim - 1))
            made[name] = many.to(weights.device, dtype)
    return made
