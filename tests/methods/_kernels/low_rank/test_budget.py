"""One budget for several groups, on offers whose best ranks are worked out by hand."""

import pytest
import torch

from harness.core import Unsupported
from methods._kernels.low_rank.budget import Offer, _fill, allocate, offer


def offered(size: int, *points: tuple[float, float]) -> Offer:
    """An offer of (cost, error) at rank 1, 2 ..."""
    cost, error = (
        torch.tensor([p[i] for p in points], dtype=torch.float64) for i in (0, 1)
    )
    return Offer("group", size, cost, error)


def test_ranks_that_store_less_than_the_matrix_are_offered_with_their_tails():
    # A 3 x 4 matrix stores 7 weights a rank: only rank 1 is below 12. Of the energies
    # 9, 4, 1 rank 1 leaves 4 + 1.
    energy = torch.tensor([9.0, 4.0, 1.0])
    found = offer("a", (3, 4), energy, lambda out, inner, rank: rank * (out + inner))
    assert (found.size, found.cost.tolist(), found.error.tolist()) == (12, [7], [5])

    cheap = offer("a", (3, 4), energy, lambda out, inner, rank: 3 * rank + 3)
    # 6, 9 and 12: a rank that costs as much as the matrix is not offered.
    assert (cheap.cost.tolist(), cheap.error.tolist()) == ([6, 9], [5, 1])
    assert cheap.cost.dtype == cheap.error.dtype == torch.float64


def test_energy_below_rounding_is_worth_no_rank():
    energy = torch.tensor([1.0, 1e-13, 1e-15], dtype=torch.float64)
    found = offer("a", (9, 9), energy, lambda out, inner, rank: rank)
    assert found.error.tolist() == [1e-13, 0, 0]


def test_a_group_stays_dense_where_its_weights_buy_most():
    # Dense in 6 weights the first saves 10, in 4 weights nothing. The second has 4 of
    # the 10 weights left: rank 2.
    first = offered(6, (4, 10.0))
    second = offered(8, (2, 1.0), (4, 0.9))

    assert allocate([first, second], 10) == [None, 2]
    assert allocate([first, second], 9) == [None, 1]  # one weight is not a rank
    assert allocate([first, second], 14) == [None, None]
    # 7 weights: no room for the 6 of the first beside rank 1 of the second.
    assert allocate([first, second], 7) == [1, 1]


def test_what_is_left_goes_to_the_largest_gain_per_weight():
    # Prices of a rank: 2 weights for 3 and 1 weight for 2. The price at which both
    # take it is over the budget of 8, so that the better of the two gets it.
    first = offered(100, (3, 9.0), (5, 6.0))
    second = offered(100, (4, 9.0), (5, 7.0))

    assert allocate([first, second], 7) == [1, 1]
    assert allocate([first, second], 8) == [1, 2]
    assert allocate([first, second], 9) == [1, 2]
    assert allocate([first, second], 10) == [2, 2]


def test_a_budget_below_rank_one_everywhere_says_how_much_can_go():
    offers = [offered(20, (3, 1.0)), offered(20, (5, 1.0))]
    assert allocate(offers, 8) == [1, 1]
    with pytest.raises(Unsupported, match=r"leaves 7 weights.* 8: 0\.800 at most"):
        allocate(offers, 7)
    # A group without any offer takes its whole size.
    empty = offered(20)
    assert allocate([empty], 20) == [None]
    with pytest.raises(Unsupported, match=r"takes 20: 0\.000 at most"):
        allocate([empty], 19)


def test_a_rank_is_bought_by_its_gain_per_weight_not_by_its_gain():
    # 3 for 2 weights and 2 for 1: the second is the better buy, and one weight is left.
    first = offered(100, (3, 9.0), (5, 6.0))
    second = offered(100, (4, 9.0), (5, 7.0))

    assert _fill([first, second], [1, 1], 9) == [1, 2]
    assert _fill([first, second], [1, None], 110) == [2, None]
    assert _fill([first, second], [2, 2], 99) == [2, 2]  # no further rank is offered


def test_what_counts_as_rounding_does_not_depend_on_the_unit():
    energy = torch.tensor([1.0, 1e-13, 1e-15], dtype=torch.float64)
    for scale in (1e-20, 1e20):
        found = offer("a", (9, 9), scale * energy, lambda out, inner, rank: rank)
        assert found.error.tolist() == pytest.approx([1e-13 * scale, 0, 0], rel=1e-9)
