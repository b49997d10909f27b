"""Inputs behind compressed blocks, against whole forward passes."""

import pytest
import torch
from prefix_inputs import inputs_behind
from tiny_llm import context, tiny

from harness.toolkit.roles import block_of
from methods._kernels.low_rank.factors import linears
from methods._kernels.prefix import behind_prefix, gram_of, norms_of


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_each_block_sees_the_compressed_blocks_before_it(tmp_path, family):
    model = tiny(family)
    ctx = context(model, tmp_path)
    net = ctx.dense()
    names = sorted(linears(model))
    seen = []

    for name, statistics in behind_prefix(net, ctx, reversed(names)):
        expected = inputs_behind(ctx, net, block_of(name))[name]
        gram = expected.T @ expected / len(expected)
        torch.testing.assert_close(
            gram_of(statistics, name), gram, rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            norms_of(statistics, name), gram.diagonal().sqrt(), rtol=1e-4, atol=1e-5
        )
        net.get_submodule(name).weight.data.mul_(0.5)
        seen.append(name)

    assert sorted(seen) == names
    blocks = [block_of(name) for name in seen]
    assert blocks == sorted(blocks), "block after block"
    assert seen == sorted(seen), "in one order, whatever the order of the names"


def test_compressed_inputs_are_those_of_the_block_as_it_is_when_it_is_reached(tmp_path):
    model = tiny("llama")
    ctx = context(model, tmp_path)
    net = ctx.dense()
    name = "model.layers.1.mlp.down_proj"
    with torch.no_grad():
        net.get_submodule("model.layers.1.mlp.up_proj").weight.mul_(3)

    grams = {
        which: gram_of(*reversed(next(behind_prefix(net, ctx, [name], inputs=which))))
        for which in ("dense", "compressed")
    }

    # What enters down_proj is linear in up_proj: three times the inputs, nine the Gram.
    torch.testing.assert_close(
        grams["compressed"], 9 * grams["dense"], rtol=1e-4, atol=1e-5
    )


def test_fewer_windows_are_the_first_ones(tmp_path):
    model = tiny("llama")
    ctx = context(model, tmp_path)
    name = "model.layers.0.self_attn.q_proj"
    seen = {}

    def reads(modules):
        from methods._kernels.low_rank.refit import _recorded

        return _recorded(modules)

    for windows in (2, None):
        [(_, seen[windows])] = behind_prefix(
            ctx.dense(), ctx, [name], reads=reads, windows=windows
        )

    few, all_ = (torch.cat(seen[windows][name]) for windows in (2, None))
    assert len(few) == 2 * 32
    assert len(all_) == 12 * 32
    torch.testing.assert_close(few, all_[: len(few)])
