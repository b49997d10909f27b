"""Rows of a leaderboard of which fewer are shown: chosen by name, sorted."""

import json

import pytest
from synthetic import row

from results.boards import leaderboard, narrowing
from results.errors import StoreError
from results.text.answer import Answer


def test_two_choices_that_exist_and_do_not_meet_are_said_so(empty):
    for model, task in (("one", "here"), ("two", "there")):
        made = row(f"{model}-{task}", model=model, task=task)
        made["measurements"] = [{"metric": "accuracy", "value": 0.5, "goal": "max"}]
        empty.append(made)

    with pytest.raises(StoreError, match="fits all of these options"):
        leaderboard.read(empty, model=["one"], task=["there"])
    with pytest.raises(StoreError, match=r"no model in .* called 'three'"):
        leaderboard.read(empty, model=["three"])


def test_a_task_is_chosen_with_its_options_where_its_name_is_not_enough(empty):
    for limit in (8, 32):
        options = json.dumps({"limit": limit})
        empty.append(row(f"of-{limit}", task_options=options, protocol=f"p{limit}"))

    with pytest.raises(StoreError, match="tasks fit: 'digits limit=32', 'digits lim"):
        leaderboard.one_board(empty, task=["digits"])
    (found,) = leaderboard.one_board(empty, task=["digits limit=8"])
    assert found["protocol"] == "p8"
    assert len(leaderboard.read(empty, task=["digits"]).rows) == 2


def test_a_metric_is_no_column_to_sort_by(stored):
    rows = leaderboard.read(stored)
    with pytest.raises(StoreError, match="'ppl'; metrics are in the column mean"):
        narrowing.sorted_by(rows, "ppl")
    with pytest.raises(StoreError, match="Did you mean 'recovery'"):
        narrowing.sorted_by(rows, "recovry")


def _answer(*rows):
    columns = ("method", "ratio", "place", "mean")
    types = ("VARCHAR", "DOUBLE", "BIGINT", "DOUBLE")
    return Answer(columns=columns, types=types, rows=list(rows))


DENSE = ("dense", 0.0, 1, 9.0)
A, B = ("a", 0.2, 1, 8.0), ("b", 0.2, 2, 7.0)
FAR = ("a", 0.5, 1, None)


def test_ratios_and_ranks_are_kept_and_the_dense_model_always():
    rows = _answer(DENSE, A, B, FAR)
    assert narrowing.narrowed(rows).rows == [DENSE, A, B, FAR]
    assert narrowing.narrowed(rows, ratios=[0.1 + 0.1]).rows == [DENSE, A, B]
    assert narrowing.narrowed(rows, ratios=[0.2], top=1).rows == [DENSE, A]
    assert narrowing.narrowed(rows, top=1).rows == [DENSE, A, FAR]
    assert narrowing.narrowed(rows, ratios=[0.2, 0.5], top=2).rows == rows.rows
    with pytest.raises(StoreError, match=r"no row has the ratio 0\.3; there are 0, 0"):
        narrowing.narrowed(rows, ratios=[0.2, 0.3])


def test_an_order_has_the_dense_model_first_and_unknown_values_last():
    rows = _answer(FAR, A, DENSE, B)
    assert narrowing.sorted_by(rows, "mean").rows == [DENSE, B, A, FAR]
    assert narrowing.sorted_by(rows, "-mean").rows == [DENSE, A, B, FAR]


def test_methods_are_chosen_among_the_rows():
    rows = _answer(DENSE, A, B, FAR)
    assert narrowing.of_methods(rows, []).rows == rows.rows
    assert narrowing.of_methods(rows, ["a"]).rows == [A, FAR]
    with pytest.raises(StoreError, match="no method among these rows called 'c'"):
        narrowing.of_methods(rows, ["a", "c"])


def test_rows_of_a_grid_are_those_of_its_plans(empty):
    keys = ("trial", "method", "method_options", "model", "task", "ratio", "seed")
    for trial, method in (("a", "svd"), ("b", "magnitude")):
        made = row(trial, method=method)
        empty.append(made)
        plan = {
            "plan": trial,
            "grid": f"grid-{trial}",
            "planned_at": made["started_at"],
        }
        empty.record_plan([plan | {key: made[key] for key in keys}])
    rows = leaderboard.read(empty)

    found = narrowing.of_grid(empty, rows, "grid-b")

    assert [one["method"] for one in found.dicts()] == ["magnitude"]
    with pytest.raises(StoreError, match="no grid called 'grid-c'"):
        narrowing.of_grid(empty, rows, "grid-c")


def test_ratios_that_there_are_are_listed_from_the_smallest():
    rows = _answer(*(("a", ratio, 1, 1.0) for ratio in (0.5, 0.2, 0.4, 0.1, 0.7, 0.3)))
    with pytest.raises(
        StoreError, match=r"there are 0\.1, 0\.2, 0\.3, 0\.4, 0\.5, 0\.7"
    ):
        narrowing.narrowed(rows, ratios=[0.6])
