"""Integer grids against loops over plain numbers, and packing against big integers."""

import pytest
import torch

from methods._kernels.integer_grid import fit_grid, in_groups, not_below, pack, unpack

LEVELS = ["narrow", "full", "asymmetric"]


def values_of(grid):
    """Every value of the grid of one group, as plain numbers."""
    zero = 0 if grid.zero is None else int(grid.zero)
    return [float(grid.scale) * (c - zero) for c in range(grid.low, grid.high + 1)]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("levels", LEVELS)
def test_nearest_is_the_nearest_of_all_values_of_the_grid(bits, levels):
    rng = torch.Generator().manual_seed(bits)
    group = torch.randn(12, generator=rng, dtype=torch.float64)

    grid = fit_grid(group, bits, levels, torch.float32)

    values = values_of(grid)
    assert len(values) == (2**bits - 1 if levels == "narrow" else 2**bits)
    assert grid.bits == bits
    for weight, made in zip(group.tolist(), grid.nearest(group).tolist(), strict=True):
        least = min(abs(weight - value) for value in values)
        assert abs(weight - made) == pytest.approx(least, abs=1e-12)


@pytest.mark.parametrize(
    ("levels", "scale"),
    [
        # Largest magnitude 3, smallest -1, largest 3; 4 bits.
        ("narrow", 3 / 7),  # codes -7 to 7
        ("full", 2 * 3 / 15),  # codes -8 to 7, both ends half a step too far
        ("asymmetric", 4 / 15),  # 16 values from -1 to 3
    ],
)
def test_scales_by_hand(levels, scale):
    group = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)

    grid = fit_grid(group, 4, levels, torch.float64)

    assert float(grid.scale) == pytest.approx(scale, rel=1e-12)
    if levels == "asymmetric":
        assert int(grid.zero) == round(1 / scale)
        # The smallest and the largest weight are at most half a step away.
        assert (grid.nearest(group) - group).abs().max() <= scale / 2 + 1e-12


def test_the_value_zero_is_always_on_the_grid():
    for group in ([1.0, 2.0], [-1.0, -2.0], [0.0, 0.0]):
        for levels in LEVELS:
            grid = fit_grid(torch.tensor(group), 3, levels, torch.float32)
            assert float(grid.nearest(torch.tensor(0.0))) == 0
            assert float(grid.scale) > 0


def test_positive_weights_alone_use_the_whole_asymmetric_range():
    grid = fit_grid(torch.tensor([1.0, 3.0]), 2, "asymmetric", torch.float32)

    assert int(grid.zero) == 0
    assert grid.nearest(torch.tensor([1.0, 3.0])).tolist() == [1.0, 3.0]


def test_scales_are_stored_at_least_as_large_so_that_nothing_is_clipped():
    values = torch.tensor([1 / 3, 2 / 3, 1.0], dtype=torch.float64)

    stored = not_below(values, torch.float16)

    assert bool((stored.double() >= values).all())
    assert stored[2] == 1
    below = torch.nextafter(stored, torch.zeros_like(stored)).double()
    assert bool((below < values).all()), "not the next one above"


def test_the_last_group_of_a_row_is_filled_with_zeros():
    weight = torch.arange(10.0).reshape(2, 5)

    assert in_groups(weight, 3).tolist() == [
        [[0, 1, 2], [3, 4, 0]],
        [[5, 6, 7], [8, 9, 0]],
    ]
    assert in_groups(weight, 5).shape == (2, 1, 5)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_packed_codes_are_one_long_binary_number(bits, signed, count):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    rng = torch.Generator().manual_seed(count)
    codes = torch.randint(low, high, (3, count), generator=rng)
    codes = codes.to(torch.int8 if signed else torch.uint8)

    packed = pack(codes, bits)

    for row, stored in zip(codes.tolist(), packed.tolist(), strict=True):
        number = sum((code % 2**bits) << (bits * at) for at, code in enumerate(row))
        length = -(-count * bits // 8)
        assert len(stored) == length
        expected = number.to_bytes(length, "little")
        assert bytes(byte % 256 for byte in stored) == expected
    back = unpack(packed, bits, count, signed=signed)
    assert back.dtype == codes.dtype
    assert torch.equal(back, codes)
