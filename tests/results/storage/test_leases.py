"""Who works on what: files of workers and drivers, and what a dead process leaves."""

import json
import os
import socket
import subprocess
import sys
import threading

import psutil
import pytest

from results.storage import leases
from results.storage.store import Store


def write(store: Store, name: str, **changes: object) -> None:
    """A file of a process on this machine, as leases writes it."""
    value = {
        "run": "r1",
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "node": "n1",
        "started_at": 5.0,
        "attempts": [["a1", "t1"], ["a2", "t2"]],
        "plan": "p1",
        "claims": False,
    }
    store.folder.write(f"running/{name}", json.dumps(value | changes).encode())


def test_a_worker_is_named_while_it_works(empty, monkeypatch):
    monkeypatch.setenv(leases.NODE, "node-7")
    with leases.lease_job(empty, "r1", "r1-b", [("a1", "t1"), ("a2", "t2")]):
        (found,) = leases.read_all(empty)
        assert found.name == "r1-b.json"
        assert (found.run, found.host) == ("r1", socket.gethostname())
        assert (found.pid, found.node) == (os.getpid(), "node-7")
        assert found.attempts == (("a1", "t1"), ("a2", "t2"))
        assert found.alive() is True
        assert leases.is_leased(empty, "r1-b")

    assert leases.read_all(empty) == []
    assert not leases.is_leased(empty, "r1-b")


def test_a_process_lives_here_or_is_dead_or_cannot_be_told(empty, dead):
    write(empty, "here.json")
    write(empty, "dead.json", pid=dead)
    write(empty, "far.json", host="another-machine", pid=dead)
    write(empty, "all.json", pid=-1)  # to the system these mean groups of processes
    write(empty, "group.json", pid=0)
    write(empty, "huge.json", pid=10**30)

    alive = {m.name: m.alive() for m in leases.read_all(empty)}

    assert alive == {
        "here.json": True,
        "dead.json": False,
        "far.json": None,
        "all.json": False,
        "group.json": False,
        "huge.json": False,
    }


def test_a_process_that_ended_and_that_nobody_asked_how_is_dead(empty):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        # It stays in the table of processes until this one waits for it.
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        os.kill(ended.pid, 0)
        write(empty, "zombie.json", pid=ended.pid)
        (found,) = leases.read_all(empty)
        assert found.alive() is False


def test_a_process_of_another_user_lives(empty, monkeypatch):
    def refuse(_process: psutil.Process) -> str:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "status", refuse)
    write(empty, "foreign.json")

    (found,) = leases.read_all(empty)
    assert found.alive() is True


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"run": "r"}', b"\xff", b'{"attempts": [[1]]}']
)
def test_a_damaged_file_names_nobody(empty, text):
    empty.folder.write("running/broken.json", text)
    empty.folder.write("running/broken.driver", text)

    assert leases.read_all(empty) == []
    assert leases.owners(empty) == []


def test_a_driver_that_died_here_is_cleared_and_one_elsewhere_is_not(empty, dead):
    write(empty, "r1.driver")
    write(empty, "r2.driver", pid=dead)
    write(empty, "r3.driver", pid=dead, host="another-machine")
    write(empty, "r4-b.json")  # a worker is not a driver

    found = {h.run: (h.plan, h.claims, h.alive()) for h in leases.owners(empty)}

    assert found == {"r1": ("p1", False, True), "r3": ("p1", False, None)}
    assert sorted(empty.folder.names("running")) == [
        "r1.driver",
        "r3.driver",
        "r4-b.json",
    ]


def test_a_driver_claims_first_and_drives_when_nobody_is_ahead(empty):
    with leases.claim(empty, "r2", "p1"):
        (claimed,) = leases.owners(empty)
        assert (claimed.run, claimed.plan, claimed.claims) == ("r2", "p1", True)

        assert leases.conflicts(empty, "r2", "p1", share=lambda other: True) == []

        (drives,) = leases.owners(empty)
        assert (drives.plan, drives.claims) == ("p1", False)
    assert leases.owners(empty) == []


