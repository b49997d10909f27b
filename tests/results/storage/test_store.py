"""The store: what is appended is read back, once, whatever happens in between."""

import json
import math
import os
import re
import resource
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from paths import SUPPORT
from synthetic import row

from results import schema
from results.errors import StoreError
from results.queries.attempts import read_attempts, read_statuses
from results.queries.damage import damage
from results.queries.db import ask
from results.queries.restricted import select as query
from results.storage import store as store_module
from results.storage.folder import RemoteFolder
from results.storage.store import Store, new_attempt, open_store


def test_what_is_appended_is_read_back(empty):
    made = row("t", measured={"perplexity": 5.5}, reason="naïve 'quotes' \"and\" \n")
    empty.append(made, [{"metric": "perplexity", "values": [1.0, 2.5]}])

    back = ask(empty, "FROM trials").dicts()[0]

    assert back["reason"] == made["reason"]
    assert back["started_at"] == made["started_at"].replace(tzinfo=None)  # UTC
    assert back["params"] is None  # not given is NULL, never zero
    assert ask(empty, "SELECT metric, value FROM measurements").rows == [
        ("perplexity", 5.5)
    ]
    assert ask(empty, "SELECT attempt, values FROM samples").rows == [
        (made["attempt"], [1.0, 2.5])
    ]


def test_a_row_is_one_file_and_leaves_nothing_beside_it(empty):
    empty.append(row("t"))
    assert os.listdir(empty.folder.local / "trials") == ["0000-t.parquet"]


def test_an_unknown_column_is_named_with_the_nearest(empty):
    with pytest.raises(StoreError, match=r"'methud'.*Did you mean 'method'"):
        empty.append({"attempt": "a", "methud": "svd"})
    assert empty.files("trials") == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_not_stored(empty, value):
    with pytest.raises(StoreError, match="perplexity of trial t is"):
        empty.append(row("t", measured={"perplexity": value}))
    assert empty.files("trials") == []


def test_a_wrong_type_is_explained(empty):
    with pytest.raises(StoreError, match="does not fit its columns"):
        empty.append(row("t", seed="zero"))


def test_statuses_give_the_newest_finished_attempt_else_the_newest(empty):
    empty.append(row("done", minute=1))
    empty.append(row("done", minute=2, status="failed", error_class="infra"))
    empty.append(row("retried", minute=1, status="failed"))
    empty.append(row("retried", minute=2))
    empty.append(row("hopeless", minute=1, status="timed_out"))
    empty.append(row("hopeless", minute=2, status="lost"))

    assert read_statuses(empty) == {"done": "ok", "retried": "ok", "hopeless": "lost"}
    assert [a.status for a in read_attempts(empty)["done"]] == ["ok", "failed"]
    newest = dict(ask(empty, "SELECT trial, status FROM newest").rows)
    assert newest == read_statuses(empty)  # the view and the method agree


def test_attempt_ids_are_unique_and_sort_by_time():
    assert re.fullmatch("[0-9a-f]{24}", new_attempt())
    ids = [new_attempt() for _ in range(2000)]
    assert len(set(ids)) == 2000
    assert [i[:12] for i in ids] == sorted(i[:12] for i in ids)


def test_no_store_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(StoreError, match=r"no store at .*shrinkgrid run"):
        open_store(tmp_path / "nowhere")


def test_a_file_is_no_store(tmp_path):
    path = tmp_path / "file"
    path.write_text("hello")
    with pytest.raises(StoreError, match="a store is a folder"):
        open_store(path, create=True)
    with pytest.raises(StoreError, match=r"a store is a folder|lies under, a file"):
        open_store(path / "below", create=True)
    assert path.read_text() == "hello"


