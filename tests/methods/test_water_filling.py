import pytest
import torch
from tiny_llm import FAMILIES, context, logits, tiny

from harness.core import BenchError
from harness.registry import find
from harness.toolkit import model_size
from methods._kernels.low_rank.curvature import OutputCurvature, backward, likelihood
from methods._kernels.low_rank.factors import Group, linears, matrix, stacked
from methods._kernels.low_rank.groups import groups_within_blocks
from methods._kernels.low_rank.installed import install
from methods._kernels.low_rank.pivots import Pivoted, install_pivoted, pivoted_cost


def build(**options):
    return find("method", "water_filling").build({"gradient_samples": 2, **options})


@pytest.mark.parametrize("family", FAMILIES)
def test_pivoted_layers_equal_the_thin_factors_they_were_made_from(family):
    model = tiny(family)
    thin, pivoted = (context(model).dense() for _ in range(2))
    for group in groups_within_blocks(model, "qkv"):
        weight = stacked(linears(model), group)
        u, sigma, v = torch.linalg.svd(weight, full_matrices=False)
        factors = u[:, :7], sigma[:7, None] * v[:7]
        install(thin, group, *factors)
        install_pivoted(pivoted, group, *factors)
        modules = [pivoted.get_submodule(n) for n in group.names]
        stored = {id(p): p.numel() for m in modules for p in m.parameters()}
        biases = sum(m.bias.numel() for m in modules if m.bias is not None)
        places = sum(m.order.numel() for m in modules)
        assert sum(stored.values()) - biases + places == pivoted_cost(*weight.shape, 7)
    torch.testing.assert_close(logits(thin), logits(pivoted), rtol=1e-3, atol=1e-3)


def test_the_achieved_ratio_counts_the_positions_of_the_outputs(tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    method = build()
    net = method.compress(method.fit(ctx.model, ctx), 0.4, ctx)
    dense = model_size.size(ctx.model)
    sizes = (dense, model_size.size(ctx.model.with_net(net)))
    found = model_size.achieved("weights", ctx.model, net, sizes)

    modules = [net.get_submodule(n) for n in linears(ctx.model)]
    thin = [m for m in modules if isinstance(m, Pivoted)]
    stored = {id(p): p.numel() for m in modules for p in m.parameters()}
    positions = sum(m.order.numel() for m in thin)
    before = sum(matrix(m).numel() for m in linears(ctx.model).values())
    assert positions > 0
    assert found == pytest.approx(1 - (sum(stored.values()) + positions) / before)
    assert found >= 0.4


def test_members_of_a_group_compute_the_shared_rows_once():
    ctx = context(tiny("llama"))
    net = ctx.dense()
    group = groups_within_blocks(ctx.model, "qkv")[0]
    weight = stacked(linears(ctx.model), group)
    u, sigma, v = torch.linalg.svd(weight, full_matrices=False)
    install_pivoted(net, group, u[:, :5], sigma[:5, None] * v[:5])
    calls = []
    right = net.get_submodule(group.names[0]).right
    right.linear.register_forward_hook(lambda *_: calls.append(1))
    one = logits(net)
    assert len(calls) == 1
    assert torch.equal(logits(net), one)
    assert len(calls) == 2
    assert right._last is None


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_curvature_equals_gradients_by_hand(family, tmp_path):
    # Second implementation: autograd of the loss by each output, stacked by group.
    ctx = context(tiny(family), tmp_path, samples=2)
    tokens, net = ctx.calibration().tokens, ctx.dense().requires_grad_(False)
    groups = groups_within_blocks(ctx.model, "qkv")
    curvature = OutputCurvature(net, groups)
    with curvature.watch():
        assert list(backward(net, tokens, likelihood)) == [0, 1]
    found = curvature.mean()

    outputs = {}
    for name in linears(ctx.model):
        net.get_submodule(name).register_forward_hook(
            lambda _, args, out, name=name: outputs.__setitem__(name, out)
        )
    rows = {group: [] for group in groups}
    for window in tokens:
        embedded = net.get_input_embeddings()(window[None]).requires_grad_(True)
        loss = likelihood(net(inputs_embeds=embedded).logits, window[None])
        wanted = [outputs[n] for g in groups for n in g.names]
        gradients = iter(torch.autograd.grad(loss, wanted))
        for group in groups:
            parts = [next(gradients)[0] for _ in group.names]
            rows[group].append(torch.cat(parts, 1))
    for group in groups:
        g = torch.cat(rows[group]).double()
        weight = stacked(linears(ctx.model), group).double()
        if weight.shape[0] > weight.shape[1]:
            g = g @ weight
        expected = g.T @ g / len(g)
        scale = float(expected.abs().max())
        torch.testing.assert_close(found[group], expected, rtol=1e-4, atol=1e-6 * scale)


def test_ranks_go_where_the_loss_feels_them(tmp_path):
    # The last block's output is scaled to nothing, so its matrices are worth little.
    model = tiny("llama")
    with torch.no_grad():
        model.net.model.layers[2].mlp.down_proj.weight.mul_(1e-3)
    ctx = context(model, tmp_path)
    method = build(join="none", pivot=False)
    ranks = method.ranks(method.fit(model, ctx), 0.4)

    def rank(block):
        found = ranks[Group((f"model.layers.{block}.mlp.up_proj",))]
        return 999 if found is None else found

    assert rank(2) < min(rank(0), rank(1))


def test_the_seed_draws_the_labels_and_nothing_else(tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    method = build()
    again = [method.compress(method.fit(ctx.model, ctx), 0.3, ctx) for _ in range(2)]
    assert torch.equal(logits(again[0].eval()), logits(again[1].eval()))
    ctx.seed = 1
    other = method.compress(method.fit(ctx.model, ctx), 0.3, ctx).eval()
    assert not torch.equal(logits(other), logits(again[0]))


def test_a_group_that_is_dear_to_the_loss_stays_dense(tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    method = build()
    net = method.compress(method.fit(ctx.model, ctx), 0.05, ctx)
    kinds = {type(net.get_submodule(name)) for name in linears(ctx.model)}
    assert kinds == {Pivoted, torch.nn.Linear}
    assert all(matrix(m).ndim == 2 for m in linears(ctx.model).values())


def test_an_empty_gradient_sample_is_refused():
    with pytest.raises(BenchError, match="gradient_samples 0 is below 1"):
        build(gradient_samples=0)
