"""Compaction loses and doubles no row, also when killed, or beside writers."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import duckdb
import pyarrow.parquet as pq
import pytest
from paths import SUPPORT
from synthetic import row

from results.errors import StoreError
from results.queries import compaction
from results.queries.compaction import compact
from results.queries.db import ask
from results.storage.store import Store, open_store


def _fill(store: Store, count: int, prefix: str = "t") -> None:
    for i in range(count):
        sample = {"metric": "accuracy", "values": [float(i)]}
        store.append(row(f"{prefix}{i:04d}"), [sample])


def _everything(store: Store) -> dict[str, list[tuple]]:
    return {
        table: sorted(ask(store, f"FROM stored.{table}").rows, key=repr)
        for table in ("trials", "samples", "plans")
    }


def _check_each_once(store: Store, wanted: set[str]) -> None:
    trials = [trial for (trial,) in ask(store, "SELECT trial FROM trials").rows]
    assert sorted(trials) == sorted(wanted)
    attempts = [a for (a,) in ask(store, "SELECT attempt FROM samples").rows]
    assert len(attempts) == len(set(attempts)) == len(wanted)


@pytest.mark.parametrize("at_once", [1_000, 7])  # all at a time; in parts, one short
def test_compaction_changes_no_row_and_leaves_one_file(empty, monkeypatch, at_once):
    monkeypatch.setattr(compaction, "_AT_ONCE", at_once)
    _fill(empty, 50)
    empty.record_plan([{"plan": "p", "trial": f"t{i}"} for i in range(3)])
    before = _everything(empty)

    folded = compact(empty)

    assert {f.table: (f.before, f.rows) for f in folded} == {
        "trials": (50, 50),
        "samples": (50, 50),
    }
    assert _everything(empty) == before
    assert len(empty.files("trials")) == 1
    assert os.listdir(empty.folder.local / "trials") == ["compacted"]
    assert not list((empty.folder.local / "scratch").glob("*.parquet*"))
    assert compact(empty) == []


def test_compacting_again_folds_the_new_files_into_the_old(empty):
    for turn in range(3):
        _fill(empty, 5, prefix=f"turn{turn}-")
        compact(empty)
    assert len(empty.files("trials")) == 1
    assert ask(empty, "SELECT count(DISTINCT trial) FROM trials").rows == [(15,)]


def test_a_large_file_is_left_as_it_is(empty, monkeypatch):
    monkeypatch.setattr(compaction, "ENOUGH", 6)
    _fill(empty, 6, "a")
    compact(empty)
    large = empty.files("trials")
    _fill(empty, 3, "b")

    assert [f.before for f in compact(empty)] == [3, 3]
    assert set(large) < set(empty.files("trials"))


def test_a_damaged_file_is_moved_to_quarantine_and_not_folded(empty):
    _fill(empty, 5)
    broken = empty.folder.local / "trials" / "0000-t0002.parquet"
    broken.write_bytes(broken.read_bytes()[:-10])

    assert compact(empty)[0].rows == 4
    assert len(empty.warnings) == 1
    assert (empty.folder.local / "damaged" / "trials-0000-t0002.parquet").exists()


def test_two_compactions_at_once_are_refused(empty):
    _fill(empty, 3)
    with compaction.alone(empty), pytest.raises(StoreError, match="another compac"):
        compact(empty)
    assert compact(empty)


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (OSError(28, "No space left on device"), StoreError, "has no room to compact"),
        (duckdb.IOException("not enough space"), StoreError, "nothing is lost"),
        (OSError(5, "Input/output error"), StoreError, "cannot be used: .*Input/outp"),
    ],
)
def test_a_full_disk_is_named_and_other_errors_are_not_called_one(
    empty, monkeypatch, error, raised, said
):
    _fill(empty, 3)
    before = _everything(empty)

    def fails(*_):
        raise error

    monkeypatch.setattr(compaction, "publish", fails)
    with pytest.raises(raised, match=said) as caught:
        compact(empty)

    assert type(caught.value) is raised
    assert _everything(empty) == before


def test_a_disk_that_is_full_before_the_first_row_is_named_too(empty, monkeypatch):
    _fill(empty, 3)

    def fails(*_, **__):
        raise duckdb.IOException("not enough space")

    monkeypatch.setattr(compaction, "_write", fails)
    with pytest.raises(StoreError, match="has no room to compact"):
        compact(empty)


def test_files_of_older_code_are_compacted_with_the_columns_that_they_have(empty):
    _fill(empty, 2)
    old, new = (empty.folder.local / path for path in empty.files("trials"))
    table = pq.read_table(old).drop_columns(["node", "threads"])
    pq.write_table(table.replace_schema_metadata(None), old)
    store = replace(empty, mixed=True)
    before = _everything(store)

    assert [(f.table, f.rows) for f in compact(store)] == [
        ("trials", 2),
        ("samples", 2),
    ]
    assert not new.exists()
    assert _everything(store) == before


class _Killed(BaseException):
    """Stands for a kill at one exact step."""


@pytest.mark.parametrize("step", ["_copy", "publish", "delete_folded"])
def test_a_compaction_that_dies_at_any_step_loses_nothing(empty, monkeypatch, step):
    _fill(empty, 12)
    wanted = {f"t{i:04d}" for i in range(12)}

    def die(*_):
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(compaction, step, die)
        with pytest.raises(_Killed):
            compact(empty)
    _check_each_once(empty, wanted)

    compact(empty)

    _check_each_once(empty, wanted)
    assert len(empty.files("trials")) == 1
    assert os.listdir(empty.folder.local / "trials") == ["compacted"]


def test_a_compaction_that_dies_half_way_through_deleting_loses_nothing(
    empty, monkeypatch
):
    _fill(empty, 12)
    wanted = {f"t{i:04d}" for i in range(12)}
    deleted = []
    real = type(empty.folder).delete

    def delete(self, path):
        deleted.append(path)
        if len(deleted) > 5:
            raise _Killed
        real(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(type(empty.folder), "delete", delete)
        with pytest.raises(_Killed):
            compact(empty)
    _check_each_once(empty, wanted)
    compact(empty)
    _check_each_once(empty, wanted)


def _start(code: str) -> subprocess.Popen:
    prelude = f"import sys; sys.path.insert(0, {str(SUPPORT)!r})\n"
    return subprocess.Popen([sys.executable, "-c", prelude + code])


WRITER = """
from synthetic import row
from results.storage.store import open_store
store = open_store({uri!r})
for i in range({count}):
    trial = "{prefix}%04d" % i
    store.append(row(trial), [{{"metric": "m", "values": [1.0]}}])
