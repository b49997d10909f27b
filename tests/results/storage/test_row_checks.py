"""The quick look at a row never lets pass what the parser of Arrow refuses."""

import datetime as dt
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import row

from results.errors import StoreError
from results.outcomes import Status
from results.schema import MEASUREMENT, TABLES
from results.storage import encoding, row_checks

MOMENT = dt.datetime(2026, 2, 3, 4, 5, 6, 789012, tzinfo=dt.UTC)
SCALARS = (
    st.none()
    | st.text()
    | st.floats()
    | st.integers(-(2**65), 2**65)
    | st.booleans()
    | st.datetimes(timezones=st.sampled_from([None, dt.UTC]))
    | st.sampled_from([Status.OK, np.float32(0.5), np.int64(3), b"bytes", {}])
)
MEASUREMENTS = st.lists(st.dictionaries(st.sampled_from([*MEASUREMENT, "no"]), SCALARS))
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | MEASUREMENTS


def _parsed(table, one):
    try:
        return encoding.table(table, [encoding.line(one)]).num_rows == 1
    except StoreError:
        return False


@pytest.mark.parametrize("table", TABLES)
@given(data=st.data())
def test_a_row_that_surely_fits_is_parsed(table, data):
    names = st.sampled_from([*TABLES[table], "no_such_column"])
    one = data.draw(st.dictionaries(names, VALUES, max_size=4))
    assert _parsed(table, one) or not row_checks.surely_fits(table, one)


def test_rows_as_the_engine_makes_them_surely_fit():
    made = row("a", started_at=MOMENT, measured={"accuracy": 0.5}, dirty=True, params=3)
    assert row_checks.surely_fits("trials", made)
    sample = {"attempt": "a", "metric": "accuracy", "values": [0.0, 1.0]}
    assert row_checks.surely_fits("samples", sample)
    assert not row_checks.surely_fits("samples", sample | {"values": ["red"]})
    assert not row_checks.surely_fits("trials", made | {"started_at": "yesterday"})
    for wrong in ({"metric": 3}, {"value": "high"}, {"no_such": 1.0}):
        measured = [made["measurements"][0] | wrong]
        assert not row_checks.surely_fits("trials", made | {"measurements": measured})


def measured(*numbers, **columns):
    keys = ("metric", "value", "stderr", "step")
    found = [dict(zip(keys, one, strict=False)) for one in numbers]
    return row("t", measurements=found, **columns)


@pytest.mark.parametrize(
    ("made", "ranked"),
    [
        (measured(("accuracy", 0.9), ("loss", -1.0, 0.0)), True),
        (measured(), True),
        (measured(("accuracy", 0.9), model=None), False),
        (measured(("accuracy", 0.9), ratio=math.nan), False),
        (measured(("accuracy", 0.9), (None, 0.9)), False),
        (measured(("accuracy", 0.9), ("accuracy", 0.8)), False),  # which one counts?
        # Points of a curve are not ranked.
        (measured(("loss", 1.0), ("loss", 1e300, None, 1), ("loss", 2.0, -1, 2)), True),
        (measured(("loss", 1.0), ("perplexity", 1e300)), False),
        (measured(("perplexity", -1e300), ("loss", 1.0)), False),
        (measured(("loss", 1.0), ("perplexity", 1e150)), False),
        (measured(("loss", 1.0), ("perplexity", 9e149)), True),
        (measured(("loss", 1.0, 0.1), ("accuracy", 0.9, -0.1)), False),
        (measured(("loss", 1.0, 1e300), ("accuracy", 0.9, 0.1)), False),
    ],
)
def test_a_row_can_be_ranked_if_all_of_its_final_numbers_can(made, ranked):
    assert row_checks.ranks(made) is ranked


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_by_its_metric(value):
    with pytest.raises(StoreError, match=f"loss of trial t is {value}; only finite"):
        row_checks.check_finite(measured(("accuracy", 0.9), ("loss", value)))
    row_checks.check_finite({"trial": "t", "measurements": None})


def test_a_column_that_a_table_does_not_have_is_named():
    known = {"attempt": "a", "metric": "accuracy"}
    row_checks.check_columns("samples", [known, known])
    with pytest.raises(StoreError, match=r"column of samples.*'metrik'.*'metric'"):
        row_checks.check_columns("samples", [known, {"metrik": "accuracy"}])
