import pytest
import torch

from harness.core import Unsupported
from methods._kernels.low_rank.trained_ranks import (
    Cut,
    SoftCuts,
    checked_budget,
    rounded_up,
    whole_ranks,
)

# 4 x 12 in weights of one bit each: a rank costs 16, three of them the dense matrix.
SMALL = Cut("small", 4, 48, 16)
LARGE = Cut("large", 10, 100, 20)


def test_every_matrix_begins_at_the_ratio_and_the_penalty_sees_it():
    soft = SoftCuts([SMALL, LARGE], 0.5, 10.0, torch.device("cpu"))

    # 0.5 of 48 is 1.5 ranks of 16, of 4; 0.5 of 100 is 2.5 ranks of 20, of 10.
    assert soft.shares.detach().tolist() == pytest.approx([1.5 / 4, 2.5 / 10])
    assert float(soft.left().detach()) == pytest.approx(0.5)


def test_a_matrix_never_counts_more_than_dense():
    soft = SoftCuts([SMALL, LARGE], 0.5, 10.0, torch.device("cpu"))
    with torch.no_grad():
        soft.shares.copy_(torch.tensor([1.0, 0.1]))

    assert float(soft.left().detach()) == pytest.approx((48 + 20) / 148)


def test_positions_stay_between_the_first_and_one_past_the_last():
    soft = SoftCuts([SMALL, LARGE], 0.5, 10.0, torch.device("cpu"))
    with torch.no_grad():
        soft.shares.copy_(torch.tensor([-3.0, 7.0]))
    soft.clamp()

    assert soft.shares.detach().tolist() == pytest.approx([1 / 4, 11 / 10])


def test_whole_ranks_fill_the_budget_in_the_trained_proportion():
    # 148 - 74 = 74 bits: at the factor 1 ranks (1, 2) take 16 + 40 = 56; from 1.2 on
    # (1, 3) take 76, more than 74.
    shares = torch.tensor([1.5 / 4, 2.5 / 10])

    assert checked_budget([SMALL, LARGE], 0.5) == 74
    assert whole_ranks([SMALL, LARGE], shares, 74) == [1, 2]
    assert whole_ranks([SMALL, LARGE], shares, 76) == [1, 3]


def test_trained_ranks_are_rounded_up():
    assert rounded_up([SMALL, LARGE], torch.tensor([0.3, 0.3])) == [2, 3]
    assert rounded_up([SMALL, LARGE], torch.tensor([-1.0, 2.0])) == [1, 10]


def test_a_ratio_below_rank_one_is_refused_with_what_is_possible():
    # Rank 1 takes 16 + 20 of 148: 0.757 can go.
    with pytest.raises(Unsupported, match=r"0\.757 at most can go"):
        checked_budget([SMALL, LARGE], 0.8)
