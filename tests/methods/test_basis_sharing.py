import copy

import pytest
import torch
from tiny_llm import FAMILIES, context, logits, tiny

from harness.core import BenchError
from harness.registry import find
from methods._kernels.low_rank.factors import linears, matrix
from methods._kernels.low_rank.groups import groups_across_blocks


def build(name, **options):
    return find("method", name).build(options)


def fit_and_compress(ctx, name, ratio, **options):
    method = build(name, **options)
    return method.compress(method.fit(ctx.model, ctx), ratio, ctx).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_of_one_block_are_svd_llm(family, tmp_path):
    ctx = context(tiny(family), tmp_path)
    one = fit_and_compress(ctx, "basis_sharing", 0.4, group_size=1)
    two = fit_and_compress(ctx, "svd_llm", 0.4)
    assert torch.equal(logits(one), logits(two))


def product(net, name):
    thin = net.get_submodule(name)
    return (thin.left.weight @ thin.right.weight).detach()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_own_refit_never_raises_the_error_of_any_block(family, tmp_path):
    ctx = context(tiny(family), tmp_path)
    pooled = fit_and_compress(ctx, "basis_sharing", 0.4)
    own = fit_and_compress(ctx, "basis_sharing", 0.4, refit="own_gram")
    better = 0
    for name, module in linears(ctx.model).items():
        gram = ctx.calibration().gram(name)
        errors = []
        for net in (pooled, own):
            gap = (matrix(module) - product(net, name)).double()
            errors.append(float((gap @ gram.double() * gap).sum()))
        assert errors[1] <= errors[0] * (1 + 1e-5)
        better += errors[1] < errors[0] * 0.99
    assert better >= 3


def test_members_of_a_group_share_one_basis_tensor(tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    net = fit_and_compress(ctx, "basis_sharing", 0.4)
    layers = net.model.layers

    assert layers[0].self_attn.q_proj.right is layers[1].self_attn.q_proj.right
    assert layers[0].mlp.down_proj.right is not layers[1].mlp.down_proj.right
    assert layers[0].self_attn.q_proj.right is not layers[0].self_attn.k_proj.right
    assert layers[2].mlp.up_proj.right is not layers[1].mlp.up_proj.right


def test_the_remainder_is_a_smaller_group_of_its_own_rank_unless_told(tmp_path):
    # gate_proj is 40 x 24. At 0.4 blocks 0 and 1 keep floor(0.6 * 80 * 24 / 104) = 11
    # and the last block alone floor(0.6 * 40 * 24 / 64) = 9.
    ctx = context(tiny("llama"), tmp_path)
    ranks = {}
    for remainder in ("own", "full"):
        net = fit_and_compress(ctx, "basis_sharing", 0.4, remainder=remainder)
        ranks[remainder] = [b.mlp.gate_proj.left.in_features for b in net.model.layers]
    assert ranks == {"own": [11, 11, 9], "full": [11, 11, 11]}


def test_groups_cover_every_matrix_once():
    model = tiny("mistral")
    for size in (1, 2, 3, 5):
        groups = groups_across_blocks(model, size=size, shared=("query", "up"))
        names = [name for group in groups for name in group.names]
        assert sorted(names) == sorted(linears(model))
        assert max(len(group.names) for group in groups) == min(size, 3)


def test_a_pooled_update_with_the_dense_statistics_would_change_nothing(tmp_path):
    # With G' = G the update (B^T G B)^-1 B^T G W is the coefficient that the SVD gave;
    # the first group's blocks see the dense inputs of block 0 only, so compare there.
    ctx = context(tiny("llama"), tmp_path)
    plain = fit_and_compress(ctx, "svd_llm", 0.4)
    updated = fit_and_compress(ctx, "svd_llm", 0.4, update=True)
    first = "model.layers.0.self_attn.q_proj"
    torch.testing.assert_close(product(updated, first), product(plain, first))
    last = "model.layers.2.mlp.down_proj"
    assert not torch.allclose(product(updated, last), product(plain, last))


def test_the_sequential_update_is_least_squares_on_inputs_of_the_compressed_prefix(
    tmp_path,
):
    # Second implementation: whole forward passes and torch.linalg.lstsq. The input of
    # block 1 comes from the updated block 0, and runs through the dense block 1.
    ctx = context(tiny("llama"), tmp_path, samples=24)
    net = fit_and_compress(ctx, "svd_llm", 0.5, update=True, update_samples=0)
    name = "model.layers.1.mlp.gate_proj"
    thin, dense = net.get_submodule(name), ctx.model.net.get_submodule(name)
    probe = copy.deepcopy(net)
    probe.model.layers[1] = copy.deepcopy(ctx.model.net.model.layers[1])
    seen = []
    probe.get_submodule(name).register_forward_pre_hook(lambda _, a: seen.append(a[0]))
    with torch.no_grad():
        probe(input_ids=ctx.calibration().tokens, use_cache=False)
        x = seen[0].flatten(0, 1).double()
        inputs, outputs = x @ thin.right.weight.T.double(), x @ dense.weight.T.double()
        expected = torch.linalg.lstsq(inputs, outputs).solution.T
        torch.testing.assert_close(
            thin.left.weight.double(), expected, rtol=1e-3, atol=1e-4
        )


def test_an_empty_group_is_refused():
    from harness.core import BenchError

    with pytest.raises(BenchError, match="group_size 0 is below 1"):
        build("basis_sharing", group_size=0)


def test_experts_of_a_block_share_the_best_basis_for_the_sum_of_their_grams(tmp_path):
    # A second implementation in float64: the four gates below each other, whitened by
    # a Cholesky factor, cut at k = floor(0.6 * 4 * 16 * 24 / (4 * 16 + 24)) = 10.
    ctx = context(tiny("qwen3_moe"), tmp_path)
    net = fit_and_compress(ctx, "basis_sharing", 0.4, groups="experts")
    names = [f"model.layers.1.mlp.experts.{n}.gate_proj" for n in range(4)]
    dense = [ctx.model.net.get_submodule(n).weight.detach().double() for n in names]
    gram = sum(ctx.calibration().gram(name).double() for name in names)
    root = torch.linalg.cholesky(gram)
    u, s, v = torch.linalg.svd(torch.cat(dense) @ root, full_matrices=False)
    best = (u[:, :10] * s[:10]) @ v[:10] @ torch.linalg.inv(root)

    thin = [net.get_submodule(name) for name in names]
    assert {one.right.weight.shape for one in thin} == {(10, 24)}
    assert all(one.right is thin[0].right for one in thin)
    for name, wanted in zip(names, best.split(16), strict=True):
        found = product(net, name).double()
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    alone = net.model.layers[1].mlp.experts.get_submodule("0.down_proj")
    assert alone.right is not net.get_submodule(names[0]).right


def test_a_full_remainder_does_not_go_with_experts():
    with pytest.raises(BenchError, match="leave one of the two out"):
        build("basis_sharing", groups="experts", remainder="full")