"""
COMPACTOR = """
from results.queries.compaction import compact
from results.storage.store import open_store
while True:
    compact(open_store({uri!r}))
"""


@pytest.mark.slow
def test_killed_compactions_beside_a_writer_lose_and_double_nothing(empty):
    draw = random.Random(7)
    writer = _start(WRITER.format(uri=empty.uri, prefix="w", count=1500))
    killed = 0
    seen = 0
    while writer.poll() is None or killed < 12:
        compactor = _start(COMPACTOR.format(uri=empty.uri))
        time.sleep(0.6 + draw.random())
        counted = ask(
            open_store(empty.uri), "SELECT count(*), count(DISTINCT trial) FROM trials"
        )
        total, distinct = counted.rows[0]
        assert total == distinct >= seen  # while both are at work
        seen = total
        compactor.send_signal(signal.SIGKILL)
        compactor.wait()
        killed += 1
    assert writer.returncode == 0
    wanted = {f"w{i:04d}" for i in range(1500)}
    _check_each_once(empty, wanted)
    compact(empty)
    _check_each_once(empty, wanted)
    assert empty.warnings == []


@pytest.mark.parametrize("step", ["alone", "delete_folded", "publish"])
def test_a_store_that_another_user_owns_is_one_message(empty, monkeypatch, step):
    _fill(empty, 3)

    def refuse(*_):
        raise PermissionError(13, "Permission denied", "trials/x.parquet")

    monkeypatch.setattr(compaction, step, refuse)
    with pytest.raises(StoreError, match=r"does not allow this: Permission denied"):
        compact(empty)


@pytest.mark.parametrize(("files", "folded"), [(1, []), (2, ["trials"])])
def test_two_files_of_a_table_are_enough_to_fold(empty, files, folded):
    empty.append_all([row("whole")])
    for i in range(files - len(empty.files("trials"))):
        empty.append(row(f"t{i}"))
    assert len(empty.files("trials")) == files
    assert [one.table for one in compact(empty)] == folded
