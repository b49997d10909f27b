"""Steps of trials as those see them who watch a run."""

import time

import pytest

from harness.running import step_sign
from harness.running.step_sign import StepSign
from results.errors import StoreError
from results.storage import leases
from results.storage.store import open_store


@pytest.fixture
def empty(tmp_path):
    return open_store(tmp_path / "store", create=True)


def _said(store):
    """What the job has said, once it has said something."""
    deadline = time.monotonic() + 60
    while (found := leases.step(store, "job")) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_a_long_step_is_announced_while_it_runs(empty, monkeypatch):
    monkeypatch.setattr(step_sign, "MOMENT", 0.01)
    began = time.time()
    with StepSign(empty, "job") as sign:
        with sign.during("t1", "fitting"):
            said = _said(empty)
        assert (said.trial, said.name) == ("t1", "fitting")
        assert began <= said.since <= time.time()
    assert empty.folder.names("running") == []


def test_a_short_step_writes_nothing(empty, monkeypatch):
    monkeypatch.setattr(step_sign, "MOMENT", 60.0)
    with StepSign(empty, "job") as sign:
        with sign.during("t1", "fitting"):
            pass
        assert empty.folder.names("running") == []


def test_short_steps_are_told_from_one_long_step(empty, monkeypatch):
    monkeypatch.setattr(step_sign, "MOMENT", 60.0)
    said = []
    monkeypatch.setattr(leases, "announce_step", lambda *what: said.append(what[3]))
    with StepSign(empty, "job") as sign:
        # Each look finds a step, and each time another one.
        for step in ("loading", "fitting", "compressing"):
            with sign.during("t1", step):
                sign.look()
        assert said == []
        with sign.during("t1", "evaluating"):
            for _ in range(4):
                sign.look()
    assert said == ["evaluating"]


def test_a_step_that_fails_raises_its_own_error(empty):
    with (
        StepSign(empty, "job") as sign,
        pytest.raises(ValueError, match="own"),
        sign.during("t1", "fitting"),
    ):
        raise ValueError("own")


def test_a_store_that_cannot_be_written_does_not_stop_a_trial(empty, monkeypatch):
    tried = []

    def full(*_):
        tried.append(1)
        raise StoreError("the disk is full")

    monkeypatch.setattr(step_sign, "MOMENT", 0.01)
    monkeypatch.setattr(leases, "announce_step", full)
    with StepSign(empty, "job") as sign, sign.during("t1", "fitting"):
        deadline = time.monotonic() + 60
        while not tried:
            assert time.monotonic() < deadline
            time.sleep(0.01)
