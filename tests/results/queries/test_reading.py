"""Readers see one state of a store, beside compactions and harmed answers."""

import os
import socket
import struct
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import FileSelector, LocalFileSystem, S3FileSystem, SubTreeFileSystem
from synthetic import grid, row

from results.boards import leaderboard, report
from results.errors import StoreError
from results.export import export
from results.queries import restricted
from results.queries.attempts import read_statuses
from results.queries.compaction import compact
from results.queries.db import ask
from results.queries.reading import RemoteReadError, reading
from results.queries.restricted import select
from results.storage.folder import RemoteFolder
from results.storage.store import Store, open_store
from results.tables.paper import paper_table
from results.tables.published import read

READERS = {
    "sql": lambda store: select(store, "SELECT count(*) FROM trials").rows,
    "leaderboard": lambda store: leaderboard.read(store).rows,
    "report": report.page,
    "table": lambda store: paper_table(store, read("svd_llm_1")).rows,
    "attempts": read_statuses,
    "samples": lambda store: sorted(ask(store, "FROM samples").rows),
}


def _replaced_after(monkeypatch, where: object, name: str, replace) -> list[str]:
    """Let ``replace`` change the store once, right after a function has returned."""
    real, done = getattr(where, name), []

    def then(*arguments, **options):
        returned = real(*arguments, **options)
        if not done:
            done.append(name)
            replace()
        return returned

    monkeypatch.setattr(where, name, then)
    return done


@pytest.mark.parametrize("reader", READERS)
def test_a_compaction_after_the_listing_changes_no_answer(
    tmp_path, monkeypatch, reader
):
    store = grid(tmp_path / "store", seeds=1)
    before = READERS[reader](store)
    done = _replaced_after(
        monkeypatch, Store, "at_this_moment", lambda: compact(open_store(store.uri))
    )
    assert READERS[reader](store) == before
    assert done
    assert len(store.files("trials")) == 1
    assert store.warnings == []


@pytest.mark.parametrize("step", ["_lock", "connected", "_require_select"])
def test_a_compaction_at_any_step_of_a_query_changes_no_answer(
    tmp_path, monkeypatch, step
):
    store = grid(tmp_path / "store", seeds=1)
    done = _replaced_after(
        monkeypatch, restricted, step, lambda: compact(open_store(store.uri))
    )
    assert select(store, "SELECT count(*) FROM trials").rows == [(14,)]
    assert done


def test_a_compaction_beside_an_export_changes_no_row(tmp_path, monkeypatch):
    store = grid(tmp_path / "store", seeds=1)
    done = _replaced_after(
        monkeypatch, Store, "at_this_moment", lambda: compact(open_store(store.uri))
    )
    export(store, tmp_path / "copy", "parquet")
    assert pq.read_table(tmp_path / "copy" / "trials.parquet").num_rows == 14
    assert done


def test_all_queries_of_one_reader_see_the_same_rows(empty):
    empty.append(row("a"))

    def read(snapshot: Store) -> list[int]:
        counts = []
        for trial in "bc":
            counts += ask(snapshot, "SELECT count(*) FROM trials").rows[0]
            empty.append(row(trial))  # a run goes on
        return counts

    assert reading(empty, read) == [1, 1]
    assert ask(empty, "SELECT count(*) FROM trials").rows == [(3,)]


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """A bucket of a local S3 server."""
    from moto.server import ThreadedMotoServer

    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = ThreadedMotoServer("127.0.0.1", port)
    server.start()
    filesystem = S3FileSystem(
        access_key="a",
        secret_key="b",
        region="us-east-1",
        scheme="http",
        endpoint_override=f"127.0.0.1:{port}",
        allow_bucket_creation=True,
    )
    filesystem.create_dir("bucket")
    yield filesystem
    server.stop()


def _upload(local: Path, filesystem, root: str) -> None:
    """Make a bucket hold what a folder holds, as `aws s3 sync --delete` does."""
    wanted = {
        str(p.relative_to(local)): p.read_bytes()
        for p in local.rglob("*")
        if p.is_file() and "scratch" not in p.parts
    }
    for name, content in wanted.items():
        with filesystem.open_output_stream(f"{root}/{name}") as stream:
            stream.write(content)
    for info in filesystem.get_file_info(FileSelector(root, recursive=True)):
        if info.is_file and info.path.removeprefix(f"{root}/") not in wanted:
            filesystem.delete_file(info.path)


@pytest.mark.parametrize("reader", ["sql", "attempts", "samples"])
def test_a_compacted_copy_may_replace_the_files_of_a_bucket_while_they_are_read(
    tmp_path, monkeypatch, s3, reader
):
    local = grid(tmp_path / "store", seeds=1)
    root = f"bucket/{reader}"
    _upload(Path(local.uri), s3, root)
    store = Store(folder=RemoteFolder(s3, root, f"s3://{root}"))
    before = READERS[reader](store)
    compact(local)

    done = _replaced_after(
        monkeypatch,
        Store,
        "at_this_moment",
        lambda: _upload(Path(local.uri), s3, root),
    )

    assert READERS[reader](store) == before
    assert done
    assert len(store.files("trials")) == 1
    assert store.warnings == []


