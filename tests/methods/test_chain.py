from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import dense
from tiny_llm import FAMILIES, context, logits, tiny
from torch import nn

from harness.contracts.samples import OPTIONS
from harness.core import BenchError, Context
from harness.registry import discover, find
from harness.toolkit import saved_model
from methods._kernels.low_rank.factors import Group, linears, matrix
from methods._kernels.low_rank.pivots import install_pivoted
from methods._kernels.rounded import Rounded
from methods.round_to_nearest import rounded

CHAIN = ["joint_rank_k", {"name": "round_to_nearest", "bits": 8}]


def chain(*members):
    return find("method", "chain").build({"chain": list(members)})


@pytest.mark.parametrize("family", FAMILIES)
def test_thin_factors_are_rounded_and_the_shared_one_stays_shared(family, tmp_path):
    ctx, method = context(tiny(family)), chain(*CHAIN)
    net = method.compress(method.fit(ctx.model, ctx), 0.3, ctx).eval()
    dense = linears(ctx.model)

    kinds = {type(m) for n in dense for m in net.get_submodule(n).modules()}
    assert Rounded in kinds
    assert nn.Linear not in kinds
    if family == "llama":
        attention = net.model.layers[0].self_attn
        assert attention.q_proj.right is attention.k_proj.right
    ctx.model.net.save_pretrained(tmp_path / "dense")
    origin = {"model": str(tmp_path / "dense"), "options": {}, "shape": None}
    saved_model.save(ctx.model.with_net(net), origin, tmp_path / "saved")
    assert torch.equal(logits(saved_model.load(tmp_path / "saved").net), logits(net))
    size = (tmp_path / "saved" / "model.safetensors").stat().st_size
    assert saved_model.saved_bytes(net) == size


def test_a_chain_is_its_members_one_after_the_other():
    ctx, method = context(tiny("llama")), chain(*CHAIN)
    both = method.compress(method.fit(ctx.model, ctx), 0.3, ctx).eval()
    first = find("method", "joint_rank_k").build({})
    net = first.compress(first.fit(ctx.model, ctx), 0.3, ctx)
    for module in {
        m for n in linears(ctx.model) for m in net.get_submodule(n).modules()
    }:
        if type(module) is nn.Linear:
            # Second implementation: 127 levels to each side of every row.
            scale = module.weight.abs().amax(1, keepdim=True) / 127
            module.weight.data = (module.weight / scale).round() * scale
    torch.testing.assert_close(logits(both), logits(net), rtol=1e-4, atol=1e-4)


def test_a_first_member_with_a_fixed_ratio_gives_the_chain_its_ratio():
    # wanda has a ratio of its own only with a pattern.
    for first in ({"name": "wanda", "ratio": 0.3}, {"name": "magnitude", "ratio": 0.3}):
        assert chain(first, "round_to_nearest").ratios() == (0.3,)


@pytest.mark.parametrize(
    ("members", "recorded"),
    [
        # The zeros of a member that does not take the ratio say nothing of it.
        (["svd", {"name": "magnitude", "ratio": 0.1}], []),
        # The zeros are a share of thin matrices; the chain's are counted in the result.
        ([{"name": "svd", "ratio": 0.2}, "magnitude"], []),
        # Factors of what was pruned have no zeros; what is gone is counted, too.
        (["magnitude", {"name": "svd", "ratio": 0.2}], []),
        # Only the method knows the share of the stream's width: 16 of 24 are left.
        ([{"name": "magnitude", "ratio": 0.2}, {"name": "slicegpt", "multiple": 1}],
         [1 / 3]),
    ],
)  # fmt: skip
def test_what_a_chain_achieved_is_a_share_of_the_dense_network(
    members, recorded, tmp_path
):
    ctx, method = context(tiny("llama"), tmp_path), chain(*members)
    method.compress(method.fit(ctx.model, ctx), 0.3, ctx)
    found = [m.value for m in ctx.recorded if m.metric == "achieved_ratio"]
    assert found == pytest.approx(recorded, abs=1e-3)


def test_zeros_of_a_classifier_are_a_share_of_the_dense_weights():
    model = dense("digits_convnet")
    members = {"name": "l1_filter", "ratio": 0.5}, "magnitude"
    ctx = Context(model=model, seed=0, device=torch.device("cpu"))
    net = chain(*members).compress(None, 0.5, ctx)
    weights = {n: p for n, p in model.net.named_parameters() if p.ndim > 1}
    left = sum(int(net.get_parameter(n).count_nonzero()) for n in weights)
    whole = sum(p.numel() for p in weights.values())

    (found,) = [m.value for m in ctx.recorded if m.metric == "achieved_ratio"]
    assert found == pytest.approx(1 - left / whole)
    assert 0.7 < found < 0.8  # half of the half that the filters left


