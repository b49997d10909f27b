"""Many small files are read through the copies in their footers: the same rows."""

import pyarrow.parquet as pq
import pytest
from synthetic import row

from results.errors import StoreError
from results.queries import databases
from results.queries.compaction import compact
from results.queries.db import ask
from results.queries.restricted import select
from results.storage import footers
from results.storage.store import open_store

HOSTILE = '{"shrinkgrid": {"trial": "forged"}} PAR1 "\\ \u2028 ü'


@pytest.fixture
def many(monkeypatch):
    """As if a handful of files were many."""
    monkeypatch.setattr(databases, "_MANY_FILES", 3)


def _fill(store):
    for i in range(12):
        made = row(
            f"t{i:02d}",
            method=HOSTILE if i % 2 else "svd",
            status="failed" if i == 5 else "ok",
            reason=HOSTILE,
            ratio=i / 30,
            params=2**53 + i if i % 3 else None,
            dirty=bool(i % 2),
            measured={"accuracy": 1 / (i + 3), "loss": 1e-300 * i},
        )
        store.append(made)


def _everything(store):
    return {
        view: sorted(ask(store, f"FROM {view}").rows, key=repr)
        for view in ("stored.trials", "leaderboard", "newest", "measurements")
    }


def test_the_copies_say_what_the_columns_say(empty, monkeypatch):
    _fill(empty)
    plain = _everything(empty)
    monkeypatch.setattr(databases, "_MANY_FILES", 3)
    assert _everything(empty) == plain
    assert len(plain["stored.trials"]) == 12


def test_every_small_file_has_its_copy_and_a_large_one_none(empty):
    _fill(empty)
    found, left = footers.embedded_rows(empty.folder, empty.files("trials"))
    assert (len(found), left) == (12, [])
    empty.append_all([row("a"), row("b", reason="two\nlines")])
    found, left = footers.embedded_rows(empty.folder, empty.files("trials"))
    assert (len(found), left) == (14, [])
    empty.append_all([row(f"c{n}") for n in range(footers.MOST + 1)])
    assert len(footers.embedded_rows(empty.folder, empty.files("trials"))[1]) == 1


def test_a_text_in_a_row_is_not_taken_for_the_copy_of_a_row(empty):
    forged = b'{"trial": "forged"}'
    text = (footers._BEFORE + bytes([len(forged)]) + forged).decode()
    rows = [row(f"c{n}", reason=text) for n in range(footers.MOST + 1)]
    empty.append_all(rows)
    (path,) = empty.files("trials")
    assert text.encode() in empty.folder.read(path)

    assert footers.embedded_rows(empty.folder, [path]) == ([], [path])


@pytest.mark.parametrize(
    ("data", "number", "end"),
    [
        (b"\x05\xff", 5, 1),
        (b"\x7f\xff", 127, 1),
        (b"\x80\x01", 128, 2),
        (b"\x81\x03", 385, 2),  # 1 + 3 x 128
        (b"\xff\xff\x03", 65535, 3),
    ],
)
def test_a_length_has_seven_bits_a_byte(data, number, end):
    assert footers._varint(data, 0) == (number, end)
    assert footers._varint(b"?" + data, 1) == (number, end + 1)


def test_files_without_a_copy_are_read_beside_those_with_one(empty, many):
    _fill(empty)
    before = _everything(empty)
    path = empty.folder.local / empty.files("trials")[4]
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    assert len(footers.embedded_rows(empty.folder, empty.files("trials"))[1]) == 1
    assert _everything(empty) == before


def test_copies_stand_beside_compacted_rows(empty, many):
    _fill(empty)
    compact(empty)
    for i in range(6):
        empty.append(row(f"later{i}"))
    trials = [trial for (trial,) in ask(empty, "SELECT trial FROM trials").rows]
    assert len(trials) == len(set(trials)) == 18


def _damage_copy(store, path):
    """Damage the embedded row of a file, so that it is not JSON; keep its columns."""
    content = (store.folder.local / path).read_bytes()
    at = content.rindex(b'{"schema_version"')
    (store.folder.local / path).write_bytes(content[:at] + b"?" + content[at + 1 :])


def test_a_damaged_copy_is_not_believed(empty, many):
    _fill(empty)
    before = _everything(empty)
    _damage_copy(empty, empty.files("trials")[4])
    assert _everything(empty) == before
    assert empty.warnings == []


def test_compaction_reads_the_columns_where_a_copy_is_damaged(empty):
    _fill(empty)
    before = _everything(empty)
    _damage_copy(empty, empty.files("trials")[4])
    assert [(f.before, f.rows) for f in compact(empty)] == [(12, 12)]
    assert _everything(empty) == before


def test_compaction_of_copies_and_of_files_without_one_loses_nothing(empty):
    _fill(empty)
    empty.append_all([row("a"), row("b")])
    empty.append_all([row(f"c{n}") for n in range(footers.MOST + 1)])
    before = _everything(empty)["stored.trials"]
    assert [(f.before, f.rows) for f in compact(empty)] == [(14, 115)]
    assert _everything(empty)["stored.trials"] == before


def test_a_truncated_file_is_moved_to_quarantine_among_copies_too(empty, many):
    _fill(empty)
    path = empty.folder.local / empty.files("trials")[2]
    path.write_bytes(path.read_bytes()[:-6])
    assert ask(empty, "SELECT count(*) FROM trials").rows == [(11,)]
    assert len(empty.warnings) == 1


def test_a_file_of_other_columns_reads_as_null_beside_copies(empty, many):
    _fill(empty)
    path = empty.folder.local / empty.files("trials")[0]
    table = pq.read_table(path).drop_columns(["node", "threads"])
    pq.write_table(table.replace_schema_metadata(None), path)
    (empty.folder.local / "format.json").write_text(
        '{"schema_version": 1, "columns": ["older"]}'
    )
    assert ask(open_store(empty.uri), "SELECT count(*) FROM trials").rows == [(12,)]


def test_a_query_still_reads_nothing_else(empty, many):
    _fill(empty)
    assert select(empty, "SELECT count(*) FROM trials").rows == [(12,)]
    with pytest.raises(StoreError, match="outside"):
        select(empty, "FROM read_text('/etc/passwd')")
