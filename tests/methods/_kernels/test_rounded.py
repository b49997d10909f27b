"""The layer of rounded weights, with each of the tensors that a file may hold."""

import itertools

import pytest
import torch
from tiny_llm import context, tiny
from torch import nn

from harness.core import NotFinite, Unsupported
from methods._kernels.integer_grid import fit_grid, in_groups
from methods._kernels.rounded import (
    Rounded,
    check_group_size,
    matrices,
    removed_bits,
    rounded_layer,
)

EXTRAS = [
    set(chosen)
    for count in range(4)
    for chosen in itertools.combinations(("zeros", "order", "divisors"), count)
]


def made_of(extras, bits=4, width=10, group_size=4):
    """A layer, and what its weight must be: scale (code - zero), in plain loops."""
    rng = torch.Generator().manual_seed(7)
    linear = nn.Linear(width, 3)
    levels = "asymmetric" if "zeros" in extras else "full"
    weight = torch.randn(3, width, generator=rng)
    groups = in_groups(weight, group_size)
    grid = fit_grid(groups, bits, levels, torch.float32)
    codes = grid.codes(groups).flatten(1)[:, :width]
    order = torch.randperm(width, generator=rng) if "order" in extras else None
    divisors = torch.rand(width, generator=rng) + 1 if "divisors" in extras else None
    layer = rounded_layer(
        linear, codes, grid, group_size=group_size, order=order, divisors=divisors
    )
    expected = torch.empty(3, width)
    for i in range(3):
        for k in range(width):
            zero = 0 if grid.zero is None else float(grid.zero[i, k // group_size])
            value = float(grid.scale[i, k // group_size]) * (float(codes[i, k]) - zero)
            j = k if order is None else int(order[k])
            expected[i, j] = value
    if divisors is not None:
        expected = expected / divisors
    return linear, layer, expected


@pytest.mark.parametrize("extras", EXTRAS, ids=lambda e: "-".join(sorted(e)) or "plain")
def test_the_weight_is_scale_times_code_in_every_form(extras):
    linear, layer, expected = made_of(extras)

    torch.testing.assert_close(layer.weight, expected)
    x = torch.randn(2, 10)
    torch.testing.assert_close(layer(x), x @ expected.T + linear.bias)
    assert set(layer.spec()["extras"]) == extras


@pytest.mark.parametrize("extras", EXTRAS, ids=lambda e: "-".join(sorted(e)) or "plain")
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_a_packed_layer_comes_back_and_its_file_has_the_stated_bits(extras, bits):
    _, layer, _ = made_of(extras, bits=bits)
    packed = layer.pack()

    back = Rounded(**layer.spec())
    back.unpack(packed)

    # The same numbers in the same operations: equal to the last bit.
    assert torch.equal(back.weight, layer.weight)
    assert torch.equal(back.bias, layer.bias)
    sizes = {name: value.nbytes for name, value in packed.items()}
    expected = {"codes": 3 * -(-10 * bits // 8), "scales": 3 * 3 * 4, "bias": 3 * 4}
    expected |= {"zeros": -(-9 * bits // 8)} if "zeros" in extras else {}
    expected |= {"order": 10 * 2} if "order" in extras else {}
    expected |= {"divisors": 10 * 4} if "divisors" in extras else {}
    assert sizes == expected


def test_a_wide_layer_numbers_its_columns_in_four_bytes():
    for width, kind in [(2**15 - 1, torch.int16), (2**15, torch.int32)]:
        layer = Rounded(
            width, 1, bits=4, group_size=width, bias=False, extras=["order"]
        )
        assert layer.order.dtype == kind
        assert layer.order[-1] == width - 1


def test_parameters_are_codes_without_zero_points_and_the_bias():
    _, layer, expected = made_of({"zeros"})

    weights = layer.weights()

    assert set(weights) == {"codes", "bias"}
    assert torch.equal(weights["codes"] == 0, expected == 0)


def test_conv1d_weights_are_taken_the_right_way_round():
    from transformers.pytorch_utils import Conv1D

    conv = Conv1D(3, 6)  # 6 inputs, 3 outputs; stores (in, out)
    grid = fit_grid(in_groups(conv.weight.T, 6), 8, "narrow", torch.float32)
    codes = grid.codes(in_groups(conv.weight.T, 6)).flatten(1)

    layer = rounded_layer(conv, codes, grid, group_size=6)

    assert (layer.in_features, layer.out_features) == (6, 3)
    assert (layer.weight - conv.weight.T).abs().max() <= grid.scale.max() / 2 * 1.001


def test_removed_bits_depend_on_the_stored_dtype():
    assert removed_bits(8, "float32") == 0.75
    assert removed_bits(8, "float16") == 0.5
    assert removed_bits(2, "bfloat16") == 0.875


def test_the_matrices_are_those_below_roles_each_once(tmp_path):
    model = tiny("llama")
    ctx = context(model)

    found = matrices(ctx, ctx.dense())

    linear = [n for n, m in model.net.named_modules() if isinstance(m, nn.Linear)]
    assert sorted(found) == sorted(n for n in linear if n != "lm_head")


def test_a_factor_that_two_layers_share_is_rounded_once():
    from methods._kernels.low_rank.layers import LowRank

    model = tiny("llama")
    ctx = context(model)
    net = ctx.dense()
    first, second = "model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"
    for name in (first, second):
        parent, _, leaf = name.rpartition(".")
        setattr(net.get_submodule(parent), leaf, LowRank(24, 40, rank=5, bias=False))
    net.get_submodule(second).right = net.get_submodule(first).right

    found = matrices(ctx, net)

    assert f"{first}.right.linear" in found
    assert not [name for name in found if name.startswith(f"{second}.right")]
    assert any(name.startswith(f"{second}.left") for name in found)


def test_a_weight_that_is_not_finite_names_the_layer():
    model = tiny("llama")
    ctx = context(model)
    net = ctx.dense()
    net.get_submodule("model.layers.1.mlp.up_proj").weight.data[0, 0] = torch.nan

    with pytest.raises(NotFinite, match=r"model\.layers\.1\.mlp\.up_proj"):
        matrices(ctx, net)


def test_a_network_without_matrices_and_a_group_below_one_are_refused():
    ctx = context(tiny("llama"))
    net = ctx.dense()
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, leaf = name.rpartition(".")
            setattr(net.get_submodule(parent) if parent else net, leaf, nn.Identity())
    with pytest.raises(Unsupported, match="has no matrix to treat"):
        matrices(ctx, net)

    check_group_size(None)
    check_group_size(1)
    with pytest.raises(ValueError, match="group_size 0 is below 1"):
        check_group_size(0)
