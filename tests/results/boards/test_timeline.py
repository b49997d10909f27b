"""Bundles over time: where each one is drawn, by hand."""

import datetime as dt

import pytest
from synthetic import NOON, row

from results.boards import timeline

KEYS = ("grid", "trial", "method", "model", "task", "ratio", "seed")


def _started(trial, start, seconds, **columns):
    begun = NOON + dt.timedelta(seconds=start)
    return row(trial, started_at=begun, seconds=seconds, host="one", **columns)


@pytest.fixture
def ran(empty):
    """Bundle a: two trials, and one again after a long pause; b beside it; c later.

    worker 1   a a . . . a
    worker 2   . b b b . .
    """
    rows = [
        _started("a1", 0, 10.0, bundle="a"),
        _started("a2", 10.5, 9.5, bundle="a"),
        _started("a3", 200, 20.0, bundle="a", status="failed"),
        _started("b1", 5, 60.0, bundle="b", method="magnitude"),
        _started("c1", 300, 5.0, bundle="c", grid="other"),
    ]
    empty.append_all(rows)
    for grid in ("synthetic", "other"):
        planned = [{k: one[k] for k in KEYS} for one in rows if one["grid"] == grid]
        empty.record_plan([{"plan": grid, "planned_at": NOON} | p for p in planned])
    return empty


def test_a_bar_is_a_bundle_until_a_long_pause(ran):
    found = timeline.timeline(ran, "synthetic")

    noon = NOON.timestamp()
    bars = [
        (b["trial"], b["start"] - noon, b["stop"] - noon, b["trials"], b["failed"])
        for b in found["bars"]
    ]
    assert bars == [
        ("a1", 0, 20, 2, 0),
        ("b1", 5, 65, 1, 0),
        ("a3", 200, 220, 1, 1),
    ]
    assert [bar["worker"] for bar in found["bars"]] == [0, 1, 0]


def test_the_busy_share_is_that_of_all_workers_of_a_host(ran):
    # 20 + 60 + 20 seconds of bundles, two workers for 65 and for 20 seconds: the pause
    # of 135 seconds is longer than both.
    hosts = timeline.timeline(ran, "synthetic")["hosts"]
    assert hosts == {"one": {"workers": 2, "busy": pytest.approx(100 / 170)}}


def test_a_pause_is_cut_out_if_it_is_longer_than_all_work():
    # 6 seconds of work in 0 to 2, 4 to 6 (two at once), 12 to 14; pauses of 2 and 6,
    # and one of 7 in the second list.
    times = [(0, 2), (4, 6), (4.5, 5), (12, 14)]
    bars = [{"start": a, "stop": b} for a, b in times]
    timeline.part(bars)
    assert [bar["part"] for bar in bars] == [0, 0, 0, 0]

    bars[-1] = {"start": 13, "stop": 15}
    timeline.part(bars)
    assert [bar["part"] for bar in bars] == [0, 0, 0, 1]


def test_the_first_bar_may_be_alone_before_a_pause():
    bars = [{"start": a, "stop": b} for a, b in ((0, 2), (9, 10), (10, 11))]
    timeline.part(bars)
    assert [bar["part"] for bar in bars] == [0, 1, 1]


def test_each_part_has_a_span_of_its_own():
    # Spans of 4, 1 and 2 seconds; one worker ran for 2, 1 and 2 of them.
    times = ((0, 1, 0), (3, 4, 0), (100, 101, 1), (900, 902, 2))
    bars = [{"start": a, "stop": b, "part": p, "worker": 0} for a, b, p in times]
    assert timeline.busy(bars) == pytest.approx(5 / 7)


def test_a_worker_is_used_again_when_its_bar_ends():
    bars = [{"start": a, "stop": b} for a, b in ((0, 4), (1, 3), (3, 9), (4, 5))]
    assert timeline.place(bars) == 2
    assert [bar["worker"] for bar in bars] == [0, 1, 1, 0]


def test_a_grid_that_never_ran_has_no_timeline_and_no_busy_share(empty):
    assert timeline.timeline(empty, "synthetic") is None
    assert timeline.busy([]) is None