@pytest.mark.parametrize(
    ("other", "claims", "ahead"),
    [
        ("r1", True, True),  # both claim: the lower id goes first
        ("r1", False, True),
        ("r3", False, True),  # it drives already
    ],
)
def test_who_drives_or_claims_first_is_ahead(empty, other, claims, ahead):
    write(empty, f"{other}.driver", claims=claims)
    with leases.claim(empty, "r2", "p1"):
        found = leases.conflicts(empty, "r2", "p1", share=lambda one: True)
        assert [h.run for h in found] == ([other] if ahead else [])
        # This run must not look as if it drove.
        assert {h.run: h.claims for h in leases.owners(empty)}["r2"] is True


def test_a_driver_without_common_trials_is_no_obstacle(empty):
    write(empty, "r1.driver")
    with leases.claim(empty, "r2", "p1"):
        assert leases.conflicts(empty, "r2", "p1", share=lambda o: o.plan != "p1") == []


def test_the_first_waits_until_the_one_behind_has_given_way(empty):
    write(empty, "r3.driver", claims=True)
    with leases.claim(empty, "r2", "p1"):
        clears = threading.Timer(0.2, leases.delete, (empty, "r3.driver"))
        clears.start()
        assert leases.conflicts(empty, "r2", "p1", share=lambda one: True) == []
        clears.join()
        assert not {h.run: h.claims for h in leases.owners(empty)}["r2"]


def test_a_claim_that_is_never_settled_stops_the_wait(empty, monkeypatch):
    monkeypatch.setattr(leases, "SETTLED", 0.0)
    write(empty, "r3.driver", claims=True, host="another-machine")
    with leases.claim(empty, "r2", "p1"):
        found = leases.conflicts(empty, "r2", "p1", share=lambda one: True)
    assert [h.run for h in found] == ["r3"]


def test_orphans_are_workers_of_this_machine_whose_driver_is_gone(empty, monkeypatch):
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        leases.delete(empty, "r1-b.json")

    monkeypatch.setattr(leases.time, "sleep", sleep)
    write(empty, "r1-b.json")
    write(empty, "r1.driver")
    leases.wait_for_orphans(empty)
    assert waited == []  # its driver lives

    leases.delete(empty, "r1.driver")
    leases.wait_for_orphans(empty)
    assert waited == [0.5]
    write(empty, "r2-b.json", host="another-machine")
    leases.wait_for_orphans(empty)
    assert waited == [0.5]


def test_a_run_is_asked_to_stop_by_its_own_name(empty):
    leases.request_stop(empty, "r1")
    assert leases.stop_requested(empty, "r1")
    assert not leases.stop_requested(empty, "r2")


def test_trials_are_asked_back_from_one_job(empty):
    leases.request_trials(empty, "r1-b", ["t1", "t2"])
    assert leases.requested_trials(empty, "r1-b") == {"t1", "t2"}
    assert leases.requested_trials(empty, "r1-c") == frozenset()


def test_a_driver_says_what_it_expects_until_it_ends(empty):
    with leases.claim(empty, "r1", "p1"):
        (owner,) = leases.owners(empty)
        assert (owner.trials, owner.seconds) == (None, None)
        leases.expect(empty, "r1", 12, 34.5)
        (owner,) = leases.owners(empty)
        assert (owner.trials, owner.seconds, owner.plan) == (12, 34.5, "p1")
        leases.expect(empty, "r1", 9000, None)
        assert leases.owners(empty)[0].seconds is None

    leases.expect(empty, "r1", 12, 34.5)  # too late: nothing is written
    assert leases.owners(empty) == []


def test_a_step_is_what_its_job_said_last_and_goes_with_its_lease(empty):
    write(empty, "r1-b.json")
    leases.announce_step(empty, "r1-b", "t1", "loading", 6.0)
    leases.announce_step(empty, "r1-b", "t1", "fitting", 7.0)
    said = leases.Step(trial="t1", name="fitting", since=7.0)
    assert leases.step(empty, "r1-b") == said
    assert leases.steps(empty) == [said]
    leases.delete(empty, "r1-b.json")  # as a driver does for a dead worker
    assert empty.folder.names("running") == []


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"trial": 1, "name": "x"}'])
def test_a_damaged_step_says_nothing(empty, text):
    empty.folder.write("running/r1-b.step", text)
    assert leases.step(empty, "r1-b") is None
    assert leases.steps(empty) == []
