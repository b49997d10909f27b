"""What every low-rank method owes, on tiny models of five families."""

from functools import cache

import pytest
import torch
from tiny_llm import FAMILIES, context, logits, tiny

from harness.core import NotFinite, Unsupported
from harness.registry import find
from harness.toolkit import saved_model
from harness.toolkit.devices import cast
from harness.toolkit.model_size import achieved, size
from methods._kernels.low_rank.curvature import differentiable, row_fisher
from methods._kernels.low_rank.factors import linears, matrix

METHODS = {
    "svd": {},
    "joint_rank_k": {},
    "joint_rank_k whitened": {"whiten": True, "extra_groups": "qkv"},
    "fwsvd": {},
    "asvd": {"search_samples": 2, "keep": [0.3, 0.6, 0.9]},
    "asvd unsearched": {"search": False},
    "svd_llm": {},
    "svd_llm updated": {"update": True},
    "svd_llm cholesky": {"whitening": "cholesky"},
    "svd_llm_v2": {},
    "d_rank": {},
    "basis_sharing": {},
    "basis_sharing refitted": {"refit": "own_gram"},
    "basis_sharing updated": {"update": True},
    "basis_sharing both": {"update": True, "refit": "own_gram"},
    "obd_llm": {"samples": 2},
    "water_filling": {"gradient_samples": 2},
    "water_filling plain": {
        "sensitivity": "output",
        "spend": "uniform",
        "pivot": False,
        "join": "none",
    },
}


def built(label):
    return find("method", label.split()[0]).build(METHODS[label])


# Every method on plain and on fused, transposed matrices; the others on the rest too.
BROAD = ("joint_rank_k whitened", "basis_sharing refitted", "water_filling")
PAIRS = [(f, m) for m in METHODS for f in ("llama", "gpt2")]
PAIRS += [(f, m) for m in BROAD for f in FAMILIES if f not in ("llama", "gpt2")]


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    return cache(lambda f: context(tiny(f), tmp_path_factory.mktemp(f)))


def weights(net, ctx):
    """Stored weights in the place of the matrices, a shared one once."""
    found = {
        id(value): value.numel()
        for name in linears(ctx.model)
        for key, value in net.get_submodule(name).named_parameters()
        if not key.endswith("bias")
    }
    return sum(found.values())


@pytest.mark.parametrize(("family", "label"), PAIRS)
def test_every_method_keeps_its_budget_and_its_promises(family, label, contexts):
    ctx, method = contexts(family), built(label)
    before = {k: v.clone() for k, v in ctx.model.net.state_dict().items()}
    fitted = method.fit(ctx.model, ctx)
    dense = sum(matrix(m).numel() for m in linears(ctx.model).values())

    assert torch.equal(logits(method.compress(fitted, 0, ctx)), logits(ctx.model.net))
    sizes = []
    for ratio in (0.2, 0.5):
        net = method.compress(fitted, ratio, ctx).eval()
        sizes.append(weights(net, ctx))
        assert sizes[-1] <= (1 - ratio) * dense
        # A rank of these tiny matrices is a twelfth of their weights.
        assert sizes[-1] >= (1 - ratio) * dense - dense / 8
        assert logits(net).shape == logits(ctx.model.net).shape
    assert sizes[1] < sizes[0]
    assert torch.equal(logits(method.compress(fitted, 0.5, ctx).eval()), logits(net)), (
        "compressing must not spoil what was fitted"
    )
    for name, value in ctx.model.net.state_dict().items():
        assert torch.equal(value, before[name]), "the dense network was changed"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("label", ["basis_sharing", "water_filling"])
def test_a_compressed_network_survives_its_file(family, label, contexts, tmp_path):
    ctx, method = contexts(family), built(label)
    net = method.compress(method.fit(ctx.model, ctx), 0.4, ctx).eval()
    folder = tmp_path / "saved"
    ctx.model.net.save_pretrained(tmp_path / "dense")
    origin = {"model": str(tmp_path / "dense"), "options": {}, "shape": None}
    saved_model.save(ctx.model.with_net(net), origin, folder)

    again = saved_model.load(folder)
    assert torch.equal(logits(again.net), logits(net))
    size = (folder / "model.safetensors").stat().st_size
    assert saved_model.saved_bytes(net) == saved_model.saved_bytes(again.net) == size