def _bucket(tmp_path: Path) -> Store:
    (tmp_path / "bucket").mkdir()
    bucket = SubTreeFileSystem(str(tmp_path / "bucket"), LocalFileSystem())
    store = Store(folder=RemoteFolder(bucket, "s", "s3://s"))
    for seed in range(3):
        store.append(row(f"t{seed}", seed=seed, measured={"accuracy": 0.125}))
    return store


def _flip(path: Path, what: bytes) -> None:
    """Change one bit of a number where the file has it first, in a column's page."""
    content = bytearray(path.read_bytes())
    content[content.index(what) + len(what) - 1] ^= 1
    path.write_bytes(content)


def test_a_number_whose_bit_flipped_in_a_bucket_is_moved_to_quarantine(tmp_path):
    store = _bucket(tmp_path)
    _flip(tmp_path / "bucket/s/trials/0000-t1.parquet", struct.pack("<d", 0.125))

    found = select(store, "SELECT trial, value FROM scores ORDER BY 1").rows

    assert found == [("t0", 0.125), ("t2", 0.125)]
    assert "0000-t1.parquet is damaged" in store.warnings[0]


def test_bytes_that_change_on_the_way_are_read_again(tmp_path, monkeypatch):
    store = _bucket(tmp_path)
    file = tmp_path / "bucket/s/trials/0000-t1.parquet"
    good = file.read_bytes()
    file.write_bytes(good[:-30] + b"\xff" + good[-29:])
    monkeypatch.setattr(
        "results.queries.reading.damage", lambda *_: file.write_bytes(good) and None
    )

    assert select(store, "SELECT count(*) FROM scores").rows == [(3,)]
    assert store.warnings == []


def test_a_bucket_that_keeps_answering_nonsense_is_one_message(tmp_path, monkeypatch):
    store = _bucket(tmp_path)
    file = tmp_path / "bucket/s/trials/0000-t1.parquet"
    file.write_bytes(file.read_bytes()[:-30])
    monkeypatch.setattr("results.queries.reading.damage", lambda *_: None)

    with pytest.raises(StoreError, match=r"bytes that are not its files.*try again"):
        select(store, "SELECT count(*) FROM scores")


@pytest.mark.parametrize(
    "parent", ["ratio=0.9", "method=x", "started_at=1", "a=b/trial=c", "measurements=1"]
)
def test_a_folder_above_the_store_is_not_a_column(tmp_path, parent):
    plain = grid(tmp_path / "plain", seeds=1)
    store = grid(tmp_path / parent / "store", seeds=1)
    for sql in ("FROM trials ORDER BY ALL", "FROM leaderboard ORDER BY ALL"):
        assert ask(store, sql) == ask(plain, sql)
    compact(store)
    assert ask(store, "FROM trials ORDER BY ALL") == ask(
        plain, "FROM trials ORDER BY ALL"
    )
    assert os.listdir(Path(store.uri) / "trials") == ["compacted"]


@pytest.mark.parametrize(
    ("error", "calls", "raised"),
    [
        # Once more as a store whose files differ in their columns, and no more.
        (duckdb.InvalidInputException, 2, duckdb.InvalidInputException),
        (RuntimeError, 1, RuntimeError),
        (duckdb.PermissionException, 1, duckdb.PermissionException),
        (duckdb.BinderException, 1, duckdb.BinderException),
        (RemoteReadError, 3, StoreError),
    ],
)
def test_an_error_over_whole_files_is_raised_after_its_repeats(
    empty, error, calls, raised
):
    empty.append(row("a"))
    seen = []

    def fails(snapshot):
        seen.append(snapshot.mixed)
        raise error("why")

    with pytest.raises(raised, match="why"):
        reading(empty, fails)

    assert len(seen) == calls
    assert empty.mixed is (error is duckdb.InvalidInputException)


def test_a_store_is_read_again_as_one_of_mixed_columns(empty):
    empty.append(row("a"))

    def read(snapshot):
        if not snapshot.mixed:
            raise duckdb.InvalidInputException("a column is missing")
        return snapshot.files("trials")

    assert reading(empty, read) == ["trials/0000-a.parquet"]
    assert empty.mixed


def test_within_a_snapshot_nothing_is_repeated(empty):
    snapshot, seen = empty.at_this_moment(), []

    def fails(given):
        seen.append(given)
        raise duckdb.InvalidInputException("why")

    with pytest.raises(duckdb.InvalidInputException):
        reading(snapshot, fails)
    assert seen == [snapshot]


def test_queries_of_one_reading_share_a_database_and_leave_it_empty(tmp_path):
    stored = grid(tmp_path / "store", seeds=1)  # of its own: it is changed
    count, opened = "SELECT count(*) FROM trials", []

    def read(snapshot: Store) -> list[tuple[int]]:
        answers = [ask(snapshot, count).rows[0] for _ in range(3)]
        # Another grid sees other rows, so it needs views of its own.
        answers.append(ask(replace(snapshot, grid="none"), count).rows[0])
        opened.extend(snapshot.connections.values())
        stored.append(row("written meanwhile"))
        return [*answers, ask(snapshot, count).rows[0]]

    (all_rows, *same, of_no_grid, later) = reading(stored, read)

    assert same == [all_rows, all_rows]
    assert of_no_grid < all_rows
    assert later == all_rows, "a reading sees one state"
    assert ask(stored, count).rows[0] == (all_rows[0] + 1,)
    assert len(opened) == 2
    for database in opened:
        with pytest.raises(duckdb.CatalogException):
            database.connection.execute(count)
