import pytest
import torch
from tiny_llm import FAMILIES, context, tiny

from harness.core import Unsupported
from harness.registry import find
from methods._kernels.low_rank.factors import linears, matrix


@pytest.mark.parametrize("family", FAMILIES)
def test_the_least_products_of_every_row_become_zero(family, tmp_path):
    # Second implementation: sort |w| ||x|| of each row, with norms over raw inputs.
    ctx = context(tiny(family), tmp_path)
    net = find("method", "wanda").build({}).compress(None, 0.5, ctx)
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