# A weight of a half-precision network is rounded to 8 or 11 binary digits, as its
# activations are, so that each layer adds a relative error of 2^-9 or 2^-12. The
# three blocks of seven matrices with random weights amplify it; ten times that is left
# for the sum of all.
CLOSE = {"bfloat16": 10 * 2**-9 * 7, "float16": 10 * 2**-12 * 7}
UNIFORM = [
    m
    for m in METHODS
    if m.split()[0] not in ("asvd", "d_rank", "svd_llm_v2", "water_filling")
]


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("label", UNIFORM)
def test_half_precision_differs_from_float32_by_rounding_alone(label, dtype, tmp_path):
    half = context(tiny("llama", dtype=getattr(torch, dtype)), tmp_path / "half")
    model = tiny("llama", dtype=getattr(torch, dtype))
    cast(model.net, torch.float32)  # the same rounded weights
    full = context(model, tmp_path / "full")
    made = []
    for ctx in (half, full):
        method = built(label)
        net = method.compress(method.fit(ctx.model, ctx), 0.2, ctx).eval()
        made.append(logits(net).float())
    gap = float((made[0] - made[1]).norm() / made[1].norm())
    assert gap < CLOSE[dtype]


def test_gradients_below_the_range_of_float16_still_count(tmp_path):
    # A small head scales all gradients down, to about 1e-8: float16 rounds them to zero
    # or to one of a few numbers. The same weights in float32 give the right ones.
    model = tiny("llama", dtype=torch.float16, tie_word_embeddings=False)
    with torch.no_grad():
        model.net.lm_head.weight.mul_(1e-4)
    ctx = context(model, tmp_path)
    name, tokens = "model.layers.0.mlp.up_proj", ctx.calibration().tokens
    expected = row_fisher(cast(ctx.dense(), torch.float32), [name], tokens)[name]
    found = row_fisher(differentiable(ctx), [name], tokens)[name]
    assert float(expected.min()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


def test_no_hook_is_left_on_a_network_whose_backward_pass_fails(tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    net, names = ctx.dense(), list(linears(ctx.model))
    with torch.no_grad():
        net.lm_head.weight.fill_(float("nan"))
    with pytest.raises(NotFinite, match="the loss of calibration window 0"):
        row_fisher(net, names, ctx.calibration().tokens)
    assert not any(p._post_accumulate_grad_hooks for p in net.parameters())
    assert not any(m._forward_hooks for m in net.modules())


def test_a_ratio_of_all_weights_is_reached_by_the_groups_alone():
    ctx = context(tiny("llama"))
    method = find("method", "joint_rank_k").build({"single": "dense"})
    fitted = method.fit(ctx.model, ctx)
    net = method.compress(fitted, 0.2, ctx)
    dense = sum(matrix(m).numel() for m in linears(ctx.model).values())
    assert 0.2 <= 1 - weights(net, ctx) / dense < 0.25
    sizes = (size(ctx.model), size(ctx.model.with_net(net)))
    removed = 1 - weights(net, ctx) / dense
    assert achieved("weights", ctx.model, net, sizes) == pytest.approx(removed)
    # Query, key, gate and up: 24 x (24 + 12 + 40 + 40) of 24 x 232 weights.
    assert [(m.metric, m.value) for m in ctx.recorded] == [("coverage", 116 / 192)]
    value = net.model.layers[0].self_attn.v_proj
    assert torch.equal(
        value.weight, ctx.model.net.model.layers[0].self_attn.v_proj.weight
    )
    with pytest.raises(Unsupported, match="use single: svd"):
        method.compress(fitted, 0.9, ctx)


def test_a_block_without_pairs_has_nothing_to_decompose_jointly():
    ctx = context(tiny("gpt2"))  # one fused matrix for query, key and value
    method = find("method", "joint_rank_k").build({"single": "dense"})
    with pytest.raises(Unsupported, match="no two matrices to decompose jointly"):
        method.compress(method.fit(ctx.model, ctx), 0.2, ctx)
