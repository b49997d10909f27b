"""A run that ends finds every row that it stored, or says how many are missing."""

from pathlib import Path

import pytest

from harness.running.recovery import check_stored
from results.errors import StoreError
from results.queries.compaction import compact
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
