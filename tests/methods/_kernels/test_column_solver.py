"""The solver of SparseGPT and GPTQ against the least squares that it stands for."""

import pytest
import torch

from harness.core import Unsupported
from methods._kernels.column_solver import bounds, inverse_factor, solve


class Halved:
    """A rule that keeps half of each weight, and records what it is asked."""

    def __init__(self) -> None:
        self.asked = []

    def block(self, first, weights):
        self.asked.append((first, weights.shape[1]))

    def column(self, index, weights):
        self.asked.append((index, weights.shape[1]))
        return weights[:, 0] / 2


def problem(width, tokens=50):
    rng = torch.Generator().manual_seed(width)
    inputs = torch.randn(tokens, width, generator=rng, dtype=torch.float64)
    weight = torch.randn(3, width, generator=rng, dtype=torch.float64)
    return weight, inputs.T @ inputs / tokens


def test_the_factor_is_that_of_the_inverse_of_the_damped_gram_matrix():
    _, gram = problem(6)

    factor, dead = inverse_factor(gram, 0.1, "w")

    damped = gram + 0.1 * gram.diagonal().mean() * torch.eye(6)
    torch.testing.assert_close(factor.T @ factor, torch.linalg.inv(damped))
    assert torch.equal(factor, factor.triu())
    assert not dead.any()


def test_a_dead_channel_counts_as_an_average_one_and_affects_no_other():
    _, gram = problem(5)
    gram[2] = gram[:, 2] = 0
    alive = [0, 1, 3, 4]

    factor, dead = inverse_factor(gram, 0.01, "w")

    assert dead.tolist() == [False, False, True, False, False]
    mean = gram.diagonal()[alive].mean()
    inverse = factor.T @ factor
    torch.testing.assert_close(inverse[2, 2], 1 / (1.01 * mean))
    assert inverse[2, alive].abs().max() == 0
    rest = gram[alive][:, alive] + 0.01 * mean * torch.eye(4)
    torch.testing.assert_close(inverse[alive][:, alive], torch.linalg.inv(rest))


def test_a_singular_gram_matrix_names_the_matrix_and_the_remedy():
    row = torch.ones(1, 4, dtype=torch.float64)

    with pytest.raises(
        Unsupported, match=r"inputs of w is singular with damping 0: set"
    ):
        inverse_factor(row.T @ row, 0, "w")
    with pytest.raises(Unsupported, match="inputs of w are all zero"):
        inverse_factor(torch.zeros(4, 4), 0.01, "w")


def test_each_block_and_column_is_asked_for_once_with_what_is_left():
    weight, gram = problem(5)
    rule = Halved()

    solve(weight, inverse_factor(gram, 0.01, "w")[0], rule, bounds(5, 3))

    assert rule.asked == [(0, 5), (0, 3), (1, 2), (2, 1), (3, 2), (3, 2), (4, 1)]


@pytest.mark.parametrize("blocks", [[0, 7], [0, 1, 7], [0, 3, 4, 7]])
def test_later_columns_make_up_for_the_error_as_least_squares_does(blocks):
    # Second implementation: after each column, the free columns are solved for again.
    weight, gram = problem(7)
    factor, _ = inverse_factor(gram, 0.01, "w")
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(7)

    made = solve(weight, factor, Halved(), blocks)

    left = weight.clone()
    for j in range(7):
        error = left[:, j] / 2
        left[:, j] = left[:, j] / 2
        free = list(range(j + 1, 7))
        # Minimise (error e_j + change)^T damped (error e_j + change) over the change.
        solution = torch.linalg.solve(
            damped[free][:, free], damped[free, j][:, None] * error
        )
        left[:, free] += solution.T
    torch.testing.assert_close(made, left)
