"""Which trials are moved to idle slots: hand-worked cases with stated costs."""

from dataclasses import replace
from typing import Any

import pytest
from fixed_costs import FixedCosts

from harness.planning.messages import Event
from harness.scheduling import work_stealing
from harness.scheduling.hardware import parse
from harness.scheduling.packing import Packer
from harness.scheduling.work_stealing import WorkStealing


def stealing(plan, cluster: str = "2xCPU", **costs: Any) -> tuple[WorkStealing, Any]:
    """A bundle of eight trials on a cluster, with stated costs."""
    (only,) = plan("toy_drop", ratios=8, tasks="[toy_sum]").bundles
    predictor = FixedCosts(**({"setup": 10.0, "each": 100.0} | costs))
    made = WorkStealing(Packer(cluster=parse(cluster), predictor=predictor))
    made.add("a", only)
    return made, only


def test_searches_are_two_seconds_apart_and_more_with_many_bundles(plan):
    own, only = stealing(plan, cluster="1xCPU")
    searches = []

    class Counts(Packer):
        def width(self, bundles):
            searches.append(len(bundles))
            return 1

    own.packer = Counts(cluster=parse("1xCPU"))
    for now in (0.0, 1.9, 2.0, 3.0, 4.5):
        own.due(now)
    assert searches == [1, 1, 1]  # at 0, 2 and 4.5
    for job in range(299):
        own.add(job, only)
    for now in (7.0, 9.9, 10.0):  # 300 bundles: 3 s
        own.due(now)
    assert searches == [1, 1, 1, 300, 300]


def test_all_idle_slots_and_the_bundle_end_together(plan):
    # Seven trials have not started, 700 s. With one slot: three of them take 310 s
    # there, and four stay, 400 s. With two: four of them, 210 s each, and three stay.
    for cluster, count in (("2xCPU", 3), ("3xCPU", 5)):
        own, only = stealing(plan, cluster)
        assert own.due(0.0) == {"a": tuple(t.id for t in only.trials[-count:])}


def test_nothing_is_moved_that_saves_less_than_ten_seconds(plan):
    # Seven trials of e seconds and no setup: four are moved and save 3 e seconds.
    enough, _ = stealing(plan, setup=0.0, each=10 / 3 + 0.01)
    assert len(enough.due(0.0)["a"]) == 4
    less, _ = stealing(plan, setup=0.0, each=2.4)
    assert less.due(0.0) == {}
    mostly_fit, _ = stealing(plan, setup=800.0)
    assert mostly_fit.due(0.0) == {}


@pytest.mark.parametrize(
    ("setup", "each", "saved"),
    [
        # 700 s are left. Three trials go, so that the worker ends after 400 s and the
        # idle slot, with its setup, after 310 s, or after 450 s.
        (10.0, 100.0, 300.0),
        (150.0, 100.0, 250.0),
        (0.0, 0.1, 0.3),  # four of seven trials of 0.1 s, and then 0.4 s there
    ],
)
def test_a_move_saves_what_is_left_until_both_have_ended(
    plan, monkeypatch, setup, each, saved
):
    for limit, moved in ((saved - 0.01, True), (saved + 0.01, False)):
        monkeypatch.setattr(work_stealing, "SAVES", limit)
        own, _ = stealing(plan, setup=setup, each=each)
        assert bool(own.due(0.0)) == moved


def test_a_bundle_that_takes_no_time_is_left_alone(plan, monkeypatch):
    monkeypatch.setattr(work_stealing, "SAVES", 0.0)
    own, _ = stealing(plan, setup=0.0, each=0.0)
    assert own.due(0.0) == {}


def test_idle_slots_are_shared_equally_by_the_bundles(plan):
    own, only = stealing(plan, cluster="6xCPU")
    own.add("b", only)

    # Four idle slots are two for each: five trials in parts of three and two.
    assert {job: len(trials) for job, trials in own.due(0.0).items()} == {
        "a": 5,
        "b": 5,
    }


def test_neither_a_guess_nor_a_measurement_of_speed_is_shared(plan):
    own, _ = stealing(plan, guessed=True)
    assert own.due(0.0) == {}
    own, only = stealing(plan)
    own.add("a", replace(only, exclusive=True))
    assert own.due(0.0) == {}
    own.add("a", only.part(only.trials[:1]))  # its only trial is running
    assert own.due(0.0) == {}


def test_the_longest_rest_is_shared_first_and_requested_slots_are_taken(plan):
    own, only = stealing(plan, cluster="3xCPU")
    own.add("b", only.part(only.trials[:4]))

    first = own.due(0.0)
    assert list(first) == ["a"]  # one slot is idle
    assert own.due(10.0) == {}  # and is promised to what was requested
    own.observe("a", [Event(what="returned", trials=first["a"])])
    assert list(own.due(20.0)) == ["a"]  # four of its trials are left, three of b


def test_returned_trials_become_one_bundle_for_each_slot(plan):
    own, only = stealing(plan, cluster="3xCPU")
    asked = own.due(0.0)["a"]

    events = [
        Event(what="ended", trial=only.trials[0].id),
        Event(what="returned", trials=asked),
    ]
    told = own.observe("a", events)

    assert told[0] == events[0]
    assert [len(e.trials) for e in told[1:]] == [3, 2]
    assert sum((e.trials for e in told[1:]), ()) == asked
    assert not own.drop("a")  # it answered


def test_a_job_that_ends_without_an_answer_says_so(plan):
    own, _ = stealing(plan)
    own.due(0.0)
    assert own.drop("a")
    own, _ = stealing(plan)
    assert not own.drop("a")  # it was never asked
