"""The search for thresholds, against all pairs of them and by hand."""

import itertools

import pytest
import torch
from torch import nn

from methods._kernels.early_exit.network import Costs
from methods._kernels.early_exit.thresholds import (
    Validation,
    coordinate_search,
    refined,
    released_search,
    simulate,
    thresholds_of,
)


@pytest.mark.parametrize("search", [coordinate_search, released_search])
def test_a_search_finds_the_exit_that_is_always_right(search):
    # Exit 1 knows everything, exit 2 and the network only the class 0.
    labels = torch.tensor([0, 1, 1, 0])
    sure = nn.functional.one_hot(labels, 2) * 20.0
    blind = torch.tensor([[20.0, 0.0]]).expand(4, 2)
    costs = Costs([10, 50, 40], [1, 1])
    found = search(Validation("confidence", [sure, blind, blind], labels, costs))
    best = max(found, key=lambda c: (c.accuracy, c.saved))
    # Up to 1 at every exit, where every sample leaves at the first.
    assert (1.0, 1.0) in [c.thresholds for c in found]
    assert best.accuracy == 1
    assert best.saved == pytest.approx(1 - 11 / 100)


def random_problem(seed, exits=2, samples=60, classes=4):
    """Logits that become better from exit to exit."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (samples,), generator=rng)
    right = nn.functional.one_hot(labels, classes).double()
    logits = [
        2.0 * (1 + place) * right
        + 2.0 * torch.randn(samples, classes, generator=rng, dtype=torch.float64)
        for place in range(exits + 1)
    ]
    return logits, labels, Costs([30, 30, 40][: exits + 1], [1] * exits)


@pytest.mark.parametrize(
    "rule", ["exclusion", "softmax_exclusion", "confidence", "entropy"]
)
def test_the_coordinate_search_comes_close_to_all_pairs_of_thresholds(rule):
    # Second implementation: every pair of the thresholds that the search may take.
    for seed in range(3):
        logits, labels, costs = random_problem(seed)
        every = [
            simulate(rule, logits, labels, costs, pair)
            for pair in itertools.product(thresholds_of(rule), repeat=2)
        ]
        seen = Validation(rule, logits, labels, costs)
        found = coordinate_search(seen)
        assert len(found) < len(every)
        for ratio in (0.05, 0.2, 0.4, 0.6):
            best = max(c.accuracy for c in every if c.saved >= ratio)
            start = max(
                (c for c in found if c.saved >= ratio), key=lambda c: c.accuracy
            )
            ours = refined(seen, start, ratio)
            assert ours.saved >= ratio
            assert start.accuracy <= ours.accuracy
            assert ours.accuracy >= best - 0.034  # two of sixty samples


def test_logistic_heads_that_are_nearly_sure_of_several_classes_have_a_curve():
    # The second class has 0.9 of the probability of the first one for half of the
    # samples, 0.97 for the others: a threshold in between lets half of them leave.
    best = torch.full((40, 1), 0.99, dtype=torch.float64)
    second = torch.cat([0.9 * best[:20], 0.97 * best[20:]])
    early = torch.logit(torch.cat([best, second], 1))
    labels = torch.zeros(40).long()
    costs = Costs([10, 90], [0])

    found = coordinate_search(Validation("exclusion", [early, early], labels, costs))

    saved = {round(c.saved, 3) for c in found}
    assert {0.0, 0.45, 0.9} <= saved


def test_an_exit_that_knows_nothing_is_switched_off():
    logits, labels, costs = random_problem(0)
    logits[0] = torch.zeros_like(logits[0])
    logits[0][:, 0] = 9.0  # sure, and mostly wrong

    found = coordinate_search(Validation("confidence", logits, labels, costs))

    best = max((c for c in found if c.saved >= 0.1), key=lambda c: c.accuracy)
    assert best.thresholds[0] == 0


def test_the_released_search_by_hand():
    # One exit. With threshold t those leave whose best of two classes has a probability
    # above 1 - t / 2. The first three that leave are right, the fourth is wrong.
    leaves_at = [0.015, 0.025, 0.035, 0.045]
    chances = torch.tensor([1 - t / 2 for t in leaves_at], dtype=torch.float64)
    odds = torch.logit(chances)
    early = torch.stack([odds, torch.zeros(4)], 1)
    final = torch.tensor([[9.0, 0.0]]).repeat(4, 1).double()
    final[3] = torch.tensor([0.0, 9.0])
    labels = torch.tensor([0, 0, 0, 1])
    costs = Costs([10, 90], [0])

    # Without exits all four are right. Without a tolerance nothing is above the goal,
    # which accuracy has to exceed: the threshold stays at the smallest.
    found = released_search(Validation("confidence", [early, final], labels, costs))
    by_tolerance = [c.thresholds for c in found[-6:]]
    assert by_tolerance == [(0.01,), (0.04,), (0.04,), (0.04,), (0.04,), (0.99,)]


def test_an_excluded_class_is_not_the_answer_of_the_network_either():
    # At exit 1 class 2 is below half of 0.8 and leaves; the other two stay, so that
    # the sample goes on. The network would answer 2, and of what is left answers 1.
    early = torch.logit(torch.tensor([[0.8, 0.5, 0.3]]))
    last = torch.tensor([[1.0, 2.0, 9.0]])
    costs = Costs([10, 10], [1])

    for label, accuracy in ((1, 1.0), (2, 0.0)):
        labels = torch.tensor([label])
        found = simulate("exclusion", [early, last], labels, costs, (0.5,))
        assert found.accuracy == accuracy
        assert found.saved == pytest.approx(1 - 21 / 20)


@pytest.mark.parametrize(("rule", "count"), [("confidence", 26), ("exclusion", 37)])
def test_thresholds_are_tried_in_order_from_nobody_to_everybody(rule, count):
    found = thresholds_of(rule)
    assert list(found) == sorted(found)
    assert (found[0], found[-1], len(set(found))) == (0, 1, count)
