import pytest
import torch
from prefix_inputs import inputs_behind
from tiny_llm import FAMILIES, context, tiny

from harness.core import BenchError, Unsupported
from harness.registry import find
from methods._kernels.low_rank.factors import linears, matrix
from methods.wanda import least_mass


@pytest.mark.parametrize("family", FAMILIES)
def test_the_least_products_of_every_row_become_zero(family, tmp_path):
    # Second implementation: sort |w| ||x|| of each row, with norms over raw inputs.
    ctx = context(tiny(family), tmp_path)
    method = find("method", "wanda").build({"inputs": "dense"})
    net = method.compress(None, 0.5, ctx)
    seen = {}
    for name, module in linears(ctx.model).items():
        module.register_forward_pre_hook(
            lambda _, args, name=name: seen.__setitem__(name, args[0].detach())
        )
    with torch.no_grad():
        ctx.model.net(input_ids=ctx.calibration().tokens, use_cache=False)
    for name, module in linears(ctx.model).items():
        dense, pruned = matrix(module), matrix(net.get_submodule(name))
        norms = seen[name].flatten(0, -2).norm(dim=0)
        order = (dense.abs() * norms).argsort(1)
        half = dense.shape[1] // 2
        expected = dense.scatter(1, order[:, :half], 0.0)
        assert torch.equal(pruned, expected)


def test_outlying_inputs_save_small_weights(tmp_path):
    # One input channel is 1,000 times as large as the others, and its weights are a
    # hundred times as small (0.002 and 0.2 times a standard normal number): magnitude
    # removes them all, and Wanda, which sees ten times the usual product, none.
    model, channel = tiny("llama"), 5
    block = model.net.model.layers[1]
    with torch.no_grad():
        block.post_attention_layernorm.weight[channel] = 1000.0
        block.mlp.up_proj.weight[:, channel] = 0.002
    ctx = context(model, tmp_path)
    zeroed = {}
    for name in ("wanda", "magnitude"):
        options = {"scope": "layer"} if name == "magnitude" else {}
        net = find("method", name).build(options).compress(None, 0.5, ctx)
        column = net.model.layers[1].mlp.up_proj.weight[:, channel]
        zeroed[name] = float((column == 0).float().mean())
    assert zeroed["wanda"] == 0.0
    assert zeroed["magnitude"] == 1.0


