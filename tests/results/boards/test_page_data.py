"""Requests of the page: totals, coverage, tables of papers, and what has no answer."""

import pytest
from synthetic import NOON, row

from results.boards.page_data import answer, everything


@pytest.fixture
def some(empty):
    for trial, status in (("a", "ok"), ("b", "failed"), ("c", "unsupported")):
        empty.append(row(trial, status=status, grid="g", ratio=0.2))
    plan = {"plan": "p", "planned_at": NOON, "grid": "g", "seed": 0}
    keys = ("method", "method_options", "model", "task", "task_options", "ratio")
    usual = plan | {key: row("x")[key] for key in keys}
    empty.record_plan([usual | {"trial": trial} for trial in "abcd"])
    return empty


def test_totals_count_trials_by_what_became_of_them(some):
    found = answer(some, "overview")

    totals = {key: found["totals"][key] for key in ("trials", "ok", "failed")}
    assert totals == {"trials": 3, "ok": 1, "failed": 1}
    (grid,) = found["grids"]
    counts = ("planned", "ok", "failed", "unsupported")
    assert [grid[key] for key in counts] == [4, 1, 1, 1]
    assert [one["trial"] for one in found["failures"]] == ["b"]


def test_coverage_has_a_row_for_each_setting(some):
    (found,) = answer(some, "coverage")

    assert (found["method"], found["planned"], found["ok"]) == ("svd", 4, 1)
    assert sorted(found["trials"]) == ["a", "b", "c", "d"]
    assert "method_options" not in found


def test_a_request_without_an_answer_is_none(some):
    assert answer(some, "trial/a")["trial"] == "a"
    assert answer(some, "trial/zzz") is None
    assert answer(some, "nothing") is None


def test_a_table_is_shown_once_one_of_its_numbers_is_measured(empty):
    from results.tables.published import names

    assert answer(empty, "papers") == {"tables": {}, "others": names()}
    empty.append(
        row(
            "t",
            model="llama2-7b",
            method="dense",
            ratio=0.0,
            task="wikitext2-2048",
            measured={"perplexity": 5.47},
        )
    )
    found = answer(empty, "papers")
    assert found["tables"]
    assert sorted([*found["tables"], *found["others"]]) == names()
    cells = [
        cell
        for table in found["tables"].values()
        for line in table["rows"]
        for cell in line["cells"]
        if cell["text"] is not None
    ]
    assert {(cell["seeds"], cell["attempts"]) for cell in cells} == {(1, 1)}


def test_failed_trials_are_the_first_to_be_included(some):
    made = everything(some, most_trials=2)

    pages = [key for key in made if key.startswith("trial/")]
    assert pages == ["trial/b", "trial/c"]
    assert {"overview", "boards", "coverage", "papers", "ranks"} <= set(made)
    assert "timeline/g" in made
