"""Merging copies each row once, also when killed, repeated, or with older columns."""

import json
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from paths import SUPPORT
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem
from synthetic import grid, row

from results.errors import StoreError
from results.queries import merging
from results.queries.compaction import compact
from results.queries.db import ask
from results.queries.merging import merge
from results.storage.folder import RemoteFolder
from results.storage.store import Store, open_store


def fill(store: Store, names: list[str], **columns) -> Store:
    """One attempt with samples, a plan and a log for each name."""
    for name in names:
        sample = {"metric": "accuracy", "values": [1.0, 0.0]}
        store.append(row(name, **columns), [sample], [{"layer": "fc", "rank": 3}])
        store.record_plan([{"plan": f"plan-{name}", "trial": name}])
        store.folder.write(f"logs/{name}-job.log", b"printed")
    return store


def new(path, names=(), **columns) -> Store:
    return fill(open_store(path, create=True), list(names), **columns)


def everything(store: Store) -> dict[str, list[tuple]]:
    """Every row of every table, in an order that says nothing of the files."""
    return {
        table: sorted(ask(store, f"FROM stored.{table}").rows, key=repr)
        for table in ("trials", "samples", "layers", "plans")
    }


def trials(store: Store) -> list[str]:
    return [one for (one,) in ask(store, "SELECT trial FROM trials ORDER BY 1").rows]


def test_a_merged_store_has_the_rows_of_both_as_they_were(tmp_path):
    whole = grid(tmp_path / "one")
    other = new(tmp_path / "two", ["x", "y"])
    target = open_store(tmp_path / "all", create=True)

    counts = [merge(one, target) for one in (whole, other)]

    assert [(c.attempts, c.plans, c.logs) for c in counts] == [(28, 1, 0), (2, 2, 2)]
    one, two = everything(whole), everything(other)
    assert everything(target) == {
        table: sorted(one[table] + two[table], key=repr) for table in one
    }
    for view in ("leaderboard", "completeness", "comparison"):
        ask(target, f"FROM {view}")
    assert target.folder.read("logs/x-job.log") == b"printed"


def test_a_merge_that_is_repeated_copies_only_what_is_new(tmp_path):
    source, target = new(tmp_path / "one", "abc"), new(tmp_path / "all", "d")
    merge(source, target)
    compact(target)  # the ids now stand in other files
    compact(source)
    fill(source, ["e"])

    done = merge(source, target)

    assert (done.attempts, done.plans, done.logs, done.present) == (1, 1, 1, 3)
    assert trials(target) == ["a", "b", "c", "d", "e"]
    assert len(everything(target)["samples"]) == 5
    assert len(everything(target)["layers"]) == 5
    assert merge(source, target).attempts == 0


def test_stores_with_common_attempts_give_each_once(tmp_path):
    one, two = new(tmp_path / "one", "ab"), new(tmp_path / "two", "bc")
    target = open_store(tmp_path / "all", create=True)
    merge(one, target)
    assert merge(two, target).present == 1
    assert trials(target) == ["a", "b", "c"]


def test_an_attempt_with_other_numbers_is_refused_and_named(tmp_path):
    one = new(tmp_path / "one", "ab")
    two = new(tmp_path / "two", "b", measured={"accuracy": 0.1})
    with pytest.raises(StoreError, match="different numbers for the attempts 0000-b;"):
        merge(two, one)
    assert trials(one) == ["a", "b"]


def test_of_many_attempts_with_other_numbers_three_are_named(tmp_path):
    one = new(tmp_path / "one", "abcde")
    for count, listed in (
        (3, "0000-a, 0000-b, 0000-c;"),
        (5, "0000-a, 0000-b, 0000-c and 2 more;"),
    ):
        other = new(tmp_path / str(count), "edcba"[5 - count :], measured={"loss": 0.1})
        with pytest.raises(StoreError, match=f"for the attempts {listed}"):
            merge(other, one)


