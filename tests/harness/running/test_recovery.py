"""What a run stored is there at its end; what a killed one made is stored later."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harness.running.recovery import check_stored, committed, reconcile, settle
from results.errors import StoreError
from results.queries.compaction import compact
from results.queries.db import ask
from results.storage import pending
from results.storage.pending import Pending
from results.storage.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with three rows."""
    made = open_store(tmp_path / "store", create=True)
    for attempt in ("a1", "a2", "a3"):
        made.append({"attempt": attempt, "trial": attempt, "status": "ok"})
    return made


def test_rows_that_are_there_are_found_also_after_a_compaction(store):
    assert check_stored(store, ["a1", "a2", "a3"]) is None
    compact(store)
    assert check_stored(store, ["a1", "a2", "a3"]) is None


def test_rows_that_were_deleted_are_counted(store):
    Path(store.uri, "trials", "a2.parquet").unlink()

    with pytest.raises(StoreError, match="1 of the 3 rows that this run stored are no"):
        check_stored(store, ["a1", "a2", "a3"])
    compact(store)
    with pytest.raises(StoreError, match="1 of the 3 rows"):
        check_stored(store, ["a1", "a2", "a3"])


def test_a_deleted_folder_is_every_row(store):
    for path in Path(store.uri, "trials").iterdir():
        path.unlink()
    Path(store.uri, "trials").rmdir()

    with pytest.raises(StoreError, match="3 of the 3 rows"):
        check_stored(store, ["a1", "a2", "a3"])


def test_rows_that_share_a_file_are_found_and_counted(store):
    store.append_all([{"attempt": f"b{n}", "trial": "b", "status": "ok"} for n in "12"])

    assert check_stored(store, ["a1", "b1", "b2"]) is None
    assert check_stored(store, ["a1", "b2"]) is None  # another run has the first
    with pytest.raises(StoreError, match="1 of the 3 rows"):
        check_stored(store, ["a1", "b2", "b3"])


def test_rows_in_files_of_the_run_are_checked_without_reading_the_table(
    store, monkeypatch
):
    store.append_all([{"attempt": f"b{n}", "trial": "b", "status": "ok"} for n in "12"])
    monkeypatch.setattr("harness.running.recovery.ask", None)
    assert check_stored(store, ["a1", "b1", "b2"]) is None


def test_attempts_are_committed_up_to_the_first_without_a_row(store):
    rows = [{"attempt": f"b{n}", "trial": "b", "status": "failed"} for n in "13"]
    store.append_all([rows[0] | {"error_class": "bug"}, rows[1]])

    failed = {"b1": ("failed", "bug")}
    assert committed(store, ["b1", "b2", "b3"]) == failed
    assert list(committed(store, ["b1", "b3", "a1", "a4"])) == ["b1", "b3", "a1"]
    assert committed(store, ["b2", "b1"]) == {}
    compact(store)
    assert committed(store, ["b1", "b2", "b3"]) == failed


def _left(store, job, *attempts):
    """Rows of a job whose worker was killed."""
    rows = Pending(store, job)
    for one in attempts:
        row = {"attempt": one, "trial": one, "status": "ok", "measurements": []}
        rows.append(row, [], [], wait=True)
    return rows


def _statuses(store):
    query = "SELECT trial, status FROM trials ORDER BY 1"
    return dict(ask(store, query).rows)


def test_rows_that_were_committed_just_before_a_kill_are_not_stored_twice(store):
    rows = _left(store, "j", "c1", "c2")
    left = store.folder.read("running/j.rows")
    rows.commit()
    store.folder.write("running/j.rows", left + b'{"row": {"attempt": "c3"')

    settle(store, "j")

    assert len(ask(store, "FROM trials").rows) == 5
    assert pending.jobs(store) == []
    settle(store, "j")  # of a job that left nothing


def _lease(store, job, pid, attempts):
    lease = {"run": "r", "host": socket.gethostname(), "pid": pid, "started_at": 0}
    lease["attempts"] = [(one, one) for one in attempts]
    store.folder.write(f"running/{job}.json", json.dumps(lease).encode())


def test_the_next_run_stores_what_killed_workers_had_made(tmp_path):
    store = open_store(tmp_path / "store", create=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    _lease(store, "dead", dead.pid, ["a", "b", "c", "d"])
    _left(store, "dead", "a", "b")
    _left(store, "ended", "e")  # it had deleted its lease
    with subprocess.Popen(["sleep", "60"]) as alive:
        _lease(store, "alive", alive.pid, ["f", "g"])
        _left(store, "alive", "f")

        assert reconcile(store) == 1
        alive.kill()

    assert _statuses(store) == {"a": "ok", "b": "ok", "c": "lost", "e": "ok"}
    assert store.folder.names("running") == ["alive.json", "alive.rows"]
    assert reconcile(store) == 1
    assert _statuses(store) | {"f": "ok", "g": "lost"} == _statuses(store)
    assert store.folder.names("running") == []
