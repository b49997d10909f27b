import pytest
import torch
from tiny_llm import context, tiny

from harness.core import NotFinite
from harness.registry import find
from methods._kernels.low_rank import lora
from methods._kernels.low_rank.curvature import likelihood


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


def test_the_loss_is_the_mean_over_windows_and_its_curve_has_every_epoch(compressed):
    ctx, net = compressed
    tokens = ctx.calibration().tokens
    with torch.no_grad():
        each = [
            float(likelihood(net(input_ids=w[None], use_cache=False).logits, w[None]))
            for w in tokens
        ]
    # A rate of zero leaves the network as it is.
    recipe = lora.Lora(rank=2, epochs=2, learning_rate=0.0, batch=3)

    lora.recover(net, recipe, ctx)

    curve = [m for m in ctx.recorded if m.metric == "recovery_loss"]
    assert [m.step for m in curve] == [0, 1, 2, 3]
    mean = sum(each) / len(each)
    assert [m.value for m in curve] == pytest.approx([mean] * 4, rel=1e-5)


@pytest.mark.parametrize(
    ("warmup", "shares"), [(0, [1, 1, 1]), (2, [0.5, 1, 1]), (4, [0.25, 0.5, 0.75])]
)
def test_the_rate_rises_linearly_over_the_warmup(
    monkeypatch, compressed, warmup, shares
):
    ctx, net = compressed
    rates = []

    class Recorded(torch.optim.AdamW):
        def step(self, closure=None):
            rates.extend(group["lr"] for group in self.param_groups)
            assert self.param_groups[0]["weight_decay"] == 0
            super().step(closure)

    monkeypatch.setattr(torch.optim, "AdamW", Recorded)
    count = len(ctx.calibration().tokens)
    batch = -(-count // 3)  # three steps in an epoch

    recipe = lora.Lora(rank=2, epochs=1, learning_rate=0.01, batch=batch, warmup=warmup)
    lora.recover(net, recipe, ctx)

    assert len(rates) == 2 * 3
    assert rates[:3] == rates[3:] == pytest.approx([0.01 * share for share in shares])


def test_training_lowers_the_loss_and_leaves_every_weight_trainable(compressed):
    ctx, net = compressed
    recipe = lora.Lora(rank=4, epochs=3, learning_rate=5e-3, warmup=1)

    after = lora.recover(net, recipe, ctx)

    losses = [m.value for m in ctx.recorded if m.metric == "recovery_loss"]
    assert losses[-1] < losses[0]
    assert not after.training
    assert all(p.requires_grad for p in after.parameters())


def test_a_loss_that_is_not_finite_ends_the_training(compressed):
    ctx, net = compressed
    with torch.no_grad():
        net.model.norm.weight.fill_(torch.inf)

    with pytest.raises(NotFinite, match="the loss of LoRA epoch 0 is"):
        lora.recover(net, lora.Lora(rank=2), ctx)
