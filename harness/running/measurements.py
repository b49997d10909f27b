"""The check that every number passes before it enters a row."""

from __future__ import annotations

import math
import numbers
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from harness.core import Goal, Measurement, NotFinite

if TYPE_CHECKING:
    from harness.toolkit.experts import Routed

MAX_ERRORS = 5  # errors of one trial that its reason names
_LARGEST = 2**63 - 1  # of a stored whole number


class BadMeasurement(Exception):
    """A plugin returned something that is not a measurement; the trial fails."""


def checked(found: Iterable[Any]) -> list[Measurement]:
    """Check the measurements of a trial and turn their numbers into Python's own.

    Args:
        found: What a task yielded or what a method recorded. Iterated once; the
            samples of each measurement are iterated once too.

    Returns:
        Equal measurements whose numbers are ``float`` and ``int``, and whose samples
        are lists.

    Raises:
        NotFinite: If a number is NaN or infinite.
        BadMeasurement: If anything else is wrong. The text names every error.
    """
    # Errors are collected, so that an author of a task sees all of them after one run.
    errors = _Errors()
    kept = [_one(m, errors) for m in found]
    _no_repeats(kept, errors)
    errors.refuse()
    return kept


def checked_task(found: Iterable[Any] | None) -> list[Measurement]:
    """Check what a task yielded: at least one measurement, and each as ``checked``.

    Args:
        found: The return value of ``Task.evaluate``.

    Returns:
        The checked measurements.

    Raises:
        BadMeasurement: If the task yielded nothing, or something wrong.
    """
    if not isinstance(found, Iterable):
        raise BadMeasurement(
            f"evaluate returned {found!r:.80}; it must yield measurements"
        )
    kept = checked(found)
    if not kept:
        raise BadMeasurement("the task yielded no measurement")
    return kept


class _Errors:
    """Errors of one trial; a number that is not finite decides the error class."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.finite = True

    def add(self, text: str) -> None:
        self.texts.append(text)

    def refuse(self) -> None:
        if not self.texts:
            return
        more = len(self.texts) - MAX_ERRORS
        text = "; ".join(self.texts[:MAX_ERRORS])
        text += f"; and {more} more" if more > 0 else ""
        raise BadMeasurement(text) if self.finite else NotFinite(text)


def _one(one: Any, errors: _Errors) -> Any:
    if not isinstance(one, Measurement):
        errors.add(f"{one!r:.80} is a {type(one).__name__}, not a Measurement")
        return one
    if not isinstance(one.metric, str) or not one.metric.strip():
        errors.add(f"the metric {one.metric!r:.80} is not a name")
        one = replace(one, metric=repr(one.metric))
    name = one.metric
    if not isinstance(one.unit, str):
        errors.add(f"the unit of {name} is {one.unit!r:.80}; it must be text")
    if one.goal not in get_args(Goal):
        errors.add(f"the goal of {name} is {one.goal!r:.80}; it must be min, max, none")
    stderr = _optional(_number, one.stderr, f"the standard error of {name}", errors)
    if stderr is not None and stderr < 0:
        errors.add(f"the standard error of {name} is negative: {stderr}")
    return replace(
        one,
        metric=str(name),
        value=_number(one.value, name, errors),
        stderr=stderr,
        n=_optional(_whole, one.n, f"n of {name}", errors),
        step=_optional(_whole, one.step, f"the step of {name}", errors),
        chance=_optional(_number, one.chance, f"the chance level of {name}", errors),
        values=_optional(_samples, one.values, name, errors),
    )


def _optional(
    check: Callable[[Any, str, _Errors], Any], value: Any, name: str, errors: _Errors
) -> Any:
    return None if value is None else check(value, name, errors)


def _number(value: Any, name: str, errors: _Errors) -> float:
    """A real number as a float; arrays and tensors of one element count too."""
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        errors.add(f"{name} is {value!r:.80}, a {type(value).__name__}, not a number")
        return 0.0
    try:
        number = float(value)
    except (OverflowError, ValueError, TypeError):
        errors.add(f"{name} is too large to store")
        return 0.0
    if not math.isfinite(number):
        errors.add(f"{name} is {number}")
        errors.finite = False
    return number


def _whole(value: Any, name: str, errors: _Errors) -> int:
    value = _plain(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and 0 <= value <= _LARGEST:
        return int(value)
    errors.add(f"{name} is {value!r:.80}; it must be a whole number of 0 or more")
    return 0


def _samples(values: Any, name: str, errors: _Errors) -> list[float]:
    if not isinstance(values, Iterable) or isinstance(values, str | bytes):
        errors.add(f"the samples of {name} are {values!r:.80}, not numbers")
        return []
    if hasattr(values, "tolist"):  # an array or a tensor: one copy for all numbers
        values = values.tolist()
        if not isinstance(values, list):
            values = [values]
    # Errors of samples are counted apart: of a million equal ones only the first is
    # named.
    kept, wrong = [], _Errors()
    for value in values:
        kept.append(_number(value, f"a sample of {name}", wrong))
    if not kept:
        errors.add(f"the samples of {name} are empty")
    if not wrong.finite:
        errors.finite = False
        errors.add(f"a sample's {name} is not a finite number")
    elif wrong.texts:
        errors.add(wrong.texts[0])
    return kept


def _plain(value: Any) -> Any:
    """The Python number in a scalar of NumPy's or an array or tensor of one element."""
    shape = getattr(value, "shape", None)
    if shape is None or math.prod(shape) != 1:
        return value
    return value.item()


def columns(row: dict[str, Any]) -> dict[str, Any]:
    """Check the numbers of a row that are not measurements.

    Args:
        row: Columns that were computed from what a plugin returned.

    Returns:
        The same row.

    Raises:
        NotFinite: If a number is NaN or infinite.
    """
    for name, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise NotFinite(f"{name} is {value}")
    return row


def joined(*stages: Sequence[Measurement]) -> list[Measurement]:
    """Join the checked measurements of a trial's stages into one list.

    Points of training curves may share a step: a fit and the retraining after it
    both count their own epochs.

    Args:
        *stages: Of the task, of the fit and of the compression, in this order.

    Returns:
        All of them.

    Raises:
        BadMeasurement: If two stages measured a final number of the same name.
    """
    # Checked for repeats within each stage before; here across the stages.
    found = [one for stage in stages for one in stage]
    errors = _Errors()
    _no_repeats([one for one in found if one.step is None], errors)
    errors.refuse()
    return found


def of_experts(routed: Mapping[str, Routed]) -> list[Measurement]:
    """What the experts of a mixture saw of the calibration text.

    Args:
        routed: Expert -> what it saw; empty for other networks.

    Returns:
        ``expert_tokens``, the fewest tokens that an expert was given, with the number
        of every expert in ``values``; and ``experts_completed``, the number of experts
        with too few of their own for their statistics. Nothing without experts.
    """
    if not routed:
        return []
    tokens = [float(one.tokens) for one in routed.values()]
    few = sum(one.tokens < one.floor for one in routed.values())
    return [
        Measurement(
            metric="expert_tokens",
            value=min(tokens),
            unit="tokens",
            n=len(tokens),
            values=tokens,
        ),
        Measurement(metric="experts_completed", value=float(few), n=len(tokens)),
    ]


def _no_repeats(found: Sequence[Any], errors: _Errors) -> None:
    names = Counter((m.metric, m.step) for m in found if isinstance(m, Measurement))
    for (metric, step), count in names.items():
        if count > 1:
            at = "" if step is None else f" at step {step}"
            errors.add(f"the metric {metric!r}{at} was measured {count} times")
