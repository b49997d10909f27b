"""Left factors fitted again, against least squares on the inputs themselves."""

import pytest
import torch
from prefix_inputs import inputs_behind
from tiny_llm import context, tiny

from harness.toolkit.roles import block_of
from methods._kernels.low_rank.factors import Group, linears, matrix
from methods._kernels.low_rank.layers import LowRank
from methods._kernels.low_rank.refit import (
    pooled_update,
    refit,
    refit_released,
    update,
)


def problem(out=5, inner=8, rank=3, tokens=60, seed=0):
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, inner, generator=rng, dtype=torch.float64)
    right = torch.randn(rank, inner, generator=rng, dtype=torch.float64)
    x = torch.randn(tokens, inner, generator=rng, dtype=torch.float64)
    return weight, right, x


def least_squares(weight, right, x):
    """The left factor with the least error over ``x``, by numpy's solver."""
    import numpy as np

    solution, *_ = np.linalg.lstsq((x @ right.T).numpy(), (x @ weight.T).numpy())
    return torch.from_numpy(solution).T


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_refit_is_least_squares_at_any_scale_of_the_inputs(scale):
    weight, right, x = problem()

    left = refit(weight, right, scale * x.T @ x)

    torch.testing.assert_close(left, least_squares(weight, right, x))


def test_a_direction_that_no_input_reaches_gets_no_weight():
    weight, right, x = problem()
    x[:, 0] = 0
    right[2] = 0
    right[2, 0] = 1  # reads the dead channel alone

    left = refit(weight, right, x.T @ x)

    assert left[:, 2].abs().max() < 1e-9
    torch.testing.assert_close(left[:, :2], least_squares(weight, right[:2], x))


def test_equal_rows_of_the_right_factor_share_their_weight():
    # The minimiser of least norm: each of two equal directions gets half.
    weight, right, x = problem(rank=2)
    twice = torch.cat([right, right[:1]])

    left = refit(weight, twice, x.T @ x)

    alone = least_squares(weight, right, x)
    torch.testing.assert_close(left[:, 0], alone[:, 0] / 2)
    torch.testing.assert_close(left[:, 2], alone[:, 0] / 2)
    torch.testing.assert_close(left[:, 1], alone[:, 1])


def test_the_released_solution_is_least_squares_where_nothing_is_ignored():
    weight, right, x = problem()

    left = refit_released(weight, torch.ones(5, 3), right.float(), x)

    torch.testing.assert_close(
        left.double(), least_squares(weight, right, x), rtol=1e-4, atol=1e-4
    )


def low_rank(tmp_path, names, rank=6):
    model = tiny("llama")
    ctx = context(model, tmp_path)
    net = ctx.dense()
    torch.manual_seed(3)
    for name in names:
        weight = matrix(model.net.get_submodule(name)).double()
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        thin = LowRank(weight.shape[1], len(weight), rank=rank, bias=False)
        thin.left.weight.data = (u[:, :rank] * s[:rank]).float()
        thin.right.linear.weight.data = v[:rank].float()
        parent, _, leaf = name.rpartition(".")
        setattr(net.get_submodule(parent), leaf, thin)
    return ctx, net


def test_update_fits_block_after_block_to_the_inputs_behind_compressed_blocks(tmp_path):
    names = ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"]
    ctx, net = low_rank(tmp_path, names)
    rights = {n: net.get_submodule(n).right.weight.double() for n in names}

    update(net, ctx, [Group((name,)) for name in names], inputs="dense")

    for name in names:
        # A second implementation runs the whole updated network for the inputs.
        x = inputs_behind(ctx, net, block_of(name))[name]
        weight = matrix(ctx.model.net.get_submodule(name)).double()
        torch.testing.assert_close(
            net.get_submodule(name).left.weight.double(),
            least_squares(weight, rights[name].detach(), x),
            rtol=1e-3,
            atol=1e-3,
        )


def test_the_pooled_update_sums_the_inputs_of_the_members_of_a_group(tmp_path):
    names = ("model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj")
    ctx, net = low_rank(tmp_path, names)
    seen = {n: [] for n in names}
    for name in names:
        net.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: seen[name].append(args[0].flatten(0, -2))
        )
    with torch.no_grad():
        net(input_ids=ctx.calibration().tokens, use_cache=False)
    together = torch.cat([seen[n][0] for n in names]).double()
    for name in names:
        net.get_submodule(name)._forward_pre_hooks.clear()

    pooled_update(net, ctx, [Group(names)])

    for name in names:
        thin = net.get_submodule(name)
        weight = matrix(linears(ctx.model)[name]).double()
        torch.testing.assert_close(
            thin.left.weight.double(),
            least_squares(weight, thin.right.weight.double().detach(), together),
            rtol=1e-3,
            atol=1e-3,
        )


def test_inputs_of_zero_give_weights_of_zero():
    weight, right, x = problem()

    left = refit(weight, right, 0 * x.T @ x)

    assert torch.equal(left, torch.zeros(5, 3, dtype=torch.float64))
