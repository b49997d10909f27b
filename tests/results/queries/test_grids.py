"""Queries over one grid of a store."""

import pytest
from synthetic import NOON, row

from results.boards import page_data
from results.errors import StoreError
from results.outcomes import REPEATED
from results.queries import grids
from results.queries.db import ask

PLANNED = ("grid", "trial", "method", "model", "task", "ratio", "seed")


@pytest.fixture
def two_grids(empty):
    """Grids a and b share the trial `both`; `dense` was run by b, on a's model."""
    rows = [
        row("both", grid="b"),
        row("only-a", grid="a", method="magnitude"),
        row("only-b", grid="b", ratio=0.4),
        row("dense", grid="b", method="dense", ratio=0.0),
        row("elsewhere", grid="b", method="dense", ratio=0.0, model="cnn"),
    ]
    empty.append_all(rows)
    plans = {"a": ("both", "only-a"), "b": ("both", "only-b", "dense", "elsewhere")}
    for name, wanted in plans.items():
        chosen = [one | {"grid": name} for one in rows if one["trial"] in wanted]
        empty.record_plan(
            [
                {"plan": f"plan-{name}", "planned_at": NOON}
                | {key: one[key] for key in PLANNED}
                for one in chosen
            ]
        )
    return empty


def _trials(store):
    return {trial for (trial,) in ask(store, "SELECT trial FROM trials").rows}


def test_one_grid_has_its_trials_and_the_dense_ones_of_its_models(two_grids):
    found = grids.only(two_grids, "a")

    assert _trials(found) == {"both", "only-a", "dense"}
    assert grids.names(found) == ["a"]


def test_the_page_of_one_grid_has_nothing_of_another(two_grids):
    page = page_data.everything(grids.only(two_grids, "a"), 100)

    assert [one["grid"] for one in page["overview"]["grids"]] == ["a"]
    assert [board["model"] for board in page["boards"]] == ["mlp"]
    assert "trial/only-b" not in page
    (board,) = page["boards"]
    recovery = board["columns"].index("recovery")
    assert [line[recovery] for line in board["rows"]] == [1.0, 1.0, 1.0]


def test_the_store_itself_still_has_every_trial(two_grids):
    grids.only(two_grids, "a")

    assert len(_trials(two_grids)) == 5


def test_a_grid_that_was_not_run_is_an_error(two_grids):
    with pytest.raises(StoreError, match="no grid called 'c'"):
        grids.only(two_grids, "c")


def test_what_any_run_repeats_is_missing_and_not_failed(empty):
    rows = [
        row(status, grid="a", status=status)
        for status in ("ok", "failed", "lost", "cancelled", "out_of_memory")
    ]
    empty.append_all(rows)
    empty.record_plan(
        [
            {"plan": "p", "planned_at": NOON} | {key: one[key] for key in PLANNED}
            for one in rows
        ]
    )

    (found,) = grids.overview(empty, ["lost"]).dicts()

    names = ("done", "running", "failed", "missing", "unsupported")
    assert [found[name] for name in names] == [1, 1, 2, 1, 0]
    query = "SELECT done, failed, missing FROM completeness"
    assert ask(empty, query).rows == [(1, 2, 2)]
    (page,) = page_data.everything(empty, 10)["overview"]["grids"]
    assert (page["planned"], page["ok"], page["failed"]) == (5, 1, 2)
    assert {"cancelled", "lost"} == REPEATED  # the names in the views
