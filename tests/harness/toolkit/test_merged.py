"""Multiplied out, a compressed network is a plain checkpoint with the same logits."""

import copy
import json

import pytest
import torch
from tiny_llm import context, logits, tiny
from torch import nn
from transformers import AutoModelForCausalLM

from harness.core import BenchError
from harness.registry import find
from harness.toolkit import hugging_face_form, merged, saved_model

ROUNDED = {"name": "round_to_nearest", "bits": 8}
# Method, its options, ratio, family, number of layers by hand: 3 blocks of 7 matrices
# (4 in GPT-2's blocks; 4 and 12 in 4 experts of the mixture). A second word tells
# cases of one method apart.
CASES = {
    "svd": ({}, 0.3, "gpt2", 12),
    "basis_sharing": ({}, 0.3, "llama", 21),
    "joint_rank_k": ({}, 0.3, "mistral", 21),
    "svd biases": ({}, 0.3, "qwen2", 21),
    "awq": ({"bits": 4, "group_size": 8}, 0.875, "llama", 21),
    "gptq": ({"bits": 3, "group_size": 8, "act_order": True}, 0.9, "opt", 18),
    "chain": ({"chain": ["basis_sharing", ROUNDED]}, 0.3, "llama", 21),
    "chain blocks": (
        {"chain": [{"name": "shortgpt", "ratio": 0.3}, "svd"]},
        0.5,
        "llama",
        14,
    ),
    "svd experts": ({}, 0.3, "qwen3_moe", 48),
}


def compressed(name, tmp_path, dtype=torch.float32):
    """The model with its compressed network."""
    options, asked, family, _ = CASES[name]
    model = tiny(family, dtype=dtype)
    ctx = context(model, tmp_path / "calibration")
    method = find("method", name.split()[0]).build(options)
    fitted = method.fit(model, ctx) if hasattr(method, "fit") else None
    fixed = method.ratios() if hasattr(method, "ratios") else None
    return model.with_net(method.compress(fitted, (fixed or [asked])[0], ctx).eval())


@pytest.mark.parametrize("name", CASES)
def test_a_plain_checkpoint_has_the_logits_and_the_words_of_the_network(name, tmp_path):
    model = compressed(name, tmp_path)
    wanted = logits(model.net)
    ids = torch.arange(16).mul(7).remainder(256)[None]
    greedy = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    said = model.net.generate(ids, **greedy)

    found = merged.multiply_out(model)
    written = hugging_face_form.write(model, {}, tmp_path / "hf", "", plain=True)

    assert found.layers == CASES[name][3]
    assert 0 <= found.gap < 1e-5
    assert written.form in ("plain", "fewer blocks")
    assert not (tmp_path / "hf" / hugging_face_form.MODELING).exists()
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert not {"auto_map", "compression", "quantization_config"} & config.keys()
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    torch.testing.assert_close(logits(opened), wanted, rtol=1e-4, atol=1e-5)
    assert opened.generate(ids, **greedy).tolist() == said.tolist()


def test_the_file_is_as_large_as_that_of_the_dense_model(tmp_path):
    model = compressed("basis_sharing", tmp_path)
    small, dense = (saved_model.saved_bytes(m.net) for m in (model, tiny("llama")))
    assert small < dense

    merged.multiply_out(model)

    assert saved_model.saved_bytes(model.net) == dense


@pytest.mark.parametrize(
    ("dtype", "rounding"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)]
)
def test_half_precision_is_rounded_once(dtype, rounding, tmp_path):
    model = compressed("basis_sharing", tmp_path, dtype)
    layer = model.net.model.layers[0].self_attn.o_proj
    left, right = (m.weight.double() for m in (layer.left, layer.right))

    found = merged.multiply_out(model)

    product = (left @ right).to(dtype)
    assert torch.equal(model.net.model.layers[0].self_attn.o_proj.weight, product)
    assert 0 < found.gap < rounding


def test_more_inputs_than_one_step_takes_are_all_filled(monkeypatch):
    monkeypatch.setattr(merged, "_COLUMNS", 3)
    layer = nn.Sequential(nn.Linear(7, 2, bias=False), nn.Linear(2, 5))

    made = merged.dense(copy.deepcopy(layer), nn.Linear(7, 5), torch.float64)

    product = layer[1].weight.double() @ layer[0].weight.double()
    torch.testing.assert_close(made.weight.detach(), product.detach())
    torch.testing.assert_close(made.bias.detach(), layer[1].bias.double().detach())


def test_a_network_of_dense_shapes_stays_as_it_is():
    model = tiny("llama")
    before = {name: id(value) for name, value in model.net.named_parameters()}

    assert merged.multiply_out(model) == merged.Merged(layers=0, gap=0.0)

    assert before == {n: id(value) for n, value in model.net.named_parameters()}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("flap", r"q_proj.weight has the shape \(12, 24\), and that of the archi"),
        ("slicegpt", "model.layers.0, a layer of the kind sliced_block, is not a"),
    ],
)
def test_smaller_layers_are_refused(name, said, tmp_path):
    model = tiny("llama")
    ctx = context(model, tmp_path)
    method = find("method", name).build({})
    fitted = method.fit(model, ctx) if hasattr(method, "fit") else None
    net = method.compress(fitted, 0.3, ctx)

    with pytest.raises(BenchError, match=said):
        merged.multiply_out(model.with_net(net))


def test_a_bias_that_the_architecture_lacks_is_refused():
    layer = nn.Sequential(nn.Linear(7, 2, bias=False), nn.Linear(2, 5))
    with pytest.raises(BenchError, match="adds a bias that its architecture lacks"):
        merged.dense(layer, nn.Linear(7, 5, bias=False), torch.float32)


def test_a_layer_that_is_not_linear_is_refused(tmp_path, monkeypatch):
    from methods._kernels.low_rank.layers import LowRank

    model = compressed("svd biases", tmp_path)
    linear = LowRank.forward
    monkeypatch.setattr(LowRank, "forward", lambda layer, x: linear(layer, x).relu())

    with pytest.raises(BenchError, match="a LowRank is not a matrix and a bias, so"):
        merged.multiply_out(model)
