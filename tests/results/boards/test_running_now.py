"""What runs now, from leases that are written by hand."""

import json
import os
import socket
import time

import pytest
from synthetic import NOON, row

from results.boards import running_now
from results.storage import leases

KEYS = ("grid", "trial", "method", "model", "task", "ratio", "seed")
KEYS += ("method_options", "task_options")
BEGAN = NOON.timestamp()


def _lease(store, name, **value):
    here = {"host": socket.gethostname(), "pid": os.getpid(), "started_at": BEGAN}
    store.folder.write(f"running/{name}", json.dumps(here | value).encode())


@pytest.fixture
def running(empty, monkeypatch):
    """A run of four trials, 100 seconds old: one ended after 60, the next runs."""
    monkeypatch.setattr(time, "time", lambda: BEGAN + 100)
    planned = [row(name, seed=i) for i, name in enumerate("abcd")]
    empty.append(planned[0] | {"attempt": "a0", "seconds": 60.0})
    plan = [
        {"plan": "p", "planned_at": NOON} | {k: p[k] for k in KEYS} for p in planned
    ]
    empty.record_plan(plan)
    _lease(empty, "r.driver", plan="p")
    _lease(empty, "job.json", run="r", attempts=[["a0", "a"], ["b0", "b"], ["c0", "c"]])
    return empty


def test_the_trial_that_runs_is_the_first_without_a_row(running):
    (one,) = running_now.running_now(running)["trials"]
    assert (one["trial"], one["number"], one["of"]) == ("b", 2, 3)
    assert (one["grid"], one["step"]) == ("synthetic", None)
    assert one["since"] == BEGAN + 60
    running.folder.delete("running/job.json")  # between two jobs of the run
    assert running_now.running_now(running)["now"] == BEGAN + 100
    assert (one["usual"], one["method"], one["seed"]) == (60.0, "svd", 1)


def test_a_step_is_shown_of_the_trial_that_said_it(running):
    leases.announce_step(running, "job", "b", "fitting", BEGAN + 61)
    (one,) = running_now.running_now(running)["trials"]
    assert one["step"] == "fitting"
    leases.announce_step(running, "job", "a", "evaluating", BEGAN + 50)  # it ended
    (one,) = running_now.running_now(running)["trials"]
    assert one["step"] is None


def test_the_time_left_follows_the_forecast_and_the_trials(running):
    (run,) = running_now.running_now(running)["runs"]
    assert (run["done"], run["total"], run["left"]) == (1, None, None)
    leases.expect(running, "r", 4, 80.0)
    (run,) = running_now.running_now(running)["runs"]
    # The forecast says 20 s a trial; one ended within 100 s: (20 + 100) / 2 each.
    assert (run["total"], run["left"]) == (4, pytest.approx(3 * 60.0))


def test_what_a_dead_process_left_does_not_run(running, dead):
    _lease(running, "job.json", run="r", pid=dead, attempts=[["b0", "b"]])
    _lease(running, "r.driver", plan="p", pid=dead)
    found = running_now.running_now(running)
    assert (found["runs"], found["trials"]) == ([], [])


def test_a_process_of_another_machine_counts_until_its_lease_is_gone(running):
    _lease(running, "job.json", run="r", host="elsewhere", attempts=[["b0", "b"]])
    (one,) = running_now.running_now(running)["trials"]
    assert (one["host"], one["number"], one["of"]) == ("elsewhere", 1, 1)


def test_nothing_runs_in_a_store_without_leases(stored):
    found = running_now.running_now(stored)
    assert (found["runs"], found["trials"]) == ([], [])


def test_while_nothing_runs_two_reports_are_equal(stored):
    assert running_now.running_now(stored)["now"] is None


def test_the_time_that_is_left_follows_the_forecast_then_the_trials():
    left = running_now.seconds_left
    assert left(40.0, 1, 0, 0.0) == 40
    assert left(40.0, 4, 3, 70.0) == 20  # (10 + 70) / 4 for one trial more
    assert left(None, 4, 0, 5.0) is None
    assert left(None, 4, 1, 5.0) == 15
    assert left(None, 4, 2, 5.0) == 5
    assert left(40.0, 4, 5, 50.0) == 0
    assert left(40.0, 0, 0, 1.0) == 0
