"""One cell: which trials it is, its interval, and its verdict at the boundaries."""

import json
import math
from typing import Any

import pytest

from results.tables import cells
from results.tables.cells import (
    ABSENT,
    DIFFERS,
    NOT_RUN,
    PROTOCOL,
    REPRODUCED,
    SUBSTITUTE,
    WITHIN,
    Cell,
    average,
    decimals,
    fill,
)

WANTED = {
    "model": "mlp",
    "method": "svd",
    "task": "digits",
    "ratio": 0.2,
    "metric": "accuracy",
}


def score(value: float | None = 0.5, **columns: Any) -> dict[str, Any]:
    """One row of a trial and metric, as the store gives it."""
    seed = columns.get("seed", 0)
    return {
        "model": "mlp",
        "model_options": "{}",
        "method": "svd",
        "method_options": "{}",
        "task": "digits",
        "task_options": "{}",
        "protocol": "p",
        "protocol_fields": "{}",
        "calibration": None,
        "dtype": "float32",
        "ratio": 0.2,
        "seed": seed,
        "metric": "accuracy",
        "value": value,
        "params": 100,
        "sample_stderr": None,
        "status": "ok",
        "reason": None,
        "trial": f"t{seed}",
        "attempt": f"a{seed}",
    } | columns


def cell(*scores: dict[str, Any], printed: str | None = None, **wanted: Any) -> Cell:
    substitutes = wanted.pop("substitutes", {})
    return fill(WANTED | wanted, printed, scores, substitutes=substitutes)


def test_one_seed_has_the_interval_of_its_samples_in_the_tables_unit():
    found = cell(score(0.5, sample_stderr=0.1), scale=-100, offset=3)

    assert found.measured == pytest.approx(3 - 50)
    assert found.high - found.measured == pytest.approx(1.959964 * 0.1 * 100)
    assert found.measured - found.low == pytest.approx(1.959964 * 0.1 * 100)
    without = cell(score(0.5))
    assert without.low == without.measured == without.high


def test_several_seeds_have_the_interval_over_seeds_whatever_their_samples():
    # Two values 0.4 and 0.6: standard error 0.1, t(0.975, 1) = 12.706.
    found = cell(score(0.4, sample_stderr=9.0), score(0.6, seed=1, sample_stderr=9.0))

    assert found.measured == pytest.approx(0.5)
    assert found.high == pytest.approx(0.5 + 12.706 * 0.1, abs=1e-3)
    assert found.seeds == 2
    assert found.attempts == ["a0", "a1"]


def test_a_column_of_one_trial_has_no_interval_of_samples():
    found = cell(score(sample_stderr=9.0), column="params", metric=None)

    assert (found.low, found.measured, found.high) == (100, 100, 100)
    assert found.key == {"column": "params", "trials": ["t0"], "digits": found.digits}


@pytest.mark.parametrize(
    ("value", "printed", "within", "verdict"),
    [
        (0.55, "0.5", None, REPRODUCED),  # half a unit of the last digit, included
        (0.45, "0.5", None, REPRODUCED),
        (0.5501, "0.5", None, DIFFERS),
        (0.4499, "0.5", None, DIFFERS),
        (0.75, "0.5", 0.25, REPRODUCED),
        (0.7501, "0.5", 0.25, DIFFERS),
    ],
)
def test_a_tolerance_includes_its_ends(value, printed, within, verdict):
    more = {} if within is None else {"within": within}
    assert cell(score(value), printed=printed, **more).verdict == verdict


def test_the_ends_of_an_interval_belong_to_it():
    own = Cell(published="0.70", measured=0.5, low=0.3, high=0.7, digits=2)

    assert cells._verdict(own, [], {}, False) == (WITHIN, "")
    own.published = "0.30"
    assert cells._verdict(own, [], {}, False) == (WITHIN, "")
    own.published = "0.71"
    assert cells._verdict(own, [], {}, False) == (DIFFERS, "")


