"""The ``exclude`` rules of a grid: which trials they drop, and rules that drop none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

from harness.options import nearest
from harness.planning.trial import Trial

KEYS = ("method", "model", "task", "ratio", "seed")
_NUMBERS = ("ratio", "seed")
_SHOWN = 10  # numbers of a block that a message lists

Rule = Mapping[str, Any]
# Key of ``KEYS`` -> the values that some trials of a block have together.
Values = Mapping[str, Sequence[Any]]


def listed(value: Any) -> list[Any]:
    """Return a rule's value as a list; a rule may give one value or several."""
    return value if isinstance(value, list) else [value]


def matches(rule: Rule, trial: Trial) -> bool:
    """Return whether every key of a rule matches the trial."""
    return all(
        any(_same(key, wanted, _of(trial, key)) for wanted in listed(value))
        for key, value in rule.items()
    )


def wrong(rules: Iterable[Rule], combinations: Sequence[Values]) -> list[str]:
    """Say why rules can match no trial of a block.

    Args:
        rules: Mappings whose keys are among ``KEYS``.
        combinations: One mapping for each method and model of the block; every
            product of its values is a trial.

    Returns:
        One sentence for each value that the block does not have, and for each rule
        whose values exist but never together.
    """
    found = []
    for rule in rules:
        if not rule:
            found.append(
                f"a rule without keys drops every trial; give one of {', '.join(KEYS)}"
            )
            continue
        absent = [why for key in rule for why in _absent(key, rule[key], combinations)]
        found.extend(absent)
        if not absent and not any(_possible(rule, each) for each in combinations):
            found.append(
                f"{dict(rule)} matches no trial of this block: its values never occur "
                "together (a method without a ratio has ratio 0 only, and seeds are "
                "repeated only where they change a number)"
            )
    return found


def _of(trial: Trial, key: str) -> Any:
    value = getattr(trial, key)
    return value if key in _NUMBERS else value.name


def _same(key: str, wanted: Any, value: Any) -> bool:
    if key in _NUMBERS:
        # A text never equals a number: 0.5 in quotation marks is an error that
        # ``_absent`` tells.
        return _is_number(wanted) and bool(wanted == value)
    return fnmatch(value, str(wanted))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _possible(rule: Rule, values: Values) -> bool:
    return all(
        any(_same(key, one, value) for one in listed(wanted) for value in values[key])
        for key, wanted in rule.items()
    )


def _absent(key: str, value: Any, combinations: Sequence[Values]) -> list[str]:
    """Say which values of one key no trial of the block has."""
    wanted = listed(value)
    if not wanted or None in wanted:
        return [f"{key} has no value; leave the key out to match every {key}"]
    there = list(dict.fromkeys(v for each in combinations for v in each[key]))
    missing = [w for w in wanted if not any(_same(key, w, value) for value in there)]
    if key not in _NUMBERS:
        return [nearest(f"{key} in this block", str(w), there) for w in missing]
    shown = ", ".join(f"{n:g}" for n in sorted(there)[:_SHOWN])
    more = ", ..." if len(there) > _SHOWN else ""
    return [
        f"no trial of this block has the {key} {w!r}. Known: {shown}{more}"
        if _is_number(w)
        else f"{key} {w!r} is a text; write the number without quotation marks"
        if isinstance(w, str)
        else f"{key} {w!r} is not a number"
        for w in missing
    ]