def test_a_folder_of_other_things_is_not_made_a_store(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(StoreError, match="contains other files"):
        open_store(tmp_path, create=True)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_two_drivers_make_one_store_in_the_same_moment(tmp_path):
    (tmp_path / ".format.json.0123abcd.tmp").write_bytes(b"")  # the other's, half-way

    open_store(tmp_path, create=True)

    assert read_statuses(open_store(tmp_path)) == {}


def test_a_store_of_a_newer_version_is_refused(tmp_path):
    (tmp_path / "format.json").write_text('{"schema_version": 99}')
    with pytest.raises(StoreError, match=r"schema version 99.*newer shrinkgrid"):
        open_store(tmp_path)


def test_a_format_file_that_says_nothing_is_refused(tmp_path):
    (tmp_path / "format.json").write_text("not json")
    with pytest.raises(StoreError, match="does not say what the store is"):
        open_store(tmp_path)


def test_a_store_without_write_permission_is_an_error(empty, monkeypatch):
    # Permission bits do not bind root, which runs tests in containers.
    monkeypatch.setattr(store_module.os, "access", lambda *_: False)
    with pytest.raises(StoreError, match="read-only for this user"):
        open_store(empty.uri, create=True)
    assert read_statuses(open_store(empty.uri)) == {}  # reading is still allowed


def test_a_place_that_the_system_refuses_is_explained():
    with pytest.raises(StoreError, match="the store /proc/nothing"):
        open_store("/proc/nothing", create=True)


def test_a_write_that_the_disk_has_no_room_for_loses_nothing(empty):
    empty.append(row("before"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
    try:
        with pytest.raises(StoreError, match=r"cannot grow.*nothing that was stored"):
            empty.append(row("after"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)

    assert os.listdir(empty.folder.local / "trials") == ["0000-before.parquet"]
    assert read_statuses(empty) == {"before": "ok"}


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_damaged_file_is_moved_to_quarantine_and_named(empty, keep):
    for trial in ("a", "b", "c"):
        empty.append(row(trial))
    broken = empty.folder.local / "trials" / "0000-b.parquet"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:keep])

    assert read_statuses(empty) == {"a": "ok", "c": "ok"}
    assert "trials/0000-b.parquet is damaged" in empty.warnings[0]
    aside = empty.folder.local / "damaged" / "trials-0000-b.parquet"
    assert aside.read_bytes() == whole[:keep]  # never deleted
    assert query(empty, "SELECT count(*) FROM trials").rows == [(2,)]


def test_a_file_that_vanishes_while_it_is_looked_at_is_not_damaged(empty, monkeypatch):
    for trial in ("a", "b"):
        empty.append(row(trial))
    path = "trials/0000-b.parquet"
    real = type(empty.folder).read

    def read(self, wanted):
        content = real(self, wanted)
        if wanted == path:  # as when a compaction replaces it in this moment
            (self.root / path).unlink(missing_ok=True)
        return content

    monkeypatch.setattr(type(empty.folder), "read", read)

    assert damage(empty, path) is None


def test_two_readers_that_find_one_damaged_file_both_go_on(empty):
    empty.append(row("a"))
    empty.append(row("b"))
    path = "trials/0000-b.parquet"
    broken = empty.folder.local / path
    broken.write_bytes(broken.read_bytes()[:100])
    other = open_store(empty.uri)

    other.quarantine(path, "found first")
    empty.quarantine(path, "found second")

    assert len(other.warnings) == 1
    assert empty.warnings == []
    assert query(empty, "SELECT count(*) FROM trials").rows == [(1,)]


def test_rows_of_older_code_stay_readable(tmp_path):
    older = {k: v for k, v in schema.TRIALS.items() if k not in ("threads", "node")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(schema.TABLES, "trials", older)
        schema.arrow.cache_clear()
        old = open_store(tmp_path / "store", create=True)
        old.append(row("a-old"))
    schema.arrow.cache_clear()
    new = open_store(tmp_path / "store", create=True)
    new.append(row("b-new", threads=8))

    read = open_store(tmp_path / "store")

    assert read.mixed
    assert ask(read, "SELECT trial, threads FROM trials ORDER BY 1").rows == [
        ("a-old", None),
        ("b-new", 8),
    ]


def test_a_killed_writer_leaves_whole_rows_or_none(tmp_path):
    code = f"""
import sys; sys.path.insert(0, {str(SUPPORT)!r})
from synthetic import row
from results.storage.store import open_store
store = open_store({str(tmp_path / "store")!r}, create=True)
for i in range(10**6):
    samples = [{{"metric": "m", "values": [1.0]}}]
    store.append(row(f"t{{i}}", reason="x" * 20000), samples)
    print(i, flush=True)
"""
    writer = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    told = [writer.stdout.readline() for _ in range(40)]
    writer.kill()
    told += writer.stdout.read().splitlines()
    writer.wait()
    store = open_store(tmp_path / "store")

    stored = set(read_statuses(store))

    assert store.warnings == []
    assert {f"t{int(line)}" for line in told if line.strip()} <= stored
    with_samples = ask(store, "FROM trials SEMI JOIN samples USING (attempt)")
    assert len(with_samples.rows) == len(stored)


def test_a_store_in_a_bucket_reads_and_writes_the_same(tmp_path):
    from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

    root = tmp_path / "bucket"
    root.mkdir()
    bucket = SubTreeFileSystem(str(root), LocalFileSystem())
    store = Store(folder=RemoteFolder(bucket, "runs/one", "s3://runs/one"))
    assert read_statuses(store) == {}
    store.append(row("t"), [{"metric": "accuracy", "values": [1.0]}])
    store.append(row("u", minute=1, status="failed"))

    assert read_statuses(store) == {"t": "ok", "u": "failed"}
    assert query(store, "SELECT mean FROM leaderboard").rows == [(0.9,)]
    file = root / "runs" / "one" / "trials" / "0000-t.parquet"
    assert pq.read_table(file).num_rows == 1


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("ftpx://a/b", "no file system for the store 'ftpx://a/b'"),
        ("s3://", "names no bucket; write s3://BUCKET/STORE"),
        ("s3:///store", "Missing bucket name"),
        ("s3:/bucket/store", "one slash behind the colon"),
        (os.fsdecode(b"caf\xe9"), "a name that is not UTF-8"),
        ("a\0b", "a character NUL"),
    ],
)
def test_a_place_that_is_none_is_one_clear_message(uri, reason):
    with pytest.raises(StoreError, match=reason):
        open_store(uri)


def test_no_message_has_the_password_of_a_uri():
    error = StoreError("the store s3://me:secret@bucket/store does not answer")
    assert str(error) == "the store s3://bucket/store does not answer"
    assert error.errors == [str(error)]


def test_a_file_that_is_gone_from_a_bucket_is_not_moved(tmp_path, monkeypatch):
    from pyarrow import fs

    class S3:
        """Says of a missing source what S3 says: the copy failed."""

        def __init__(self) -> None:
            self.real = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())

        def __getattr__(self, name):
            return getattr(self.real, name)

        def move(self, source, target) -> None:
            if not self.real.get_file_info(source).is_file:
                raise OSError("AWS Error UNKNOWN during CopyObject operation")
            self.real.move(source, target)

    monkeypatch.setenv("SHRINKGRID_PATIENCE", "1")
    place = RemoteFolder(S3(), "store", "s3://store")
    place.write("trials/a.parquet", b"x")

    assert place.move("trials/a.parquet", "damaged/a") is True
    assert place.move("trials/a.parquet", "damaged/b") is False
    assert place.names("damaged") == ["a"]


