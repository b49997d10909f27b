"""The gradient of a masked SVD against differences and against plain loops."""

import math

import pytest
import torch
from torch import nn

from methods._kernels.low_rank.soft_cut import masked, outputs_through, soft_mask


def some(rows, columns, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(5, 5), (6, 4), (4, 6)])
@pytest.mark.parametrize("position", [1.0, 2.5, 3.0])
def test_the_gradients_are_those_of_finite_differences(shape, position):
    matrix = some(*shape).requires_grad_(True)
    place = torch.tensor(position, dtype=torch.float64, requires_grad=True)

    def cut(matrix, place):
        # A blunt mask: the sharp one has next to no gradient between two values.
        return masked(matrix, soft_mask(place, min(shape), 1.5))

    assert torch.autograd.gradcheck(cut, (matrix, place), eps=1e-6, atol=1e-7)


def test_it_agrees_with_the_gradient_through_the_factors():
    # The same function by torch.linalg.svd, whose own backward pass divides by the
    # differences of all squared singular values.
    mask = torch.tensor([1.0, 1.0, 0.4, 0.0], dtype=torch.float64)
    weights, found = some(6, 4, seed=1), []
    for function in (masked, by_factors):
        matrix = some(6, 4).requires_grad_(True)
        (function(matrix, mask) * weights).sum().backward()
        found.append(matrix.grad)

    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-11)


def by_factors(matrix, mask):
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ torch.diag(mask * values) @ right


def test_with_every_value_kept_the_output_and_the_gradient_are_those_of_the_identity():
    matrix, weights = some(5, 3).requires_grad_(True), some(5, 3, seed=1)

    result = masked(matrix, torch.ones(3, dtype=torch.float64))
    (result * weights).sum().backward()

    torch.testing.assert_close(result, matrix, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(matrix.grad, weights, rtol=1e-12, atol=1e-12)


def test_a_cut_between_equal_values_has_a_gradient_of_eleven_terms():
    # X = diag(2, 2) with the mask (1, 0). For the gradient G with entries a, b, c, d:
    # the diagonal is (a, 0); with q = 1 the series is 11, and
    #   (1, 2): t_1 b + (0 - 1)(-11 b - 11 c) = b + 11 (b + c)
    #   (2, 1): t_2 c + (1 - 0)( 11 c + 11 b) = 11 (b + c)
    matrix = (2 * torch.eye(2, dtype=torch.float64)).requires_grad_(True)
    gradient = torch.tensor([[3.0, 5.0], [7.0, 2.0]], dtype=torch.float64)

    masked(matrix, torch.tensor([1.0, 0.0]).double()).backward(gradient)

    expected = torch.tensor([[3.0, 5.0 + 132.0], [132.0, 0.0]], dtype=torch.float64)
    # The decomposition may choose any pair of signs: the result does not depend on it.
    torch.testing.assert_close(matrix.grad, expected)


def test_values_of_zero_give_finite_gradients():
    matrix = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)

    masked(matrix, torch.tensor([1.0, 0.5, 0.0]).double()).sum().backward()

    assert bool(matrix.grad.isfinite().all())


def test_the_mask_is_that_of_the_equation():
    found = soft_mask(torch.tensor(1.8, dtype=torch.float64), 4, 10.0)

    expected = [(math.tanh(10 * (1.8 - i)) + 1) / 2 for i in (1, 2, 3, 4)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_functions_see_outputs_without_their_bias_and_only_while_open():
    net = nn.Sequential(nn.Linear(3, 2))
    seen, x = [], torch.ones(1, 4, 3)

    with torch.no_grad():
        plain = net(x)
        with outputs_through(net, {"0": lambda y: seen.append(y) or 2 * y}):
            doubled = net(x)
        after = net(x)

    bias = net[0].bias.detach()
    assert seen[0].shape == (4, 2)
    torch.testing.assert_close(doubled - bias, 2 * (plain - bias))
    assert torch.equal(after, plain)