@pytest.mark.parametrize("name", ["wanda", "sparsegpt", "magnitude"])
@pytest.mark.parametrize("first", ["svd", "joint_rank_k"])
def test_thin_factors_are_pruned(first, name, tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    method = chain(first, {"name": name, "ratio": 0.5})
    net = method.compress(method.fit(ctx.model, ctx), 0.3, ctx)

    thin = find("method", first).build({})
    whole = thin.compress(thin.fit(ctx.model, ctx), 0.3, ctx)
    parts = {n: m for n, m in net.named_modules() if n.endswith((".left", ".right"))}
    assert len(parts) > 20
    zeros = sum(int((m.weight == 0).sum()) for m in parts.values())
    assert zeros / sum(m.weight.numel() for m in parts.values()) > 0.45
    if name != "sparsegpt":  # which corrects the weights that stay
        for path, module in parts.items():
            before, after = whole.get_submodule(path).weight, module.weight
            assert torch.equal(after[after != 0], before[after != 0])


def test_ratio_zero_of_a_chain_is_the_dense_network():
    ctx, method = context(tiny("llama")), chain(*CHAIN)
    net = method.compress(method.fit(ctx.model, ctx), 0, ctx)
    assert torch.equal(logits(net), logits(ctx.model.net))


def test_a_chain_needs_what_its_members_need():
    facts = chain({"name": "joint_rank_k", "whiten": True}, "round_to_nearest").facts()
    assert facts["needs"] == {"linears", "calibration"}
    assert facts["ratio_of"] == "weights"
    assert facts["kinds"] == {"causal_lm"}
    assert chain(*CHAIN).ratios() is None
    assert chain("round_to_nearest").ratios() == (0.75,)
    # Of a weight of 16 bits, 8 are removed.
    assert chain("round_to_nearest").ratios("bfloat16") == (0.5,)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "at least one"),
        (["svd", "magnitude"], "svd and magnitude"),
        ([{"bits": 8}], "neither a name nor has one"),
        (["svdd"], "Did you mean 'svd'"),
        ([{"name": "svd", "ratio": 1.2}], "not in"),
    ],
)
def test_a_chain_that_is_none_is_refused(members, message):
    with pytest.raises(BenchError, match=message):
        chain(*members)


@settings(max_examples=30, deadline=None)
@given(
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([None, 1, 3, 8, 100]),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 17)),
    seed=st.integers(0, 99),
)
def test_no_weight_is_off_by_more_than_half_a_step_and_packing_loses_nothing(
    bits, group, shape, seed
):
    linear = nn.Linear(shape[1], shape[0])
    rng = torch.Generator().manual_seed(seed)
    linear.weight.data = torch.randn(shape, generator=rng)
    made = rounded(linear, bits, group)
    size = min(group or shape[1], shape[1])
    scale = made.scales.repeat_interleave(size, 1)[:, : shape[1]]

    assert ((made.weight - linear.weight).abs() <= scale * 0.5001).all()
    again = Rounded(**made.spec())
    again.unpack(made.pack())
    assert torch.equal(again.weight, made.weight)
    if bits == 4:
        assert made.pack()["codes"].numel() == shape[0] * -(-shape[1] // 2)


def test_rounding_a_zero_row_keeps_it_zero():
    linear = nn.Linear(4, 2, bias=False)
    linear.weight.data[0] = 0
    assert torch.equal(rounded(linear, 4, None).weight[0], torch.zeros(4))


def test_eight_bits_take_a_quarter_of_the_bytes_of_the_matrices():
    ctx = context(tiny("llama"))
    method = find("method", "round_to_nearest").build({})
    (ratio,) = method.ratios()
    net = method.compress(None, ratio, ctx)
    dense = linears(ctx.model)
    before = sum(4 * matrix(m).numel() for m in dense.values())
    packs = [net.get_submodule(n).pack() for n in dense]
    after = sum(t.numel() * t.element_size() for p in packs for t in p.values())
    assert 1 - after / before == pytest.approx(ratio, abs=0.05)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_off_by_half_a_scale_at_most(dtype, bits):
    # A scale near 1e-6 is below the normal range of float16; rounding it down would
    # clip the largest weights.
    rng = torch.Generator().manual_seed(0)
    for size in (1.0, 1e-4):
        linear = nn.Linear(64, 32)
        linear.weight.data = torch.randn(32, 64, generator=rng) * size
        linear.to(dtype)
        made = rounded(linear, bits, None)
        assert made.scales.dtype == dtype
        scale = made.scales.double()
        gap = made.codes.double() * scale - linear.weight.double()
        assert bool((gap.abs() <= 0.5 * scale * (1 + 1e-6)).all())


LOW_RANK = [
    name
    for name, plugin in discover("method").items()
    if {"linears"} <= plugin.facts["needs"] and plugin.facts["ratio_of"] == "weights"
]


@pytest.mark.parametrize("first", LOW_RANK)
@pytest.mark.parametrize("ratio", [0.02, 0.5])
def test_whatever_a_low_rank_method_leaves_can_be_rounded(first, ratio, tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    options = OPTIONS.get(first, {})
    method = chain({"name": first, **options}, {"name": "round_to_nearest", "bits": 8})
    alone = find("method", first).build(options)
    fitted = alone.fit(ctx.model, ctx) if hasattr(alone, "fit") else None
    plain = alone.compress(fitted, ratio, ctx).eval()
    net = method.compress(method.fit(ctx.model, ctx), ratio, ctx).eval()

    off = (logits(net) - logits(plain)).abs().max() / logits(plain).abs().max()
    assert 0 < off < 0.1  # a step of 8 bits is 1/127 of the largest weight of a row
    assert any(isinstance(m, Rounded) for m in net.modules())


@pytest.mark.parametrize("name", ["round_to_nearest", "gptq"])
def test_a_layer_whose_rows_are_all_pivots_can_be_rounded(name, tmp_path):
    # The rows of the keys are an identity, those of the queries are small: the pivots
    # of the group are the keys' rows, and the keys' layer has no other row to mix.
    ctx = context(tiny("llama"), tmp_path)
    net = ctx.dense()
    names = ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj")
    query, key = (matrix(net.get_submodule(n)) for n in names)
    left = torch.cat([1e-3 * query[:, : len(key)], torch.eye(len(key))])
    install_pivoted(net, Group(names), left, key.detach().clone())
    assert net.get_submodule(names[1]).mix.weight.shape[0] == 0
    here = replace(ctx, model=ctx.model.with_net(net))

    method = find("method", name).build({"bits": 8})
    (ratio,) = method.ratios()
    done = method.compress(None, ratio, here).eval()

    off = (logits(done) - logits(net)).abs().max() / logits(net).abs().max()
    assert 0 < off < 0.1