def test_a_stated_protocol_that_differs_comes_before_the_number():
    stored = score(0.5, protocol_fields=json.dumps({"shots": 5, "limit": 10}))

    differs = cell(stored, printed="0.5", protocol={"shots": 0, "limit": 10})
    assert (differs.verdict, differs.reason) == (PROTOCOL, "shots")
    limited = cell(stored, printed="0.5", protocol={"shots": 5})
    assert (limited.verdict, limited.reason) == (PROTOCOL, "limit")
    stated = {"shots": 5, "limit": 10, "unknown": 1}
    assert cell(stored, printed="0.5", protocol=stated).verdict == REPRODUCED
    other = cell(stored, printed="0.5", protocol=stated, task="digits-10")
    assert (other.verdict, other.reason) == (PROTOCOL, "task digits")
    assert cell(stored, task="mnist").reason == ABSENT


@pytest.mark.parametrize(
    ("ratio", "found"), [(0.2, True), (0.2049, True), (0.206, False), (0.194, False)]
)
def test_ratios_within_half_a_per_cent_are_the_same(ratio, found):
    assert (cell(score(ratio=ratio)).measured is not None) == found


def test_a_dense_row_has_no_ratio():
    dense = score(method="dense", ratio=0.0)

    assert cell(dense, method="dense", ratio=None).measured == 0.5
    assert cell(score(), ratio=None).reason == ABSENT


def test_of_several_configurations_the_nearest_with_the_most_seeds_counts():
    plain = [score(0.1), score(0.3, seed=1)]
    other = score(0.9, method_options='{"lora": 1}')
    assert cell(other, *plain).measured == pytest.approx(0.2)
    assert cell(score(0.9, dtype="float16"), *plain).measured == pytest.approx(0.2)
    wrong = score(0.9, protocol="q", protocol_fields='{"shots": 5}')
    assert cell(wrong, *plain, protocol={"shots": 0}).measured == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("status", "reason", "said"),
    [
        ("failed", "a  long\nstory", "failed: a long story"),
        ("failed", "x" * 100, "failed: " + "x" * 80),
        ("failed", None, "failed"),
        ("ok", None, "its trial did not measure this"),
    ],
)
def test_why_there_is_no_number(status, reason, said):
    found = cell(score(None, status=status, reason=reason))

    assert (found.verdict, found.reason) == (NOT_RUN, said)


def test_a_failed_trial_does_not_hide_one_that_ended():
    failed = score(None, status="failed", seed=1)
    partial = score(0.9, status="out_of_memory", seed=2)

    assert cell(failed, partial, score(0.5)).measured == 0.5


def test_a_substitute_gets_no_verdict():
    found = cell(score(model="tiny"), printed="0.5", substitutes={"mlp": "tiny"})

    assert (found.measured, found.verdict) == (0.5, SUBSTITUTE)
    assert cell(score(), printed="0.5", substitutes={"mlp": "tiny"}).reason == ABSENT


@pytest.mark.parametrize(
    ("value", "digits"),
    [(0, 2), (123.4, 1), (1234.5, 0), (99_999, 0), (0.5, 4), (0.0123, 5), (1e-9, 6)],
)
def test_an_unpublished_number_shows_four_significant_digits(value, digits):
    assert cell(score(value)).digits == digits


def test_the_digits_of_a_published_number_are_its_own():
    assert (decimals("91"), decimals("91.0"), decimals("1.25M")) == (0, 1, 2)
    assert cell(score(0.123), printed="0.5").digits == 1


def test_errors_of_a_mean_of_tasks_add_as_squares():
    parts = [
        Cell(measured=1.0, low=0.7, high=1.3, seeds=3, key={"metric": "a"}),
        Cell(measured=3.0, low=2.6, high=3.4, seeds=2, key={"metric": "b"}),
    ]
    found = average(parts, "2.0")

    assert found.measured == 2
    assert found.high == pytest.approx(2 + math.hypot(0.3, 0.4) / 2)
    assert found.low == pytest.approx(2 - math.hypot(0.3, 0.4) / 2)
    assert (found.seeds, found.verdict) == (2, REPRODUCED)
    assert found.key == {"mean": [{"metric": "a"}, {"metric": "b"}], "digits": 1}
    assert average([parts[0], Cell()], "2.0").verdict == NOT_RUN
    assert average([], "2.0").verdict == NOT_RUN


