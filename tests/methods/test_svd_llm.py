import pytest
import torch
from tiny_llm import context, logits, tiny

from harness.core import BenchError, Measurement
from harness.registry import find
from methods._kernels.low_rank.factors import linears
from methods._kernels.low_rank.layers import LowRank
from methods._kernels.low_rank.lora import recover


def compressed(ctx, **options):
    method = find("method", "svd_llm").build(options)
    return method.compress(method.fit(ctx.model, ctx), 0.5, ctx).eval()


def test_lora_recovery_lowers_the_loss_and_keeps_the_size(tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    before = compressed(ctx)
    recipe = {"epochs": 2, "learning_rate": 3e-3, "rank": 2, "warmup": 1}
    after = compressed(ctx, lora=recipe)

    losses = [m.value for m in ctx.recorded if m.metric == "recovery_loss"]
    assert [m.step for m in ctx.recorded] == [0, 1, 2, 3]
    assert losses[-1] < losses[0]
    assert all(isinstance(m, Measurement) for m in ctx.recorded)
    sizes = [sum(p.numel() for p in net.parameters()) for net in (before, after)]
    assert sizes[0] == sizes[1]
    assert all(type(after.get_submodule(n)) is LowRank for n in linears(ctx.model))
    assert not torch.equal(logits(before), logits(after))


def test_adapters_that_learn_nothing_change_nothing(tmp_path):
    from methods._kernels.low_rank.lora import Lora

    ctx = context(tiny("llama"), tmp_path)
    net = compressed(ctx)
    same = recover(compressed(ctx), Lora(learning_rate=0.0, epochs=1), ctx)
    assert torch.equal(logits(net), logits(same))


def test_cholesky_and_eigh_agree_where_both_are_exact(tmp_path):
    ctx = context(tiny("llama"), tmp_path, samples=24)
    one, two = compressed(ctx), compressed(ctx, whitening="cholesky")
    torch.testing.assert_close(logits(one), logits(two), rtol=1e-3, atol=1e-3)


def test_an_order_that_is_none_is_refused():
    with pytest.raises(BenchError, match="is not left and right"):
        find("method", "svd_llm").build({"lora": {"order": ["left", "left"]}})
