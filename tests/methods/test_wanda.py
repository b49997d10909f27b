import pytest
import torch
from tiny_llm import FAMILIES, context, logits, tiny

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
    ctx = context(tiny("llama"), tmp_path)
    wanda = find("method", "wanda").build({}).compress(None, 0.5, ctx)
    magnitude = find("method", "magnitude").build({}).compress(None, 0.5, ctx)
    assert not torch.equal(logits(wanda), logits(magnitude))


def test_a_ratio_that_empties_rows_is_refused(tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    with pytest.raises(Unsupported, match="leaves nothing of the 24 weights in a row"):
        find("method", "wanda").build({}).compress(None, 0.99, ctx)
