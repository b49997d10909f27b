"""Which files of a store are damaged, and what is said of them."""

import struct
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import row

from results.queries import damage as module
from results.queries.damage import _alike, _refused, damage

INTS = pa.list_(pa.int64())


@pytest.fixture
def file(empty):
    """The store with one trial, the path of its file in it, and the table in it."""
    empty.append(row("a"))
    (path,) = empty.files("trials")
    return empty, path, pq.read_table(empty.folder.local / path)


def test_a_whole_file_and_one_that_a_compaction_replaced_are_not_damaged(file):
    store, path, _ = file
    assert damage(store, path) is None
    assert damage(store, "trials/gone.parquet") is None


def test_a_file_that_is_cut_off_is_damaged_in_one_line(file):
    store, path, _ = file
    target = store.folder.local / path
    target.write_bytes(target.read_bytes()[:-30])
    reason = damage(store, path)
    assert reason
    assert "\n" not in reason


def test_a_number_that_changed_on_the_disk_is_damage(file):
    store, path, _ = file
    target = store.folder.local / path
    content, ratio = target.read_bytes(), struct.pack("<d", 0.2)
    assert content.count(ratio) == 1  # the copy in the footer is text
    target.write_bytes(content.replace(ratio, struct.pack("<d", 0.3)))
    assert "checksum" in damage(store, path).lower()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.drop(["attempt"]), "it has no column attempt"),
        (lambda t: t.drop(["reason"]), None),  # an older file
        (lambda t: t.append_column("later", [["x"]]), None),  # a newer file
        (
            lambda t: t.drop(["ratio"]).append_column("ratio", [["x"]]),
            "its column ratio is of type string",
        ),
        (
            lambda t: t.drop(["reason"]).append_column(
                "reason", pa.array(["x"], pa.large_string())
            ),
            None,
        ),
    ],
)
def test_columns_must_be_of_the_types_of_the_schema(file, change, reason):
    store, path, table = file
    pq.write_table(change(table), store.folder.local / path)
    assert damage(store, path) == reason


@pytest.mark.parametrize(
    ("have", "wanted", "alike"),
    [
        (pa.int64(), pa.int64(), True),
        (pa.int32(), pa.int64(), False),
        (pa.large_string(), pa.string(), True),
        (pa.large_string(), pa.int64(), False),
        (pa.int64(), pa.string(), False),
        (INTS, INTS, True),
        (pa.list_(pa.string()), INTS, False),
        (pa.int64(), INTS, False),
        (INTS, pa.int64(), False),
        (pa.struct({"a": pa.int64()}), pa.struct({"a": pa.int64()}), True),
        (pa.struct({"a": pa.string()}), pa.struct({"a": pa.int64()}), False),
        (
            pa.struct({"a": pa.string(), "b": pa.int64()}),
            pa.struct({"a": pa.int64(), "b": pa.int64()}),
            False,
        ),
        (
            pa.struct({"b": pa.int64()}),
            pa.struct({"a": pa.int64(), "b": pa.int64()}),
            True,  # an older file
        ),
        (pa.int64(), pa.struct({"a": pa.int64()}), False),
        (
            pa.list_(pa.struct({"a": pa.large_string()})),
            pa.list_(pa.struct({"a": pa.string()})),
            True,
        ),
    ],
)
def test_types_are_compared_part_by_part(have, wanted, alike):
    assert _alike(have, wanted) is alike


def bucket(*answers: bytes):
    """A store in a bucket that answers a read with these bytes, one after the other."""
    left = iter(answers)
    return SimpleNamespace(
        folder=SimpleNamespace(local=None, read=lambda path: next(left))
    )


def test_bytes_that_changed_on_the_way_from_a_bucket_are_not_damage():
    assert damage(bucket(b"nonsense", b"other"), "trials/a.parquet") is None
    assert damage(bucket(b"nonsense", b"nonsense"), "trials/a.parquet")


def test_duckdb_is_asked_of_files_on_a_disk_only(file, monkeypatch):
    store, path, _ = file
    content = (store.folder.local / path).read_bytes()
    assert _refused(content) is None
    assert "\n" not in _refused(b"PAR1" + 100 * b"x" + b"PAR1")
    monkeypatch.setattr(module, "_refused", lambda content: "no")
    assert damage(store, path) == "no"
    assert damage(bucket(content, content), path) is None  # Arrow reads a bucket
