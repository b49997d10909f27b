"""Labels are readable and tell apart what differs."""

import json

from hypothesis import given
from hypothesis import strategies as st

from results.text.labels import label, method_label

NAMES = st.text("abcd", min_size=1, max_size=3)
VALUES = st.one_of(st.integers(), st.booleans(), st.none(), st.lists(st.integers()))
OPTIONS = st.dictionaries(
    NAMES, st.one_of(VALUES, st.dictionaries(NAMES, VALUES, min_size=1)), max_size=4
)


def test_nested_options_are_named_by_their_path_without_a_hash():
    options = {"train": {"epochs": 4, "schedule": {"steps": [1, 2]}}, "floor": 0.2}

    assert (
        label("exit", json.dumps(options))
        == "exit train.epochs=4 train.schedule.steps=[1,2] floor=0.2"
    )
    assert label("exit", '{"train":{}}') == "exit train={}"
    # A mapping in a list has no path; its keys stand in one order.
    expected = 'exit cuts=[{"at":1,"keep":2}]'
    for cut in ({"at": 1, "keep": 2}, {"keep": 2, "at": 1}):
        assert label("exit", json.dumps({"cuts": [cut]})) == expected


@given(OPTIONS, OPTIONS)
def test_labels_are_equal_only_for_equal_options(one, other):
    names = [label("m", json.dumps(given, sort_keys=True)) for given in (one, other)]

    # As JSON: Python takes True for 1.
    same = len({json.dumps(given, sort_keys=True) for given in (one, other)}) == 1
    assert (names[0] == names[1]) == same


def test_a_method_is_told_apart_by_calibration_and_type():
    row = {"method": "svd", "method_options": "{}", "dtype": "float32"}

    assert method_label({**row, "calibration": None}) == "svd"
    assert (
        method_label({**row, "calibration": '{"samples":16}', "dtype": "bfloat16"})
        == "svd samples=16 bfloat16"
    )
