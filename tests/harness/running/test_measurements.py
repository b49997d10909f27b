"""Only finite numbers with a name enter a row; anything else fails its trial."""

import pytest

from harness.core import Measurement, NotFinite
from harness.running.measurements import (
    BadMeasurement,
    checked,
    columns,
    joined,
    of_experts,
)
from harness.toolkit.experts import Routed


def one(metric: str, step: int | None = None, value: float = 1.0) -> Measurement:
    return Measurement(metric=metric, value=value, step=step)


def test_every_error_is_named_at_once():
    wrong = [one(""), Measurement(metric="m", value="x", stderr=-1.0, n=True)]

    with pytest.raises(BadMeasurement) as why:
        checked(wrong)

    for error in (
        "the metric '' is not a name",
        "the standard error of m is negative: -1.0",
        "m is 'x', a str, not a number",
        "n of m is True; it must be a whole number of 0 or more",
    ):
        assert error in str(why.value)


def test_a_number_that_is_not_finite_decides_the_class():
    with pytest.raises(NotFinite, match="m is inf"):
        checked([one(""), one("m", value=float("inf"))])


def test_a_curve_has_one_value_a_step():
    checked([one("loss", 1), one("loss", 2), one("loss")])

    with pytest.raises(BadMeasurement, match="'loss' at step 1 was measured 2 times"):
        checked([one("loss", 1), one("loss", 1)])


def test_stages_may_share_steps_of_a_curve_and_no_final_metric():
    fit, retrained = [one("loss", 1)], [one("loss", 1), one("kept")]

    assert joined(fit, retrained) == [*fit, *retrained]
    with pytest.raises(BadMeasurement, match="'kept' was measured 2 times"):
        joined([one("kept")], retrained)


def test_long_lists_of_errors_are_cut():
    with pytest.raises(BadMeasurement, match="and 3 more"):
        checked([1] * 8)


def test_the_other_numbers_of_a_row_are_finite_too():
    assert columns({"achieved_ratio": 0.5, "macs": None})["achieved_ratio"] == 0.5
    with pytest.raises(NotFinite, match="achieved_ratio is nan"):
        columns({"achieved_ratio": float("nan")})


def test_what_experts_saw_is_the_fewest_tokens_and_the_number_below_the_floor():
    # Three experts with a floor of 40 tokens: one is below it, one is at it.
    routed = {"a": Routed(100, 40), "b": Routed(40, 40), "c": Routed(3, 40)}

    fewest, completed = of_experts(routed)

    assert (fewest.metric, fewest.value, fewest.n) == ("expert_tokens", 3, 3)
    assert (fewest.unit, list(fewest.values)) == ("tokens", [100, 40, 3])
    assert (completed.metric, completed.value) == ("experts_completed", 1)
    assert checked([fewest, completed])
    assert of_experts({}) == []
