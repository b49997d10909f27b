"""Arithmetic of intervals, and durations in the unit that a person would choose."""

import pytest

from harness.scheduling.interval import Interval, format_duration


def test_sums_and_multiples_are_taken_end_by_end():
    first, second = Interval(1, 2, 3), Interval(10, 20, 40)

    assert first + second == Interval(11, 22, 43)
    assert second * 3 == Interval(30, 60, 120)
    assert second.wider(2) == Interval(5, 20, 80)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.999, "999 ms"),
        (1, "1.0 s"),
        (59.94, "59.9 s"),
        (60, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_a_duration_changes_its_unit_at_a_whole_one(seconds, text):
    assert format_duration(seconds) == text
