"""What the writer checks in rows before it stores them."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from results.errors import StoreError, unknown
from results.schema import MEASUREMENT, TABLES

_TOO_LARGE = 1e150  # squares of such numbers overflow


def check_columns(table: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Refuse rows with a column that a table does not have.

    Args:
        table: Name of the table.
        rows: Values by column.

    Raises:
        StoreError: Names the column, and the one that was perhaps meant.
    """
    known = set(TABLES[table])
    for row in rows:
        for column in row.keys() - known:
            raise unknown(f"column of {table}", column, known)


def surely_fits(table: str, row: Mapping[str, Any]) -> bool:
    """Whether each value has the Python type of its column; most rows are so.

    Takes microseconds, where the parser of Arrow takes a part of a millisecond. Values
    of other types may fit too, such as NumPy's numbers; only the parser knows.

    Args:
        table: Name of the table.
        row: Values by column.

    Returns:
        False if the parser has to look.
    """
    kinds = TABLES[table]
    return all(_is_plain(kinds.get(name), value) for name, value in row.items())


def _is_plain(kind: str | None, value: Any) -> bool:
    return kind is not None and (value is None or _PLAIN[kind](value))


def _is_plain_measurement(one: Any) -> bool:
    return type(one) is dict and all(
        _is_plain(MEASUREMENT.get(name), value) for name, value in one.items()
    )


def _is_plain_double(value: Any) -> bool:
    return type(value) is float and math.isfinite(value)


# Type of a column -> whether a value surely is one. By type and not by ``isinstance``:
# NumPy's float64 is a float too, and a truth value is a number.
_PLAIN: dict[str, Callable[[Any], bool]] = {
    "VARCHAR": lambda value: isinstance(value, str),
    "DOUBLE": _is_plain_double,
    "BIGINT": lambda value: type(value) is int and -(2**63) <= value < 2**63,
    "BOOLEAN": lambda value: type(value) is bool,
    "TIMESTAMPTZ": lambda value: type(value) is dt.datetime and value.tzinfo is dt.UTC,
    "DOUBLE[]": lambda value: type(value) is list and all(map(_is_plain_double, value)),
    "MEASUREMENT[]": lambda value: (
        type(value) is list and all(map(_is_plain_measurement, value))
    ),
}


def check_finite(row: Mapping[str, Any]) -> None:
    """Refuse a trial of which some measurement is NaN or infinite.

    Args:
        row: Of the table of trials.

    Raises:
        StoreError: Names the metric and the trial.
    """
    for one in row.get("measurements") or ():
        if not math.isfinite(one["value"]):
            raise StoreError(
                f"{one['metric']} of trial {row.get('trial')} is {one['value']}; only "
                "finite numbers are stored; leave missing values out"
            )


def ranks(row: Mapping[str, Any]) -> bool:
    """Whether every number of a row can be ranked: see the view ``left_out``.

    Readers look at each number of a row where this is not stored, as in rows of other
    programs and of older versions; that takes most of the time of a leaderboard.
    """
    labels = [row.get(name) for name in ("method", "model", "task", "ratio")]
    final = [m for m in row.get("measurements") or () if m.get("step") is None]
    names = [one.get("metric") for one in final]
    return (
        None not in labels
        and math.isfinite(row["ratio"])
        and None not in names
        and len(set(names)) == len(names)
        and all(abs(one["value"]) < _TOO_LARGE for one in final)
        and all(0 <= (one.get("stderr") or 0) < _TOO_LARGE for one in final)
    )