def test_format_json_says_which_schema(empty):
    stored = json.loads((empty.folder.local / "format.json").read_text())
    assert stored["schema_version"] == 1


@pytest.mark.parametrize("count", [1, 3, 4, 7])  # fewer than a chunk, one, several
def test_a_plan_of_several_chunks_is_stored_whole_and_in_order(
    empty, monkeypatch, count
):
    monkeypatch.setattr(store_module, "_CHUNK", 3)
    rows = [{"plan": "p", "trial": f"t{i}"} for i in range(count)]

    empty.record_plan(iter(rows))

    stored = ask(empty, "SELECT plan, trial FROM stored.plans").rows
    assert stored == [("p", f"t{i}") for i in range(count)]


def test_a_plan_without_trials_leaves_no_file(empty):
    empty.record_plan([])
    assert empty.files("plans") == []


def test_a_reader_of_other_code_does_not_register_its_columns(empty, monkeypatch):
    path = empty.folder.local / "format.json"
    before = path.read_text()
    monkeypatch.setattr(store_module, "_columns_digest", lambda: "other")

    assert open_store(empty.folder.local).mixed
    assert path.read_text() == before
    assert open_store(empty.folder.local, create=True).mixed
    columns = json.loads(path.read_text())["columns"]
    assert columns == [*json.loads(before)["columns"], "other"]
    open_store(empty.folder.local, create=True)
    assert json.loads(path.read_text())["columns"] == columns  # once is enough


@pytest.mark.parametrize(
    ("change", "checked"),
    [
        ({}, True),
        ({"status": "failed", "measurements": None}, True),
        ({"measurements": [{"metric": "a", "value": 1.0, "stderr": None}]}, True),
        ({"measurements": [{"metric": "a", "value": 1e149, "stderr": 0.0}]}, True),
        ({"measurements": [{"metric": "a", "value": -1e150}]}, False),
        ({"measurements": [{"metric": "a", "value": 1.0, "stderr": -0.1}]}, False),
        ({"measurements": [{"metric": "a", "value": 1.0, "stderr": 1e150}]}, False),
        ({"measurements": [{"metric": None, "value": 1.0}]}, False),
        ({"measurements": [{"metric": "a", "value": v} for v in (1.0, 2.0)]}, False),
        # A curve has many numbers of one metric.
        (
            {
                "measurements": [
                    {"metric": "a", "value": 1.0, "step": step} for step in (None, 1, 2)
                ]
            },
            True,
        ),
        ({"method": None}, False),
        ({"ratio": None}, False),
        ({"task": None}, False),
        ({"model": None}, False),
    ],
)
def test_a_row_says_whether_rankings_can_use_all_of_its_numbers(empty, change, checked):
    empty.append(row("one", measured={"accuracy": 0.5}) | change)

    assert ask(empty, "SELECT checked FROM trials").rows == [(checked,)]
    # What is checked is what the view leaves out nothing of.
    left = ask(empty, "SELECT count(*) FROM left_out").rows
    assert (left == [(0,)]) == checked
