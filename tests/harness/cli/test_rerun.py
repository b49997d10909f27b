"""`rerun` runs a finished trial again, and says whether its numbers are the same."""

import pytest

from harness.cli import _status, rerun
from results.queries.db import ask
from results.storage.store import open_store


@pytest.fixture
def grid(toy_grid):
    return toy_grid(methods=["dense", "toy_drop"], ratios=[0.25, 0.5])


@pytest.fixture
def type_(grid, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SHRINKGRID_STORE", str(tmp_path / "store"))

    def types(*words):
        capsys.readouterr()
        status = _status([str(word) for word in words])
        return status, *capsys.readouterr()

    types("run", grid, "--address", "inline", "--quiet")
    return types


def _rows(tmp_path, query):
    return ask(open_store(tmp_path / "store"), query).rows


def test_equal_numbers_are_told_and_the_new_attempt_counts(type_, grid, tmp_path):
    ((trial, first),) = _rows(
        tmp_path, "SELECT trial, attempt FROM newest WHERE ratio = 0.5"
    )

    words = ("rerun", trial[:6], "--grid", grid, "--address", "inline")
    status, out, _ = type_(*words)

    assert status == 0
    assert f"trial {trial}: ok before, ok now" in out
    assert "both times" in out
    query = f"SELECT attempt FROM {{}} WHERE trial = '{trial}' ORDER BY started_at"
    attempts = [a for (a,) in _rows(tmp_path, query.format("trials"))]
    assert len(attempts) == 2
    assert attempts[0] == first
    assert _rows(tmp_path, query.format("newest")) == [(attempts[1],)]
    assert len(_rows(tmp_path, "FROM trials")) == 4  # no other trial ran


def test_the_grid_is_looked_for_in_the_folder(type_, grid, tmp_path, monkeypatch):
    ((trial, name),) = _rows(
        tmp_path, "SELECT trial, grid FROM newest WHERE ratio = 0.5"
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    status, _, err = type_("rerun", trial, "--address", "inline")
    (tmp_path / "elsewhere" / f"{name}.yaml").write_text(grid.read_text())
    again, _, _ = type_("rerun", trial, "--address", "inline")

    assert status == 2
    assert "name the file with --grid" in err
    assert again == 0


def test_a_number_that_differs_is_shown_with_its_error():
    page = {"trial": "t", "status": "ok"}
    one = {"metric": "accuracy", "value": 0.5, "stderr": 0.1}
    gone = {"metric": "loss", "value": 2.0, "stderr": None}
    before = page | {"metrics": [one, gone]}
    after = page | {"metrics": [one | {"value": 0.75}]}

    lines = list(rerun._compared(before, after))

    assert lines[1:] == [
        ("  accuracy  0.5 before, 0.75 now (+0.25, 2.5 standard errors)", False),
        ("  loss  2 before, not measured again", False),
    ]
