"""What cannot be handled exactly is refused, with the layer's name."""

import pytest
import torch
from tiny_llm import context, logits, tiny

from harness.contracts.samples import OPTIONS
from harness.core import Model, NotFinite, Unsupported
from harness.registry import discover, find
from methods._kernels.low_rank.factors import linears

DATA_FREE = ["svd", "joint_rank_k"]
LOW_RANK = [*DATA_FREE, "svd_llm", "basis_sharing", "asvd", "fwsvd", "water_filling"]


QUICK = {"asvd": {"search": False}, "water_filling": {"gradient_samples": 1}}


def method(name):
    return find("method", name).build(QUICK.get(name, {}))


def compress(name, ctx, ratio):
    made = method(name)
    return made.compress(made.fit(ctx.model, ctx), ratio, ctx)


@pytest.mark.parametrize("name", LOW_RANK)
def test_a_ratio_that_leaves_rank_zero_is_refused(name, tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    with pytest.raises(Unsupported, match=r"leaves (rank 0|\d+ weights)"):
        compress(name, ctx, 0.98)


@pytest.mark.parametrize("name", DATA_FREE)
def test_a_weight_that_is_not_finite_is_named(name):
    model = tiny("llama")
    with torch.no_grad():
        model.net.model.layers[1].mlp.up_proj.weight[2, 3] = float("inf")
    with pytest.raises(NotFinite, match=r"model\.layers\.1\.mlp"):
        compress(name, context(model), 0.2)


@pytest.mark.parametrize("name", [*LOW_RANK, "wanda", "round_to_nearest"])
def test_a_model_without_roles_is_refused(name, tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    fields = {f: getattr(ctx.model, f) for f in ctx.model.__slots__}
    ctx.model = Model(**{**fields, "roles": {}})
    made = method(name)
    with pytest.raises(Unsupported, match="has no matrix"):
        made.fit(ctx.model, ctx) if hasattr(made, "fit") else made.compress(
            None, 0.5, ctx
        )


@pytest.mark.parametrize("tie", ["weight", "module"])
def test_a_matrix_that_stands_at_two_places_is_refused(tie):
    model = tiny("llama")
    one, two = (model.net.model.layers[i].mlp for i in (0, 1))
    if tie == "weight":
        two.up_proj.weight = one.up_proj.weight
    else:
        two.up_proj = one.up_proj
    with pytest.raises(Unsupported, match=r"layers\.1\.mlp\.up_proj and .* share one"):
        linears(model)


def test_a_second_low_rank_method_on_thin_factors_is_refused():
    model = tiny("llama")
    net = compress("svd", context(model), 0.5)
    with pytest.raises(Unsupported, match="not a plain matrix"):
        linears(model.with_net(net))


@pytest.mark.parametrize("name", ["svd_llm", "basis_sharing", "water_filling"])
def test_an_input_that_is_always_zero_is_refused_by_name(name, tmp_path):
    model = tiny("llama")
    with torch.no_grad():  # the block's attention reads only zeros
        model.net.model.layers[1].input_layernorm.weight.zero_()
    with pytest.raises(Unsupported, match=r"layers\.[01]\.self_attn.*all zero"):
        compress(name, context(model, tmp_path), 0.2)


def test_fewer_tokens_than_channels_are_handled_exactly(tmp_path):
    # Five tokens, 24 channels: Gram matrices of rank 5 at most, and rank 5 and more
    # kept of every matrix, so that on these tokens nothing is lost.
    ctx = context(tiny("llama"), tmp_path, samples=1, length=5)
    tokens = ctx.calibration().tokens
    net = compress("svd_llm", ctx, 0.3).eval()
    for name in linears(ctx.model):
        assert net.get_submodule(name).left.in_features >= 5
    with torch.inference_mode():
        dense = ctx.model.net(input_ids=tokens, use_cache=False).logits
        thin = net(input_ids=tokens, use_cache=False).logits
    assert float((dense - thin).abs().max()) < 1e-3 * float(dense.abs().max())
    assert not torch.allclose(logits(net), logits(ctx.model.net))


LANGUAGE = sorted(
    name
    for name, plugin in discover("method").items()
    if "causal_lm" in plugin.facts["kinds"]
    and plugin.facts["ratio_of"] != "none"
    # Another test may have loaded plugins of its own.
    and plugin.cls.__module__.startswith("methods.")
)


@pytest.mark.parametrize("name", LANGUAGE)
def test_few_tokens_and_a_dead_channel_give_finite_outputs(name, tmp_path):
    # Five tokens for 24 channels, of which one is zero for every token of every text.
    model = tiny("llama")
    with torch.no_grad():
        for layer in model.net.model.layers:
            layer.input_layernorm.weight[3] = 0
            layer.post_attention_layernorm.weight[3] = 0
    ctx = context(model, tmp_path, samples=1, length=5)
    made = find("method", name).build({**OPTIONS.get(name, {}), **QUICK.get(name, {})})
    fixed = made.ratios() if hasattr(made, "ratios") else None
    fitted = made.fit(model, ctx) if hasattr(made, "fit") else None
    net = made.compress(fitted, (fixed or (0.34,))[0], ctx).eval()
    assert bool(logits(net).isfinite().all())