def test_a_ratio_that_empties_rows_is_refused(tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    with pytest.raises(Unsupported, match="leaves nothing of the 24 weights in a row"):
        find("method", "wanda").build({}).compress(None, 0.99, ctx)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_norms_are_those_behind_the_pruned_blocks(family, tmp_path):
    ctx = context(tiny(family), tmp_path)
    net = find("method", "wanda").build({}).compress(None, 0.5, ctx)
    moved = 0
    for block in (0, 1, 2):
        before = inputs_behind(ctx, ctx.model.net, block)
        for name, inputs in inputs_behind(ctx, net, block).items():
            dense = matrix(ctx.model.net.get_submodule(name))
            half = dense.shape[1] // 2
            scores = dense.abs() * inputs.norm(dim=0)
            zeros = scores.argsort(1)[:, :half].sort(1).values
            found = (matrix(net.get_submodule(name)) == 0).nonzero()[:, 1]
            assert torch.equal(found.view(len(dense), half), zeros)
            old = (dense.abs() * before[name].norm(dim=0)).argsort(1)[:, :half]
            moved += int(not torch.equal(old.sort(1).values, zeros))
    assert moved, "the norms of the dense network give the same zeros: the test is void"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_pattern_keeps_the_largest_scores_of_each_group(dtype, tmp_path):
    # One row by hand: the norms of four inputs are 1, 10, 1 and 2. The scores of the
    # weights 4, 0.5, -3 and 1 are 4, 5, 3 and 2, so the first two weights stay.
    ctx = context(tiny("llama", dtype=dtype), tmp_path)
    up = ctx.model.net.model.layers[0].mlp.up_proj
    inputs = inputs_behind(ctx, ctx.model.net, 0)["model.layers.0.mlp.up_proj"]
    norms = inputs.norm(dim=0)[:4]
    with torch.no_grad():
        wanted = torch.tensor([4.0, 0.5, -3.0, 1.0]) * torch.tensor([1.0, 10, 1, 2])
        up.weight[0, :4] = (wanted / norms).to(dtype)
    method = find("method", "wanda").build({"pattern": "2:4"})
    assert method.ratios() == (0.5,)
    net = method.compress(None, 0.5, ctx)
    row = net.model.layers[0].mlp.up_proj.weight[0, :4]
    assert (row == 0).tolist() == [False, False, True, True]
    for name in linears(ctx.model):
        weight = matrix(net.get_submodule(name))
        assert bool(((weight.reshape(-1, 4) == 0).sum(1) == 2).all())


def test_cumulative_rows_lose_the_smallest_shares_of_their_scores():
    # The shares of the sums so far, by hand: row 0 has 1/10, 2/10, 10/10; row 1 has
    # 2/10, 5/10, 10/10 (sorted from 2, 3, 5). The four smallest are the two of row 0
    # and the first two of row 1; with three, row 1 loses only the weight of score 2.
    scores = torch.tensor([[1.0, 8.0, 1.0], [3.0, 2.0, 5.0]])
    three = [[True, False, True], [False, True, False]]
    four = [[True, False, True], [True, True, False]]
    assert least_mass(scores, 3).tolist() == three
    assert least_mass(scores, 4).tolist() == four


def test_cumulative_rows_agree_with_the_bisection_of_the_released_code(tmp_path):
    # The released threshold is alpha times the sum of a row, alpha by bisection, here
    # to the end; it zeroes all weights up to the last one below the threshold.
    scores = torch.rand(8, 50, generator=torch.Generator().manual_seed(0)).double() ** 3
    low, high = 0.0, 1.0
    ordered = scores.sort(1).values
    for _ in range(60):
        alpha = (low + high) / 2
        below = ordered.cumsum(1) <= alpha * scores.sum(1, keepdim=True)
        low, high = (low, alpha) if below.sum() > 200 else (alpha, high)
    below = ordered.cumsum(1) <= low * scores.sum(1, keepdim=True)
    limit = ordered.gather(1, below.sum(1, keepdim=True) - 1)
    assert torch.equal(least_mass(scores, 200), scores <= limit)
    ctx = context(tiny("llama"), tmp_path)
    net = find("method", "wanda").build({"rows": "cumulative"}).compress(None, 0.5, ctx)
    weight = net.model.layers[0].mlp.down_proj.weight
    zeros = (weight == 0).sum(1)
    assert int(zeros.sum()) == weight.numel() // 2
    assert len(set(zeros.tolist())) > 1


def test_a_pattern_that_does_not_divide_the_width_is_refused(tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    method = find("method", "wanda").build({"pattern": "3:7"})
    with pytest.raises(Unsupported, match=r"q_proj: its rows have 24 weights"):
        method.compress(None, method.ratios()[0], ctx)
    with pytest.raises(BenchError, match="rows: cumulative does not go with pattern"):
        find("method", "wanda").build({"pattern": "2:4", "rows": "cumulative"})


def test_weights_of_dead_channels_go_first_and_few_tokens_suffice(tmp_path):
    model = tiny("llama")
    with torch.no_grad():
        model.net.model.layers[1].input_layernorm.weight[5] = 0
    ctx = context(model, tmp_path, samples=1, length=5)
    net = find("method", "wanda").build({}).compress(None, 0.2, ctx)
    weight = net.model.layers[1].self_attn.q_proj.weight
    assert bool((weight[:, 5] == 0).all())
    assert bool(((weight == 0).sum(1) == 5).all())
