"""`merge`, as a user types it."""

import pytest
from synthetic import row

from harness.cli import _status
from results.queries.db import ask
from results.storage.store import open_store


@pytest.fixture
def two(tmp_path, monkeypatch):
    """Stores `one` and `two` in the current folder, which share one attempt."""
    monkeypatch.chdir(tmp_path)
    for name, trials in {"one": "ab", "two": "bc"}.items():
        store = open_store(name, create=True)
        for trial in trials:
            store.append(row(trial))


def test_merge_says_what_it_copied(two, tmp_path, capsys):
    assert _status(["merge", "one", "two", "--into", "all"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{tmp_path}/one: 2 attempts, 0 plans, 0 logs copied",
        f"{tmp_path}/two: 1 attempt, 0 plans, 0 logs copied; 1 was there already",
    ]
    rows = ask(open_store("all"), "SELECT trial FROM newest ORDER BY 1").rows
    assert rows == [("a",), ("b",), ("c",)]


def test_a_missing_store_is_named_before_any_other_is_made(two, tmp_path, capsys):
    assert _status(["merge", "one", "tow", "--into", "all"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: no store at tow: name the folder or URI of each")
    assert "--store" not in said  # which this command does not have
    assert not (tmp_path / "all").exists()