def test_a_store_is_not_merged_into_itself(tmp_path):
    store = new(tmp_path / "one", "a")
    (tmp_path / "link").symlink_to(tmp_path / "one")
    with pytest.raises(StoreError, match="cannot be merged into itself"):
        merge(open_store(tmp_path / "link"), store)


def with_columns(store: Store, digest: str, change) -> Store:
    """Rewrite the rows of a store as code with other columns wrote them."""
    for path in store.files("trials"):
        file = store.folder.local / path
        pq.write_table(change(pq.read_table(file)), file)
    text = store.folder.local / "format.json"
    said = json.loads(text.read_text())
    text.write_text(json.dumps(said | {"columns": [digest]}))
    return open_store(store.uri)


def test_rows_of_older_code_lack_columns_and_those_of_newer_code_keep_theirs(tmp_path):
    older = with_columns(
        new(tmp_path / "old", "a"), "old", lambda t: t.drop_columns(["chance"])
    )
    newer = with_columns(
        new(tmp_path / "new", "b"),
        "new",
        lambda t: t.append_column("watts", pa.array([7.5])),
    )
    target = new(tmp_path / "all", "c", chance=0.1)

    merge(older, target)
    merge(newer, target)

    again = open_store(target.uri)
    rows = ask(again, "SELECT trial, chance, watts FROM trials ORDER BY 1").rows
    assert rows == [("a", None, None), ("b", None, 7.5), ("c", 0.1, None)]
    compact(again)
    assert ask(again, "SELECT max(watts) FROM trials").rows == [(7.5,)]


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_store_in_a_bucket_is_merged_too(tmp_path, side, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = {"source": "abc", "target": "d"}
    stores = {one: new(tmp_path / one, names[one]) for one in names}
    bucket = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
    remote = Store(folder=RemoteFolder(bucket, side, f"s3://{side}"))
    found = stores | {side: remote}

    assert merge(found["source"], found["target"]).attempts == 3
    assert merge(found["source"], found["target"]).present == 3

    assert trials(stores["target"]) == ["a", "b", "c", "d"]
    zones = pq.read_schema(
        next((tmp_path / "target/trials/compacted").glob("*.parquet"))
    )
    assert str(zones.field("started_at").type) == "timestamp[us, tz=UTC]"


class Killed(BaseException):
    """Stands for a kill at one exact step."""


@pytest.mark.parametrize("step", range(3))
def test_a_merge_that_dies_before_any_commit_is_finished_by_the_next(
    tmp_path, monkeypatch, step
):
    source, target = new(tmp_path / "one", "abc"), new(tmp_path / "all", "d")
    left, real = [step], merging._publish

    def publish(*words):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        real(*words)

    with monkeypatch.context() as patch:
        patch.setattr(merging, "_publish", publish)
        with pytest.raises(Killed):
            merge(source, target)
    # A trial is there only with its samples.
    assert set(trials(target)) <= {a[5:] for a, *_ in everything(target)["samples"]}

    merge(source, target)

    assert trials(target) == ["a", "b", "c", "d"]
    found = everything(target)
    assert (len(found["samples"]), len(found["plans"])) == (4, 4)


MERGER = """
import sys; sys.path.insert(0, {support!r})
from results.queries.merging import merge
from results.storage.store import open_store
merge(open_store({source!r}), open_store({target!r}, create=True))
"""


@pytest.mark.slow
def test_killed_merges_lose_and_double_nothing(tmp_path):
    names = [f"t{i:04d}" for i in range(400)]
    source = new(tmp_path / "one", names)
    uri = str(tmp_path / "all")
    code = MERGER.format(support=str(SUPPORT), source=source.uri, target=uri)
    for pause in (0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4):
        process = subprocess.Popen([sys.executable, "-c", code])
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
    target = open_store(uri, create=True)
    merge(source, target)
    assert everything(target) == everything(source)
