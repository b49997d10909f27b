"""Rows of quick trials wait for one file, and outlive their worker."""

import contextlib
from types import SimpleNamespace

import pytest

from harness.executors.inline import Inline
from harness.running import batch, worker
from harness.running.failures import Interrupted
from harness.running.recovery import settle
from harness.running.steps import Steps
from results.queries.db import ask
from results.storage import leases
from results.storage.store import open_store


@pytest.fixture
def job(run, tmp_path, monkeypatch):
    """A job of six trials that take a microsecond, by a clock that the test moves."""
    made = []
    monkeypatch.setattr(Inline, "run", lambda self, jobs: made.extend(jobs) or [])
    run("toy_drop")
    (one,) = made
    clock = SimpleNamespace(now=0.0)

    def perf_counter() -> float:
        clock.now += 1e-7
        return clock.now

    clock.perf_counter = perf_counter
    for module in (worker, batch):
        monkeypatch.setattr(module, "time", clock)
    return one, clock


def _stored(store):
    return {trial for (trial,) in ask(store, "SELECT trial FROM trials").rows}


def test_rows_of_quick_trials_are_one_file_and_stored_when_they_are_told(job):
    job, _ = job
    store = open_store(job.store)
    told = []
    for events in worker.batches(job):
        told += [event for event in events if event.what == "ended"]
        assert _stored(store) == {event.trial for event in told}

    assert [event.trial for event in told] == [t.id for t in job.bundle.trials]
    assert store.files("trials") == [f"trials/{job.key}.parquet"]
    assert store.folder.names("running") == []
    summed = ask(store, "SELECT count(DISTINCT value) FROM measurements").rows
    assert summed == [(6,)]


def test_rows_of_slow_trials_are_stored_one_by_one(job, monkeypatch):
    job, clock = job
    execute = Steps.execute

    def slow(self, trial, row):
        clock.now += batch.FLUSH
        return execute(self, trial, row)

    monkeypatch.setattr(Steps, "execute", slow)
    store = open_store(job.store)
    batches = list(worker.batches(job))

    assert [[e.what for e in batch] for batch in batches] == [
        ["started"],
        ["ended"],
    ] * 6
    assert len(store.files("trials")) == 6


@pytest.mark.parametrize("kills", [True, False])
def test_rows_of_a_batch_outlive_their_worker(job, monkeypatch, kills):
    job, _ = job
    execute, store = Steps.execute, open_store(job.store)
    ids = [t.id for t in job.bundle.trials]

    def dies(self, trial, row):
        if trial.id == ids[3] and kills:
            raise Interrupted  # no row, and nothing is stored at the end
        if trial.id == ids[3]:
            leases.delete(store, f"{job.name}.json")
        return execute(self, trial, row)

    monkeypatch.setattr(Steps, "execute", dies)
    with contextlib.suppress(Interrupted):
        batches = list(worker.batches(job))
        assert [e.what for e in batches[-1]] == ["crashed"]
    assert _stored(store) == set()

    settle(store, job.name)
    assert _stored(store) == set(ids[:3])
