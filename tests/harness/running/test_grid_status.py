"""The status of a grid whose models or data are not on this machine."""

import pytest
from synthetic import NOON, row

from harness.cli import main
from harness.core import BenchError
from harness.running.grid_status import grid_status
from results.storage.store import open_store

GRID = """
name: mine
models: [no/such-model]
methods: [dense, svd]
ratios: [0.1]
tasks: [pydoc-512]
"""


@pytest.fixture
def empty(tmp_path):
    return open_store(tmp_path / "store", create=True)


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GRID)
    return path


def _ran(store, grid="mine"):
    """Two trials of the grid were planned on another machine, and one has ended."""
    keys = ("method", "method_options", "model", "task", "task_options", "ratio")
    usual = {key: row("x")[key] for key in keys} | {"seed": 0}
    plan = {"plan": "p", "planned_at": NOON, "grid": grid}
    store.record_plan([plan | usual | {"trial": one} for one in ("a", "b")])
    store.append(row("a"))


def test_the_store_knows_what_this_machine_cannot_plan(empty, grid, capsys):
    _ran(empty)
    found = grid_status(str(grid), empty)
    assert (found.counts["done"], found.counts["missing"]) == (1, 1)
    (why,) = found.unseen
    assert "no/such-model" in why

    with pytest.raises(SystemExit):
        main(["status", str(grid), "--store", empty.uri])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("mine: 1 done, 0 running, 0 failed, 1 missing")
    assert "this machine lacks 1 input of the grid" in said[1]


def test_the_store_knows_a_packaged_grid_whose_images_are_missing(empty, monkeypatch):
    _ran(empty, "mnist_exits")
    monkeypatch.setattr("tasks._images.hub._builder", _nothing)
    found = grid_status("mnist_exits", empty)
    assert (found.counts["done"], found.counts["missing"]) == (1, 1)
    assert found.unseen == ("no data set here",)


def _nothing(*_):
    raise BenchError("no data set here")


def test_without_a_plan_what_is_missing_is_an_error(empty, grid):
    with pytest.raises(BenchError, match="no/such-model"):
        grid_status(str(grid), empty)
