import pytest
import torch
from tiny_llm import context, tiny

from harness.registry import find
from methods._kernels.low_rank import lora


@pytest.fixture
def compressed(tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    method = find("method", "svd_llm").build({})
    return ctx, method.compress(method.fit(ctx.model, ctx), 0.5, ctx)


@pytest.mark.parametrize("order", [("right", "left"), ("left", "right")])
def test_one_factor_learns_at_a_time_in_the_stated_order(
    monkeypatch, compressed, order
):
    ctx, net = compressed
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    learning = []

    def record(adapted, recipe, ctx, stage):
        names = [n for n, p in adapted.named_parameters() if p.requires_grad]
        assert all(".lora_" in name for name in names)
        learning.append({n.split(".lora_")[0].split(".layers.")[1] for n in names})

    monkeypatch.setattr(lora, "_train", record)

    after = lora.recover(net, lora.Lora(rank=2, order=order), ctx)

    ends = {"left": ".left", "right": ".right.linear"}
    assert len(learning) == 2
    for factor, names in zip(order, learning, strict=True):
        assert len(names) == 3 * 7  # blocks, matrices
        assert all(name.endswith(ends[factor]) for name in names)
    # Adapters start at zero and did not learn: merging changes no number and no name.
    now = dict(after.named_parameters())
    assert now.keys() == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(now[name], value)


def test_an_order_that_leaves_a_factor_out_is_refused():
    with pytest.raises(ValueError, match="is not left and right"):
        lora.Lora(order=("left", "left"))
