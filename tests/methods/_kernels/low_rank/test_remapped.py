import pytest
import torch
from torch import nn

from methods._kernels.low_rank.remapped import (
    bits_per_rank,
    dynamic_values,
    nearest_codes,
    remapped_layer,
)


def test_the_dynamic_values_are_those_of_the_data_type():
    known = dynamic_values()

    # Smallest: the middle of [0.1, 1] in the decade of 1e-6; largest below 1: the last
    # of 64 parts of [0.1, 1], which are 0.9 / 64 wide.
    assert len(known) == len(known.unique()) == 256
    assert known[known > 0].min() == pytest.approx(0.55e-6)
    assert known[-1] == 1
    assert known[-2] == pytest.approx(1 - 0.9 / 128)
    assert known[0] == pytest.approx(-(1 - 0.9 / 128))


def test_a_code_is_that_of_the_nearest_value():
    draw = torch.Generator().manual_seed(0)
    values = torch.rand(200, generator=draw) * 2 - 1
    known = dynamic_values()

    distances = (values[:, None] - known[None]).abs()
    assert torch.equal(nearest_codes(values).long(), distances.argmin(1))


@pytest.mark.parametrize(("out", "inner"), [(6, 6), (10, 4), (4, 10)])
def test_the_layer_is_the_product_but_for_its_rounding(out, inner):
    draw = torch.Generator().manual_seed(0)
    linear = nn.Linear(inner, out)
    left = torch.linalg.qr(torch.randn(out, 3, generator=draw)).Q.double()
    right = torch.randn(3, inner, generator=draw).double()
    x = torch.randn(5, inner, generator=draw)

    made = remapped_layer(linear, left, right)

    with torch.no_grad():
        exact = x.double() @ (left @ right).T + linear.bias
        gap = (made(x) - exact).norm() / exact.norm()
    # A part of 0.9 / 64 of the scale: half of it is 0.7 % at most.
    assert float(gap) < 0.02
    # The stored bits are those of the price of a rank, and the bias.
    stored = sum(
        8 * value.numel() * value.element_size()
        for name, value in made.state_dict().items()
        if name != "bias"
    )
    assert stored == 3 * bits_per_rank(out, inner, 32)


def test_in_16_bits_a_rank_costs_the_longer_side_and_two_scales():
    assert bits_per_rank(4096, 11008, 16) == 16 * (11008 + 2)
