import copy

import pytest
import torch
from tiny_llm import context, tiny
from torch.nn.functional import cross_entropy

from harness.core import BenchError, Unsupported
from harness.registry import find
from methods._kernels.units import units_of


def llm_pruner(**options):
    return find("method", "llm_pruner").build(
        {"keep_first": 0, "keep_last": 0, "samples": 3, **options}
    )


def gradients(model, tokens):
    """Gradients of the summed loss of windows, by autograd on the whole network."""
    net = copy.deepcopy(model.net)
    loss = 0
    for window in tokens:
        logits = net(input_ids=window[None], use_cache=False).logits[0, :-1]
        loss = loss + cross_entropy(logits, window[1:])
    loss.backward()
    return {n: p.grad for n, p in net.named_parameters()}


@pytest.mark.parametrize("importance", ["element", "vector"])
def test_the_importance_agrees_with_plain_loops(tmp_path, importance):
    model = tiny("llama")
    ctx = context(model, tmp_path)

    found = llm_pruner(importance=importance).fit(model, ctx)

    grads = gradients(model, ctx.calibration().tokens[:3])
    for one in units_of(model)[2:4]:
        for unit in range(one.count):
            total = 0.0
            for name in (one.reader, *one.writers):
                weight = model.net.get_submodule(name).weight.detach().double()
                change = weight * grads[f"{name}.weight"].double()
                change = change.T if name == one.reader else change
                width = len(change) // one.count
                for line in change[unit * width : (unit + 1) * width].tolist():
                    values = [abs(v) for v in line] if importance == "element" else line
                    total += abs(sum(values))
            assert float(found[one.reader][unit]) == pytest.approx(total, rel=1e-3)


def test_every_treated_block_loses_the_same_share_and_the_others_nothing(tmp_path):
    model = tiny("llama")
    ctx = context(model, tmp_path)
    method = llm_pruner(keep_last=1)

    net = method.compress(method.fit(model, ctx), 0.2, ctx)

    widths = [layer.mlp.down_proj.in_features for layer in net.model.layers]
    heads = [layer.self_attn.k_proj.out_features // 6 for layer in net.model.layers]
    assert abs(widths[0] - widths[1]) <= 1
    assert max(widths[:2]) < 40
    assert (widths[2], heads[2]) == (40, 2)


def test_the_least_important_neuron_of_each_block_leaves(tmp_path):
    model = tiny("llama")
    ctx = context(model, tmp_path)
    method = llm_pruner()
    fitted = method.fit(model, ctx)
    for name, scores in fitted.items():
        scores.fill_(1.0)
        if "down_proj" in name:
            scores[5] = 0.5

    net = method.compress(fitted, 3 * 72 / 15552, ctx)  # three neurons of 72 weights

    stay = [j for j in range(40) if j != 5]
    for before, after in zip(model.net.model.layers, net.model.layers, strict=True):
        assert torch.equal(
            after.mlp.down_proj.weight, before.mlp.down_proj.weight[:, stay]
        )


def test_blocks_that_all_stay_and_numbers_out_of_range_are_refused(tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    with pytest.raises(
        Unsupported, match="3 blocks, and keep_first 4 with keep_last 2"
    ):
        find("method", "llm_pruner").build({}).fit(ctx.model, ctx)
    with pytest.raises(BenchError, match="samples is 0"):
        llm_pruner(samples=0)
