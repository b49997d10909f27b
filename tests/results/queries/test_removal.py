"""What is removed is gone with its samples and logs; every other row stays."""

import os
from dataclasses import replace

import duckdb
import pyarrow.parquet as pq
import pytest
from synthetic import NOON, row

from results.errors import StoreError
from results.queries import compaction, removal
from results.queries.compaction import compact
from results.queries.db import ask
from results.storage import logs
from results.storage.store import Store

TABLES = ("trials", "samples", "layers", "plans")


def _fill(store: Store) -> None:
    for grid, trials in (("one", "abc"), ("two", "cd")):
        planned = [
            {"plan": f"plan-{grid}", "planned_at": NOON, "grid": grid, "trial": t}
            for t in trials
        ]
        store.record_plan(planned)
    for minute, trial in enumerate("aabcd"):
        made = row(trial, minute=minute, bundle=f"bundle{trial}")
        samples = [{"metric": "accuracy", "values": [1.0]}]
        store.append(made, samples, [{"layer": "fc", "params": 2.0}])
        logs.write(store, f"bundle{trial}", f"run-{made['attempt']}", "printed\n")


def _rows(store: Store) -> dict[str, list[tuple]]:
    return {
        table: sorted(ask(store, f"FROM stored.{table}").rows, key=repr)
        for table in TABLES
    }


def _trials(store: Store, table: str = "trials") -> list[str]:
    return [t for (t,) in ask(store, f"SELECT trial FROM {table} ORDER BY 1").rows]


@pytest.mark.parametrize("compacted", [False, True])
def test_all_attempts_go_with_samples_and_logs_and_nothing_else(empty, compacted):
    _fill(empty)
    if compacted:
        compact(empty)
    before = _rows(empty)

    removal.remove(empty, {"a", "c"})

    after = _rows(empty)
    assert _trials(empty) == ["b", "d"]
    assert after["plans"] == before["plans"]
    for table in ("trials", "samples", "layers"):
        assert all(one in before[table] for one in after[table])
        assert len(after[table]) == 2
    assert {name.partition("-")[0] for name in logs.names(empty)} == {
        "bundleb",
        "bundled",
    }


def test_a_grid_goes_without_the_trials_of_other_grids(empty):
    _fill(empty)

    own, shared = removal.trials_of(empty, "one")
    removal.remove(empty, own, "one")

    assert (own, shared) == ({"a", "b"}, {"c"})
    assert _trials(empty) == ["c", "d"]
    assert _trials(empty, "plans") == ["c", "d"]


def test_a_store_from_which_everything_went_can_be_used_again(empty):
    _fill(empty)
    removal.remove(empty, set("abcd"))

    assert _trials(empty) == []
    empty.append(row("e"))
    assert _trials(empty) == ["e"]
    compact(empty)
    assert _trials(empty) == ["e"]


def test_nothing_of_the_kind_changes_no_file(empty):
    _fill(empty)
    before = {table: empty.files(table) for table in TABLES}

    removal.remove(empty, {"other"})

    assert {table: empty.files(table) for table in TABLES} == before


def test_a_removal_that_is_killed_before_its_commit_removes_nothing(empty, monkeypatch):
    _fill(empty)
    before = _rows(empty)

    def killed(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(compaction, "publish", killed)
    with pytest.raises(KeyboardInterrupt):
        removal.remove(empty, {"a"})
    monkeypatch.undo()

    assert _rows(empty) == before
    removal.remove(empty, {"a"})
    assert _trials(empty) == ["b", "c", "d"]
    assert not [n for n in os.listdir(empty.folder.local / "scratch") if "parq" in n]


def test_a_removal_that_is_killed_after_its_commit_is_finished_later(
    empty, monkeypatch
):
    _fill(empty)

    def killed(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(compaction, "delete_folded", killed)
    with pytest.raises(KeyboardInterrupt):
        removal.remove(empty, {"a"})
    monkeypatch.undo()

    assert _trials(empty) == ["b", "c", "d"]
    compact(empty)
    assert _trials(empty) == ["b", "c", "d"]


def test_a_removal_that_is_killed_between_trials_and_samples_goes_on(
    empty, monkeypatch
):
    _fill(empty)
    rewrite = removal._rewrite

    def killed(store, table, *given):
        if table == "samples":
            raise KeyboardInterrupt
        rewrite(store, table, *given)

    monkeypatch.setattr(removal, "_rewrite", killed)
    with pytest.raises(KeyboardInterrupt):
        removal.remove(empty, {"a"})
    monkeypatch.undo()
    orphans = "SELECT count(*) FROM samples ANTI JOIN trials USING (attempt)"
    assert ask(empty, orphans).rows[0][0] > 0

    removal.remove(empty, {"a"})

    assert ask(empty, orphans).rows == [(0,)]
    assert _trials(empty) == ["b", "c", "d"]


def test_two_do_not_change_a_store_at_once(empty):
    _fill(empty)

    with (
        compaction.alone(empty),
        pytest.raises(StoreError, match="another compaction"),
    ):
        removal.remove(empty, {"a"})


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (duckdb.IOException("no luck"), "cannot be changed: no luck"),
        (OSError(28, "No space left on device"), "cannot grow"),
    ],
)
def test_a_store_that_cannot_be_changed_is_one_message(empty, monkeypatch, error, said):
    _fill(empty)

    def fails(*_):
        raise error

    monkeypatch.setattr(removal, "_copy", fails)
    with pytest.raises(StoreError, match=said):
        removal.remove(empty, {"a"})


def test_rows_are_removed_from_files_of_other_columns_too(empty):
    _fill(empty)
    path = empty.folder.local / empty.files("trials")[0]
    table = pq.read_table(path).drop_columns(["node", "threads"])
    pq.write_table(table.replace_schema_metadata(None), path)
    store = replace(empty, mixed=True)

    removal.remove(store, {"b"})
    assert _trials(store) == ["a", "a", "c", "d"]
    removal.remove(store, {"a"})
    assert _trials(store) == ["c", "d"]


def test_files_that_lack_rows_are_never_put_in_place_of_others(empty, monkeypatch):
    _fill(empty)
    copy = removal._copy

    def loses(connection, store, paths, column, to):
        connection.execute("INSERT INTO gone VALUES ('b')")
        copy(connection, store, paths, column, to)
        connection.execute("DELETE FROM gone WHERE id = 'b'")

    compact(empty)  # one file has all rows
    monkeypatch.setattr(removal, "_copy", loses)
    with pytest.raises(StoreError, match="4 rows stay, and 3 were written"):
        removal.remove(empty, {"c"})
    assert _trials(empty) == ["a", "a", "b", "c", "d"]
