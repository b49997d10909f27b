"""Fixed-point storage: exact round trips, budgets kept, bits where they matter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods._kernels.variational import fixed_point
from methods._kernels.variational.fixed_point import (
    FLOAT_BITS,
    FixedPoint,
    Plan,
    plan,
    stored_bits,
    unit_round_off_bits,
)


def gaussian(rows, columns, seed=0, scale=0.1):
    rng = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, columns, generator=rng)


def stored(weights, variances, budget):
    plans = plan(weights, variances, budget)
    return [
        FixedPoint.of(w, torch.zeros(len(w)), p)
        for w, p in zip(weights, plans, strict=True)
    ]


@given(
    ratio=st.floats(0.01, 0.985),
    rows=st.integers(1, 12),
    columns=st.integers(60, 90),
    zeros=st.floats(0, 0.9),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_the_budget_is_kept_and_the_file_comes_back(ratio, rows, columns, zeros, seed):
    weight = gaussian(rows, columns, seed)
    rng = torch.Generator().manual_seed(seed)
    weight[torch.rand(rows, columns, generator=rng) < zeros] = 0
    variance = torch.rand(rows, columns, generator=rng) + 0.01
    budget = int(FLOAT_BITS * weight.numel() * (1 - ratio))
    (made,) = stored([weight], [variance], budget)
    packed = made.pack()
    assert stored_bits(made) <= budget
    again = FixedPoint(columns, rows)
    again.unpack(packed)
    assert torch.equal(again.weight, made.weight)
    assert all(torch.equal(again.pack()[name], packed[name]) for name in packed)


@pytest.mark.parametrize("ratio", [0.02, 0.25, 0.5, 0.75, 0.9, 0.9375])
def test_what_is_asked_for_is_spent(ratio):
    weights = [gaussian(64, 64), gaussian(64, 64, 1)]
    budget = int(FLOAT_BITS * 2 * 64 * 64 * (1 - ratio))
    made = stored(weights, [torch.ones(64, 64)] * 2, budget)
    spent = sum(stored_bits(m) for m in made)
    assert budget - 0.005 * FLOAT_BITS * 2 * 64 * 64 < spent <= budget


def test_more_bits_never_cost_more_error():
    weight = gaussian(32, 80)
    errors = []
    for ratio in (0.97, 0.95, 0.9, 0.8, 0.5, 0.25):
        budget = int(FLOAT_BITS * weight.numel() * (1 - ratio))
        (made,) = stored([weight], [torch.ones_like(weight)], budget)
        errors.append((made.weight - weight).square().sum().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-9


def test_a_quarter_less_is_float32_in_all_but_name():
    # 24 bits a weight on the scale of the row's largest.
    weight = gaussian(16, 64)
    (made,) = stored([weight], [torch.ones_like(weight)], 24 * 16 * 64)
    assert torch.allclose(made.weight, weight, atol=2e-7 * weight.abs().max().item())


def test_values_are_integers_times_a_power_of_two():
    # b bits in two's complement: 2^b levels, a step of 2^-exponent apart.
    weight = gaussian(8, 400, scale=1.0)
    (made,) = stored([weight], [torch.ones_like(weight)], 4 * 8 * 400)
    for row, bits, exponent in zip(
        made.weight, made.plan.bits, made.plan.exponents, strict=True
    ):
        codes = row * 2.0**exponent
        assert torch.equal(codes, codes.round())
        assert len(codes.unique()) <= 2**bits
        assert codes.min() >= -(2 ** (bits - 1))
        assert codes.max() < 2 ** (bits - 1)


def test_bits_go_to_the_rows_that_the_data_pinned_down():
    weight = gaussian(40, 64)
    variance = torch.full_like(weight, 1e-2)
    variance[:20] = 1e-6
    (made,) = stored([weight], [variance], 4 * weight.numel())
    sure, vague = made.plan.bits[:20].double(), made.plan.bits[20:].double()
    # Equal slopes: loss ~ 4^-b / v, so 10^4 in variance is log4(10^4) = 6.6 bits.
    assert sure.mean() - vague.mean() == pytest.approx(6.6, abs=1)


def test_the_allocation_is_the_best_of_all_for_two_rows():
    weight, variance = gaussian(2, 64), torch.ones(2, 64)
    variance[0] = 0.05
    budget = 2 * 16 + 7 + 9 * 64  # headers, idle bits, 9 bits a weight to share
    found = stored([weight], [variance], budget)[0]

    def loss(made):
        return ((made.weight - weight).square() / variance).sum().item()

    best = min(
        loss(
            FixedPoint.of(
                weight,
                torch.zeros(2),
                Plan(bits=torch.tensor(bits), exponents=torch.tensor([e1, e2])),
            )
        )
        for bits in ([9, 0], [7, 2], [6, 3], [5, 4], [4, 5], [3, 6], [2, 7], [0, 9])
        for e1 in range(1, 12)
        for e2 in range(1, 12)
    )
    assert loss(found) <= best * 1.0001


def test_zeros_are_stored_as_a_bitmap_where_that_pays():
    weight = gaussian(1, 800)
    weight[:, 80:] = 0  # one in ten is left
    bits = torch.tensor([8])
    chosen = Plan(bits=bits, exponents=torch.tensor([9]))
    made = FixedPoint.of(weight, torch.zeros(1), chosen)
    assert stored_bits(made) <= 800 + 80 * 8 + 16
    assert stored_bits(made) < 800 * 8


def test_a_budget_below_the_headers_is_refused():
    with pytest.raises(ValueError, match="100 bits do not hold the headers of 10 rows"):
        plan([gaussian(10, 4)], [torch.ones(10, 4)], 100)


def test_unit_round_off_agrees_with_its_definition():
    # 2 v < 2^-t for t = 1 ... 23, counted by hand: v = 2^-5 gives 2^-4 < 2^-t for
    # t = 1, 2, 3.
    variances = torch.tensor([2.0**-5, 2.0**-5 * 0.99, 1e-12])
    assert unit_round_off_bits(variances).tolist() == [3, 4, 23]


def test_a_layer_has_the_shape_of_its_matrix():
    weight = gaussian(3, 70)
    bias = torch.tensor([1.0, 2.0, 3.0])
    made = FixedPoint.of(weight, bias, plan([weight], [torch.ones(3, 70)], 5000)[0])

    assert made.spec() == {"in_features": 70, "out_features": 3}
    x = gaussian(5, 70, seed=1)
    torch.testing.assert_close(made(x), x @ made.weight.T + bias)


def test_a_row_costs_all_its_codes_or_a_bitmap_and_the_codes_that_are_not_zero():
    # Four values of 8 bits are 32 bits; with a bitmap of 4 bits and one code left 12.
    full = torch.tensor([[0.5, -0.5, 0.25, 0.75]], dtype=torch.float64)
    sparse = torch.tensor([[0.5, 0.0, 0.0, 0.0]], dtype=torch.float64)
    tie = torch.tensor([[0.5, 0.5, 0.5, 0.0]], dtype=torch.float64)  # 4 + 3 x 4 = 16
    exponent = torch.tensor([4])

    assert fixed_point._cost(full, 8, exponent, 4).tolist() == [32]
    assert fixed_point._cost(sparse, 8, exponent, 4).tolist() == [12]
    assert fixed_point._cost(tie, 4, exponent, 4).tolist() == [16]
    # What rounds to zero is not kept: 2^-6 on a step of 2^-4.
    small = torch.tensor([[0.5, 2.0**-6, 0.0, 0.0]], dtype=torch.float64)
    assert fixed_point._cost(small, 8, exponent, 4).tolist() == [12]


def test_the_loss_of_a_row_is_its_error_over_twice_its_variance():
    weight = torch.tensor([[0.5, -0.25]], dtype=torch.float64)
    variance = torch.tensor([[0.5, 0.125]], dtype=torch.float64)

    table = fixed_point._table(weight, variance)

    # No bits: 0.25 / 1 + 0.0625 / 0.25.
    assert table.loss[0, 0] == pytest.approx(0.5)
    assert table.cost[0, 0] == 0
    assert (table.loss[0].diff() <= 0).all()


def test_what_is_left_buys_a_width_that_takes_all_of_it():
    # Two equal rows: no price separates them, so that none is chosen at first. The four
    # bits that are left are enough for one of the two.
    cost = torch.tensor([[0, 4], [0, 4]])
    loss = torch.tensor([[10.0, 0.0], [10.0, 0.0]], dtype=torch.float64)

    spent = [int(fixed_point._spend(cost, loss, bits).sum()) * 4 for bits in (3, 4, 7)]
    assert spent == [0, 4, 4]
    assert fixed_point._spend(cost, loss, 8).tolist() == [1, 1]
    # A width that loses nothing less is not bought.
    same = torch.ones(2, 2, dtype=torch.float64)
    assert fixed_point._spend(cost, same, 100).tolist() == [0, 0]
