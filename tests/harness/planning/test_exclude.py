"""Rules of ``exclude``: what they match, and why one can match nothing."""

import pytest

from harness.planning.exclude import listed, matches, wrong
from harness.planning.trial import PluginSpec, Trial

TRIAL = Trial(
    method=PluginSpec(plugin="toy_drop", name="toy_drop", options="{}"),
    model=PluginSpec(plugin="toy", name="toy", options="{}"),
    task=PluginSpec(plugin="toy_sum", name="toy_sum", options="{}"),
    ratio=0.5,
    seed=1,
)
# A block of two methods: dense has ratio 0 and seed 0 only.
BLOCK = [
    {
        "method": ["toy_drop"],
        "model": ["toy"],
        "task": ["toy_sum"],
        "ratio": [0.25, 0.5],
        "seed": [0, 1],
    },
    {
        "method": ["dense"],
        "model": ["toy"],
        "task": ["toy_sum"],
        "ratio": [0.0],
        "seed": [0],
    },
]


@pytest.mark.parametrize(
    ("rule", "matched"),
    [
        ({"method": "toy_drop"}, True),
        ({"method": "toy_*"}, True),
        ({"method": "drop"}, False),
        ({"method": ["dense", "toy_drop"]}, True),
        ({"method": "toy_drop", "ratio": 0.5, "seed": 1}, True),
        ({"method": "toy_drop", "ratio": 0.25}, False),  # every key must match
        ({"ratio": [0.25, 0.5]}, True),  # one value of several is enough
        ({"ratio": "0.5"}, False),  # a text is not a number
        ({"seed": True}, False),  # Python takes True for 1
        ({"model": "toy", "task": "toy_sum"}, True),
    ],
)
def test_a_rule_matches_a_trial_that_has_one_value_of_every_key(rule, matched):
    assert matches(rule, TRIAL) is matched


def test_one_value_and_a_list_are_the_same_to_a_rule():
    assert listed(0.5) == [0.5]
    assert listed([0.5, 1]) == [0.5, 1]


@pytest.mark.parametrize(
    "rule",
    [
        {"method": "toy_drop", "ratio": 0.25},
        {"method": ["dense", "toy_drop"], "seed": 1},
        {"ratio": 0},
        {"task": "toy*"},
    ],
)
def test_a_rule_that_some_trial_matches_is_right(rule):
    assert wrong([rule], BLOCK) == []


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({}, "a rule without keys drops every trial; give one of method, model, task"),
        ({"task": []}, "task has no value; leave the key out to match every task"),
        ({"seed": None}, "seed has no value; leave the key out to match every seed"),
        ({"seed": [0, None]}, "seed has no value"),
        ({"method": "toy_dorp"}, "Did you mean 'toy_drop'"),
        ({"ratio": 0.3}, "no trial of this block has the ratio 0.3. Known: 0, 0.25, 0"),
        ({"ratio": "0.5"}, "ratio '0.5' is a text; write the number without"),
        ({"seed": True}, "seed True is not a number"),
        ({"method": "dense", "seed": 1}, "its values never occur together"),
    ],
)
def test_a_rule_that_no_trial_matches_is_explained(rule, says):
    (why,) = wrong([rule], BLOCK)
    assert says in why


def test_every_wrong_value_of_every_rule_is_named():
    rules = [{"ratio": [0.3, 0.25, 0.4], "method": "svd"}, {"seed": 0}, {"seed": 7}]

    found = wrong(rules, BLOCK)

    assert [("0.3" in w, "0.4" in w, "svd" in w, "seed 7" in w) for w in found] == [
        (True, False, False, False),
        (False, True, False, False),
        (False, False, True, False),
        (False, False, False, True),
    ]


@pytest.mark.parametrize(("seeds", "end"), [(10, "8, 9"), (11, "8, 9, ...")])
def test_at_most_ten_numbers_of_a_block_are_listed(seeds, end):
    block = [{"seed": list(reversed(range(seeds)))}]

    (why,) = wrong([{"seed": 99}], block)

    assert why == (
        "no trial of this block has the seed 99. Known: 0, 1, 2, 3, 4, 5, 6, 7, " + end
    )
