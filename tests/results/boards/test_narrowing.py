"""Rows of a leaderboard of which fewer are shown: chosen by name, sorted."""

import json

import pytest
from synthetic import row

from results.boards import leaderboard, narrowing
from results.errors import StoreError


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
