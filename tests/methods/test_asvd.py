import pytest
import torch
from tiny_llm import context, tiny
from torch.nn.functional import cross_entropy

from harness.core import BenchError, Unsupported
from harness.registry import find
from methods._kernels.low_rank.curvature import row_fisher
from methods._kernels.low_rank.factors import Factors, Group, linears, matrix
from methods.asvd import searched, share_rank

# Two matrices of 10 x 10. A rank costs 20 weights: share 0.4 is rank 2, 40 weights.
SIZES = {"a": (10, 10), "b": (10, 10)}
LOSSES = {("a", 0.4): 5.0, ("a", 0.8): 2.0, ("b", 0.4): 3.0, ("b", 0.8): 1.0}


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (0.0, {}),
        (0.1, {"b": 0.8}),  # 180 of 200
        (0.2, {"b": 0.8, "a": 0.8}),  # 160
        (0.3, {"b": 0.4, "a": 0.8}),  # 120
        (0.6, {"b": 0.4, "a": 0.4}),  # 80
    ],
)
def test_the_search_takes_in_the_mildest_truncations_until_the_budget_is_met(
    ratio, expected
):
    assert searched(LOSSES, SIZES, ratio) == expected


def test_a_budget_below_the_smallest_shares_is_refused():
    with pytest.raises(Unsupported, match=r"beyond the smallest share 0\.4"):
        searched(LOSSES, SIZES, 0.7)


def test_a_share_is_the_largest_rank_within_it():
    assert [share_rank((10, 10), s) for s in (0.4, 0.59, 0.01)] == [2, 2, 1]


def test_measured_losses_equal_whole_forward_passes(tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    method = find("method", "asvd").build({"search_samples": 3, "keep": [0.5]})
    fitted = method.fit(ctx.model, ctx)
    tokens = ctx.calibration().tokens[:3]
    for name in ("model.layers.0.mlp.up_proj", "model.layers.2.self_attn.v_proj"):
        net = ctx.dense()
        module = net.get_submodule(name)
        factors = fitted.factors[Group((name,))]
        rank = share_rank(module.weight.shape, 0.5)
        left, right = factors.truncate(rank, module.weight.detach())
        with torch.no_grad():
            module.weight.copy_(left @ right)
            found = net(input_ids=tokens).logits[:, :-1]
        loss = cross_entropy(found.flatten(0, 1), tokens[:, 1:].flatten())
        assert fitted.losses[name, 0.5] == pytest.approx(float(loss), rel=1e-5)


def test_channels_are_scaled_by_the_root_of_their_mean_size(tmp_path):
    # Second implementation: SVD of W S with S = diag(mean |x|^0.5), arXiv:2312.05821.
    ctx = context(tiny("llama"), tmp_path)
    method = find("method", "asvd").build({"search": False})
    name = "model.layers.1.mlp.down_proj"
    weight = matrix(linears(ctx.model)[name]).double()
    scale = ctx.calibration().mean_abs(name).double() ** 0.5 + 1e-6
    u, sigma, v = torch.linalg.svd(weight * scale, full_matrices=False)
    expected = (u[:, :5] * sigma[:5]) @ v[:5] / scale
    factors: Factors = method.fit(ctx.model, ctx).factors[Group((name,))]
    left, right = factors.truncate(5, weight.float())
    torch.testing.assert_close((left @ right).double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"keep": []}, {"keep": [1.0]}, {"search_samples": 0}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(BenchError, match=r"between 0 and 1|is below 1"):
        find("method", "asvd").build(options)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_fisher_information_equals_gradients_by_hand(family, tmp_path):
    # Second implementation: autograd on each weight, one window at a time.
    ctx = context(tiny(family), tmp_path, samples=3)
    names, tokens = list(linears(ctx.model)), ctx.calibration().tokens
    found = row_fisher(ctx.dense(), names, tokens)
    net = ctx.dense()
    weights = [net.get_submodule(name).weight for name in names]
    expected = dict.fromkeys(names, 0.0)
    for window in tokens:
        rows = net(input_ids=window[None]).logits[0, :-1]
        gradients = torch.autograd.grad(cross_entropy(rows, window[1:]), weights)
        for name, gradient in zip(names, gradients, strict=True):
            axis = 1 if family == "gpt2" else 0
            expected[name] = expected[name] + gradient.square().sum(axis) / 3
    for name in names:
        torch.testing.assert_close(found[name].float(), expected[name])