def test_one_substitute_or_other_protocol_among_the_tasks_marks_their_mean():
    own = Cell(measured=1.0, low=1.0, high=1.0, verdict=REPRODUCED)
    other = Cell(measured=1.0, low=1.0, high=1.0, verdict=SUBSTITUTE)
    shots = Cell(measured=1.0, low=1.0, high=1.0, verdict=PROTOCOL, reason="shots")

    assert average([own, other], "1.0").verdict == SUBSTITUTE
    differing = average([own, shots], "1.0")
    assert (differing.verdict, differing.reason) == (PROTOCOL, "shots")


def test_the_text_of_a_cell_has_its_digits():
    assert Cell(measured=0.12345, digits=2).text == "0.12"
    assert Cell().text is None


def test_what_prints_no_decimals_has_none():
    assert [decimals(text) for text in ("OOM", "8.2e9", "1.5E3")] == [0, 0, 0]
    assert decimals(None) == 4
    assert cell(score(0.12345), printed="OOM").digits == 4


def test_a_mean_counts_zeros_and_has_the_direction_of_its_tasks():
    parts = [
        Cell(measured=0.0, low=-0.2, high=0.2, goal="min"),
        Cell(measured=-1.0, low=-2.0, high=0.0, goal="min"),
        Cell(measured=1.0, low=0.0, high=2.0, goal="min"),
    ]
    found = average(parts, None)

    assert (found.measured, found.goal) == (0, "min")
    assert found.high == pytest.approx(math.hypot(0.2, 1, 1) / 3)
    assert average(parts[:1], None).goal == "min"


def test_a_mean_names_the_differing_fields_in_one_order():
    names = ["e", "b", "f", "a", "d", "c"]
    parts = [
        Cell(measured=1.0, low=1.0, high=1.0, verdict=PROTOCOL, reason=name)
        for name in names
    ]
    assert average(parts, "1.0").reason == "a, b, c, d, e, f"


def test_a_trial_with_other_options_or_of_another_task_is_not_meant():
    options = {"bits": 4, "lora": {"epochs": 1}}
    stored = score(method_options=json.dumps(options))

    for wanted in ({"bits": 4}, {"lora": {"epochs": 1}}, {"seed": None}, {}):
        assert cell(stored, options=wanted).measured == 0.5, wanted
    for wanted in ({"bits": 8}, {"lora": {"epochs": 2}}, {"lora": 1}, {"bits": None}):
        assert cell(stored, options=wanted).reason == ABSENT, wanted
    assert cell(stored, task=None).reason == ABSENT
    harness = score(task="lm_eval", task_options='{"task": "piqa"}')
    assert cell(harness, task="piqa").measured == 0.5
    assert cell(harness, task="boolq").reason == ABSENT


def test_a_trial_with_two_metrics_has_one_value_of_a_column():
    two = [score(metric="accuracy"), score(metric="loss")]

    found = cell(*two, score(params=300, seed=1), column="params", metric=None)

    assert (found.measured, found.seeds) == (200, 2)


def test_attempts_are_paired_by_seed_and_trials_listed_by_name():
    found = cell(
        score(seed=2, attempt="a1", trial="t1"),
        score(seed=None, attempt="a3", trial="t3"),
        score(seed=1, attempt="a2", trial="t2"),
    )
    assert found.attempts == ["a3", "a2", "a1"]  # no seed counts as 0
    assert found.key["trials"] == ["t1", "t2", "t3"]


def test_a_tolerance_of_nothing_asks_for_the_printed_number():
    assert cell(score(0.5), printed="0.5", within=0).verdict == REPRODUCED
    assert cell(score(0.25), printed="0.5", within=0).verdict == DIFFERS
