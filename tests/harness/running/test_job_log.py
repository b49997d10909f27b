"""A log is copied into the store at most every two seconds, and at the end."""

import io
from dataclasses import dataclass

import pytest

from harness.running import job_log
from harness.running.job_log import JobLog
from results.errors import StoreError
from results.storage import logs
from results.storage.store import open_store


@dataclass
class _Bundle:
    id: str = "bundle"


@dataclass
class _Job:
    store: str
    bundle: _Bundle
    name: str = "run-key"


@pytest.fixture
def job(tmp_path):
    store = open_store(tmp_path / "store", create=True)
    return _Job(store=store.uri, bundle=_Bundle())


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

    made = Clock()
    monkeypatch.setattr(job_log, "time", made)
    return made


def _stored(job):
    store = open_store(job.store)
    return [store.folder.read(f"logs/{name}").decode() for name in logs.names(store)]


def test_a_growing_log_is_copied_every_two_seconds(job, clock):
    printed = io.BytesIO(b"one\n")
    log = JobLog(job)

    log.look(printed)
    assert _stored(job) == []
    clock.now += job_log.EVERY
    log.look(printed)
    assert _stored(job) == ["one\n"]
    printed.write(b"two\n")
    clock.now += job_log.EVERY / 2
    log.look(printed)
    assert _stored(job) == ["one\n"]
    log.close(printed)
    assert _stored(job) == ["one\ntwo\n"]


def test_a_job_that_prints_nothing_stores_nothing(job):
    log = JobLog(job)

    log.close(io.BytesIO(logs.begun("a", "t").encode()))

    assert _stored(job) == []


def test_a_store_that_fails_is_asked_once_and_does_no_harm(job, monkeypatch):
    asked = []

    def fails(*given):
        asked.append(given)
        raise StoreError("the disk is full")

    monkeypatch.setattr(logs, "write", fails)
    log = JobLog(job)
    printed = io.BytesIO(b"one\n")
    log.close(printed)
    printed.write(b"two\n")
    log.close(printed)

    assert len(asked) == 1
