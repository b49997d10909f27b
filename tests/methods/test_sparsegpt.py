import pytest
import torch
from prefix_inputs import inputs_behind
from tiny_llm import context, tiny

from harness.core import BenchError, NotFinite, Unsupported
from harness.registry import find
from methods._kernels.column_solver import bounds, inverse_factor, solve
from methods._kernels.low_rank.factors import linears, matrix
from methods._kernels.patterns import parse
from methods.sparsegpt import Chooser


def problem(out, width, seed=0, tokens=50):
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=rng, dtype=torch.float64)
    inputs = torch.randn(tokens, width, generator=rng, dtype=torch.float64) @ mix
    weight = torch.randn(out, width, generator=rng, dtype=torch.float64)
    return weight, inputs.T @ inputs / tokens


def pruned(weight, gram, ratio, blocksize, pattern=None, damping=0.01, **more):
    factor, _ = inverse_factor(gram, damping, "a matrix")
    rule = Chooser(
        diagonal=factor.diagonal(),
        ratio=ratio,
        blocksize=blocksize,
        pattern=pattern and parse(pattern),
        **more,
    )
    return solve(weight, factor, rule, bounds(weight.shape[1], blocksize))


def reference(weight, gram, ratio, blocksize, pattern=None, damping=0.01):
    """The algorithm of the paper in plain loops, with a new inverse at each column."""
    width = weight.shape[1]
    damped = gram + damping * gram.diagonal().mean() * torch.eye(width)
    inverses = [torch.linalg.inv(damped[j:, j:]) for j in range(width)]
    kept, group = map(int, pattern.split(":")) if pattern else (0, 0)
    left = weight.clone()
    zeros = torch.zeros_like(weight, dtype=torch.bool)
    for j in range(width):
        step = group or blocksize
        if j % step == 0:
            chosen = range(j, min(j + step, width))
            cost = {
                (i, k): float(left[i, k] ** 2 / inverses[k][0, 0])
                for i in range(len(weight))
                for k in chosen
            }
            if pattern:
                for i in range(len(weight)):
                    for k in sorted(chosen, key=lambda k: cost[i, k])[: group - kept]:
                        zeros[i, k] = True
            else:
                count = -int(-ratio * len(cost) // 1)
                for place in sorted(cost, key=cost.get)[:count]:
                    zeros[place] = True
        for i in range(len(weight)):
            if zeros[i, j]:
                left[i, j:] -= left[i, j] / inverses[j][0, 0] * inverses[j][0]
                left[i, j] = 0.0
    return left


def error(before, after, gram):
    gap = before.double() - after.double()
    return float(((gap @ gram) * gap).sum())


def test_the_removal_of_one_of_six_weights_is_the_best_by_brute_force():
    # Try all six removals. With column j at zero, the later weights are free; their
    # best values solve a least-squares problem, solved here by the normal equations.
    for seed in range(10):
        weight, gram = problem(1, 6, seed)
        tried = []
        for j in range(6):
            best = weight.clone()
            best[0, j], free = 0.0, slice(j + 1, 6)
            right = gram[free, j] * weight[0, j]
            best[0, free] += torch.linalg.solve(gram[free, free], right)
            tried.append((error(weight, best, gram), best))
        _, expected = min(tried, key=lambda pair: pair[0])

        found = pruned(weight, gram, 1 / 6, 6, damping=0.0)

        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("pattern", [None, "2:4", "1:4", "4:8"])
def test_the_solver_agrees_with_plain_loops(pattern):
    for seed in range(3):
        weight, gram = problem(5, 24, seed)
        found = pruned(weight, gram, 0.4, 8, pattern)
        expected = reference(weight, gram, 0.4, 8, pattern)
        torch.testing.assert_close(found, expected)
        assert torch.equal(found == 0, expected == 0)


def test_a_last_block_that_is_shorter_is_pruned_by_the_same_share():
    weight, gram = problem(4, 11)
    found = pruned(weight, gram, 0.5, 4)
    torch.testing.assert_close(found, reference(weight, gram, 0.5, 4))
    assert [int((c == 0).sum()) for c in found.split(4, 1)] == [8, 8, 6]


def test_the_released_threshold_removes_one_more_weight_per_block_of_columns():
    weight, gram = problem(4, 12)
    released = pruned(weight, gram, 0.5, 4, threshold="released")
    assert [int((c == 0).sum()) for c in released.split(4, 1)] == [9, 9, 9]


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2"])
def test_each_block_is_pruned_for_the_inputs_behind_the_pruned_blocks(family, tmp_path):
    ctx = context(tiny(family), tmp_path)
    net = find("method", "sparsegpt").build({"blocksize": 8}).compress(None, 0.5, ctx)
    for block in (0, 2):
        for name, inputs in inputs_behind(ctx, net, block).items():
            gram = inputs.T @ inputs / len(inputs)
            dense = matrix(ctx.model.net.get_submodule(name)).double()
            found = matrix(net.get_submodule(name))
            expected = reference(dense, gram, 0.5, 8)
            wanted = error(dense, expected, gram)
            assert error(dense, found, gram) == pytest.approx(wanted, rel=1e-3)
            assert int((found == 0).sum()) == dense.numel() // 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_pattern_holds_in_every_group_of_every_dtype(dtype, tmp_path):
    ctx = context(tiny("llama", dtype=dtype), tmp_path)
    method = find("method", "sparsegpt").build({"pattern": "2:4"})
    assert method.ratios() == (0.5,)
    net = method.compress(None, 0.5, ctx)
    for name in linears(ctx.model):
        weight = matrix(net.get_submodule(name))
        assert weight.dtype == dtype
        zeros = (weight.reshape(-1, 4) == 0).sum(1)
        assert bool((zeros == 2).all())


def test_weights_of_a_dead_input_channel_become_zero(tmp_path):
    model = tiny("llama")
    with torch.no_grad():
        model.net.model.layers[1].input_layernorm.weight[5] = 0
    ctx = context(model, tmp_path)
    net = find("method", "sparsegpt").build({}).compress(None, 0.2, ctx)
    weight = net.model.layers[1].self_attn.q_proj.weight
    assert bool((weight[:, 5] == 0).all())
    # The dead channel is part of the share of zeros: ceil(0.2 * 24 * 24).
    assert int((weight == 0).sum()) == 116


def test_fewer_tokens_than_channels_need_damping(tmp_path):
    ctx = context(tiny("llama"), tmp_path, samples=1, length=5)
    net = find("method", "sparsegpt").build({}).compress(None, 0.5, ctx)
    weight = net.model.layers[2].mlp.down_proj.weight
    assert bool(weight.isfinite().all())
    assert int((weight == 0).sum()) == weight.numel() // 2
    bare = find("method", "sparsegpt").build({"damping": 0.0})
    with pytest.raises(Unsupported, match=r"layers\.0\..* singular .* set damping"):
        bare.compress(None, 0.5, ctx)


def test_what_a_matrix_cannot_hold_is_refused_by_name(tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    odd = find("method", "sparsegpt").build({"pattern": "3:7", "blocksize": 70})
    with pytest.raises(
        Unsupported, match=r"q_proj: its rows have 24 .* not a multiple"
    ):
        odd.compress(None, odd.ratios()[0], ctx)
    with pytest.raises(Unsupported, match=r"sets 0\.5 .* not 0\.2: leave the ratio"):
        find("method", "sparsegpt").build({"pattern": "2:4"}).compress(None, 0.2, ctx)
    with pytest.raises(Unsupported, match=r"leaves nothing of the 960 weights"):
        find("method", "sparsegpt").build({}).compress(None, 0.9999, ctx)


def test_inputs_that_are_all_zero_are_refused_by_name(tmp_path):
    model = tiny("llama")
    with torch.no_grad():
        model.net.model.layers[1].input_layernorm.weight.zero_()
    ctx = context(model, tmp_path)
    with pytest.raises(Unsupported, match=r"layers\.1\.self_attn.* all zero"):
        find("method", "sparsegpt").build({}).compress(None, 0.5, ctx)


def test_a_weight_that_is_not_finite_is_named(tmp_path):
    model = tiny("llama")
    ctx = context(model, tmp_path)
    with torch.no_grad():
        model.net.model.layers[1].mlp.up_proj.weight[2, 3] = float("inf")
    with pytest.raises(NotFinite, match=r"model\.layers\.1\.mlp\.up_proj"):
        find("method", "sparsegpt").build({}).compress(None, 0.5, ctx)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocksize": 0}, "blocksize 0 is below 1"),
        ({"damping": -1.0}, r"damping -1\.0 is not 0 or more"),
        ({"pattern": "4:2"}, r"'4:2' is not 'n:m' with 0 < n < m"),
        ({"pattern": "2:4", "blocksize": 30}, "30 is not a multiple of 4"),
        ({"pattern": "2:4", "threshold": "released"}, "no meaning with pattern"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(BenchError, match=message):
        find("method", "sparsegpt").build(options)
