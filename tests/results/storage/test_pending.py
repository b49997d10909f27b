"""Rows that wait for one file: durable at once, committed together, lost by no kill."""

import os

import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem
from synthetic import row

from results.errors import StoreError
from results.queries.db import ask
from results.storage import pending
from results.storage.folder import RemoteFolder
from results.storage.pending import Pending
from results.storage.store import Store

FILE = "running/job.rows"
NAMES = ["attempt-0", "attempt-1", "attempt-2"]


def attempt(number: int) -> dict:
    return row(f"t{number}", seed=number) | {"attempt": NAMES[number]}


def parts(number: int) -> dict[str, list[dict]]:
    """Two samples and a layer of an attempt."""
    name = {"attempt": NAMES[number]}
    samples = [name | {"metric": "accuracy", "values": [number / 3, 1.0]}]
    return {"samples": samples, "layers": [name | {"layer": "fc", "params": 2.5}]}


def everything(store: Store) -> dict[str, list]:
    tables = ("trials", "samples", "layers")
    return {t: ask(store, f"FROM {t} ORDER BY attempt").rows for t in tables}


def trials(store: Store) -> list[str]:
    return [a for (a,) in ask(store, "SELECT attempt FROM trials ORDER BY 1").rows]


def test_rows_that_waited_are_the_rows_of_one_file(empty, tmp_path):
    from results.storage.store import open_store

    with Pending(empty, "job") as rows:
        for number in range(3):
            rows.append(attempt(number), **parts(number), wait=True)
        assert trials(empty) == []
        assert pending.read(empty, "job").trials[2]["seed"] == 2
        rows.commit()
        assert pending.read(empty, "job").trials == []
        assert not rows

    apart = open_store(tmp_path / "apart", create=True)
    for number in range(3):
        apart.append(attempt(number), **parts(number))
    assert empty.files("trials") == ["trials/attempt-0.parquet"]
    assert len(everything(empty)["layers"]) == 3
    assert everything(empty) == everything(apart)
    assert empty.folder.names("running") == []


def test_after_a_commit_the_file_begins_again_and_stays_while_it_holds_rows(empty):
    with Pending(empty, "job") as rows:
        rows.append(attempt(0), [], [], wait=True)
        rows.commit()
        rows.append(attempt(1), [], [], wait=True)
    left = pending.read(empty, "job")
    assert [one["attempt"] for one in left.trials] == NAMES[1:2]


def test_a_row_that_does_not_wait_takes_along_those_that_do(empty):
    with Pending(empty, "job") as rows:
        rows.append(attempt(0), [], [], wait=False)
        assert (empty.folder.read(FILE), trials(empty)) == (None, NAMES[:1])
        rows.append(attempt(1), [], [], wait=True)
        rows.append(attempt(2), [], [], wait=False)
        assert trials(empty) == NAMES
    assert empty.folder.names("trials") == ["attempt-0.parquet", "attempt-1.parquet"]


def test_what_a_killed_worker_left_is_read_up_to_its_last_whole_line(empty):
    rows = Pending(empty, "job")  # not left, as after a kill
    for number in range(2):
        rows.append(attempt(number), **parts(number), wait=True)
    whole = empty.folder.read(FILE)
    lines = [b"{", b"3", b'{"row": {"no": 1}, "samples": [], "layers": []}', b"\xff"]
    empty.folder.write(FILE, b"\n".join([*lines, whole + whole[:100]]))

    left = pending.read(empty, "job")
    assert pending.jobs(empty) == ["job"]
    assert [one["attempt"] for one in left.trials] == NAMES[:2]
    left.leave_out(NAMES[:1])
    left.store(empty)
    assert trials(empty) == ["attempt-1"]
    for table in ("trials", "samples", "layers"):
        found = ask(empty, f"SELECT attempt FROM {table}").rows
        assert found == [("attempt-1",)]


@pytest.mark.parametrize(
    ("change", "samples"),
    [
        ({"seed": 1.5}, []),
        ({"colour": "red"}, []),
        ({"measurements": [{"metric": "m", "value": float("nan")}]}, []),
        ({}, [{"attempt": "attempt-1", "values": ["red"]}]),
    ],
)
def test_a_row_that_no_table_takes_is_refused_at_once_and_alone(empty, change, samples):
    with Pending(empty, "job") as rows:
        rows.append(attempt(0), [], [], wait=True)
        with pytest.raises(StoreError):
            rows.append(attempt(1) | change, samples, [], wait=True)
        rows.append(attempt(2), [], [], wait=True)
        rows.commit()
    assert trials(empty) == ["attempt-0", "attempt-2"]


def test_rows_stay_in_the_file_of_a_job_that_ends_by_an_error(empty):
    rows = Pending(empty, "job")
    rows.append(attempt(0), [], [], wait=True)
    rows.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert len(pending.read(empty, "job").trials) == 1
    pending.delete(empty, "job")
    assert pending.jobs(empty) == []


def test_a_disk_without_room_is_an_error_that_says_so(empty, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pending.os, "fdatasync", full)
    with (
        pytest.raises(StoreError, match="cannot grow"),
        Pending(empty, "job") as rows,
    ):
        rows.append(attempt(0), [], [], wait=True)
    assert trials(empty) == []


def test_in_a_bucket_no_row_waits(tmp_path):
    (tmp_path / "bucket").mkdir()
    bucket = SubTreeFileSystem(str(tmp_path / "bucket"), LocalFileSystem())
    store = Store(folder=RemoteFolder(bucket, "s", "s3://s"))
    with Pending(store, "job") as rows:
        rows.append(attempt(0), [], [], wait=True)
        assert trials(store) == NAMES[:1]
        assert not rows


def test_two_jobs_of_a_store_have_a_file_each_that_others_can_read(empty):
    before = os.umask(0)
    try:
        for job in ("job", "other"):
            Pending(empty, job).append(attempt(0), [], [], wait=True)
    finally:
        os.umask(before)
    assert pending.jobs(empty) == ["job", "other"]
    assert (empty.folder.local / FILE).stat().st_mode & 0o777 == 0o644
