import copy

import pytest
import torch
from tiny_llm import context, logits, tiny

from methods._kernels.heads import parts_of
from methods._kernels.value_output import keep_value_output, value_output


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "opt"])
def test_all_directions_of_value_and_output_change_nothing(family, tmp_path):
    # Biases of the value as well: attention weights sum to one.
    model = tiny(family)
    ctx = context(model, tmp_path)
    net, one = copy.deepcopy(model.net), parts_of(model)[1]
    gram = ctx.calibration().gram(one.names["value"])

    keep_value_output(net, one, value_output(net, one, gram), 6)

    torch.testing.assert_close(logits(net), logits(model.net), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_the_directions_are_those_of_the_full_svd_of_the_product(family, tmp_path):
    model = tiny(family)
    ctx = context(model, tmp_path)
    one = parts_of(model)[1]
    gram = ctx.calibration().gram(one.names["value"]).double()

    found = value_output(model.net, one, gram)

    values, vectors = torch.linalg.eigh(gram)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    v = model.net.get_submodule(one.names["value"]).weight.detach().double()
    o = model.net.get_submodule(one.names["output"]).weight.detach().double()
    for head in range(one.key_heads):
        first = head * one.readers
        blocks = [
            o[:, (first + j) * 6 : (first + j + 1) * 6] for j in range(one.readers)
        ]
        product = torch.cat([b @ v[head * 6 : head * 6 + 6] for b in blocks])
        sigma = torch.linalg.svdvals(product @ root)
        torch.testing.assert_close(found.energy[head], sigma[:6] ** 2)
        kept = (found.output[head][:, :4] @ found.value[head][:4]).double()
        error = float(((product - kept) @ root).square().sum())
        assert error == pytest.approx(float((sigma[4:] ** 2).sum()), rel=1e-4)
