"""Trials are found by the beginning of their ids."""

import pytest
from synthetic import row

from results.errors import StoreError
from results.queries.trial_ids import find


@pytest.fixture
def some(empty):
    for trial in ("abc", "abcd", "b0", "c1", "c2", "c3", "c4", "c5", "d", "d"):
        empty.append(row(trial))
    return empty


@pytest.mark.parametrize(
    ("beginning", "trial"), [("b", "b0"), ("b0", "b0"), ("abc", "abc"), ("d", "d")]
)
def test_a_beginning_of_one_trial_or_a_whole_id_is_enough(some, beginning, trial):
    assert find(some, beginning) == trial


def test_of_several_trials_five_are_listed(some):
    with pytest.raises(StoreError, match=r": abc, abcd; write more of the id"):
        find(some, "ab")
    with pytest.raises(StoreError, match=r": c1, c2, c3, c4, c5; write"):
        find(some, "c")
    some.append(row("c6"))
    with pytest.raises(StoreError, match=r": c1, c2, c3, c4, c5 \.\.\.; write"):
        find(some, "c")


def test_no_trial_is_an_error_that_says_how_to_list_them(some):
    with pytest.raises(StoreError, match=r"begins with 'x'; `shrinkgrid sql"):
        find(some, "x")
