"""Groups that all lose one share of their weights: 24 x 24 matrices, worked by hand."""

import pytest
import tiny_llm
import torch
from torch import nn

from harness.core import Context
from methods._kernels.low_rank.factors import Group
from methods._kernels.low_rank.uniform import (
    factorize_groups,
    truncate_groups,
    truncate_to,
)

NAMES = tuple(f"model.layers.{block}.self_attn.q_proj" for block in range(3))
PAIR, LAST = Group(NAMES[:2], once=False), Group(NAMES[2:], once=False)


@pytest.fixture(scope="module")
def ctx():
    model = tiny_llm.tiny("llama")
    return Context(model=model, seed=0, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def fitted(ctx):
    return factorize_groups(ctx.model, [PAIR, LAST])


def ranks(net):
    layers = [net.get_submodule(name) for name in NAMES]
    return [
        None if isinstance(one, nn.Linear) else len(one.right.weight) for one in layers
    ]


@pytest.mark.parametrize(
    ("full", "found"),
    [
        # Half of the weights: 0.5 * 48 * 24 / (48 + 24) = 8 for two matrices, and
        # 0.5 * 24 * 24 / (24 + 24) = 6 for one.
        (None, [8, 8, 6]),
        (2, [8, 8, 8]),  # the last group is a smaller one of its kind
    ],
)
def test_each_group_gets_the_rank_that_the_ratio_leaves(fitted, ctx, full, found):
    assert ranks(truncate_groups(fitted, 0.5, ctx, full=full)) == found


def test_ratio_0_is_the_dense_network(fitted, ctx):
    net = truncate_groups(fitted, 0, ctx)

    assert ranks(net) == [None] * 3
    assert net is not ctx.model.net


def test_a_group_is_the_best_of_its_rank_for_the_stacked_matrices(fitted, ctx):
    net = truncate_to(fitted, {PAIR: 5}, ctx)

    assert ranks(net) == [5, 5, None]  # a group without a rank stays dense
    dense = [ctx.model.net.get_submodule(name).weight for name in NAMES]
    u, s, v = torch.linalg.svd(torch.cat(dense[:2]).double())
    best = (u[:, :5] * s[:5] @ v[:5]).float()
    for name, want in zip(NAMES, [*best.split(24), dense[2]], strict=True):
        layer = net.get_submodule(name)
        with torch.no_grad():  # without the bias, which is what it makes of zeros
            made = (layer(torch.eye(24)) - layer(torch.zeros(24))).T
        torch.testing.assert_close(made, want.detach(), rtol=0, atol=1e-5)
