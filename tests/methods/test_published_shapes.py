"""Ranks, parameters and multiply-adds at the papers' sizes, on the meta device."""

from functools import cache

import pytest
import torch
from tiny_llm import context
from transformers import AutoModelForCausalLM
from transformers.models.gpt2 import GPT2Config
from transformers.models.llama import LlamaConfig
from transformers.models.mistral import MistralConfig
from transformers.models.opt import OPTConfig

from harness.models import _language
from harness.toolkit import model_size
from methods._kernels.low_rank.factors import (
    Factors,
    Group,
    checked_rank,
    linears,
    matrix,
)
from methods._kernels.low_rank.groups import groups_across_blocks, groups_within_blocks
from methods._kernels.low_rank.uniform import truncate_groups

RATIOS = (0.2, 0.3, 0.4, 0.5)
CONFIGS = {
    # Sizes of the published models, a few blocks of each: every block is alike.
    "llama-7b": lambda: LlamaConfig(num_hidden_layers=4),
    "mistral-7b": lambda: MistralConfig(num_hidden_layers=4),
    "opt-6.7b": lambda: OPTConfig(
        hidden_size=4096,
        word_embed_proj_dim=4096,
        ffn_dim=16384,
        num_attention_heads=32,
        num_hidden_layers=4,
    ),
    "gpt2": lambda: GPT2Config(n_layer=4),
}
SHARED = ("query", "key", "value", "qkv", "gate", "up")


@cache
def model(name):
    with torch.device("meta"):
        net = AutoModelForCausalLM.from_config(CONFIGS[name]())
    made = _language.wrap(name, net, tokenizer=None)
    fields = {f: getattr(made, f) for f in made.__slots__}
    # A mask of four dimensions is taken as it is; making one would read values.
    mask = torch.zeros(1, 1, 128, 128)
    if name != "opt-6.7b":
        fields["example"] = lambda: {**made.example(), "attention_mask": mask}
    return type(made)(**fields)


def ranks(name, role, *, size, shared=SHARED):
    modules = linears(model(name))
    groups = groups_across_blocks(model(name), size=size, shared=shared)
    first = next(g for g in groups if model(name).role(g.names[0]) == role)
    return [checked_rank(modules, first, ratio) for ratio in RATIOS]


# Appendix A.1 of arXiv:2410.03765; its code has int(n d1 d2 (1-r) // (d1 + n d2)).
@pytest.mark.parametrize(
    ("name", "role", "size", "expected"),
    [
        ("llama-7b", "query", 2, [2184, 1911, 1638, 1365]),
        ("llama-7b", "key", 2, [2184, 1911, 1638, 1365]),
        ("llama-7b", "gate", 2, [2762, 2417, 2072, 1726]),
        ("llama-7b", "output", 2, [1638, 1433, 1228, 1024]),
        ("llama-7b", "down", 2, [2388, 2089, 1791, 1492]),
        ("mistral-7b", "value", 1, [655, 573, 491, 409]),
        ("mistral-7b", "up", 2, [2867, 2508, 2150, 1792]),
        ("opt-6.7b", "up", 2, [2912, 2548, 2184, 1820]),
        ("opt-6.7b", "down", 2, [2621, 2293, 1966, 1638]),
        ("gpt2", "qkv", 2, [526, 460, 394, 329]),
    ],
)
def test_ranks_equal_the_published_ones(name, role, size, expected):
    assert ranks(name, role, size=size) == expected


@pytest.mark.parametrize(
    ("members", "expected"),
    [(1, 1638), (2, 2184), (3, 2457), (4, 2621), (8, 2912), (16, 3084), (32, 3177)],
)
def test_larger_groups_of_llama_7b_get_the_published_ranks(members, expected):
    modules = linears(model("llama-7b"))
    names = ["model.layers.0.self_attn.q_proj"] * members
    assert checked_rank(modules, Group(tuple(names), once=False), 0.2) == expected


def compressed(name, groups, ratio):
    """A network on the meta device, with the ranks that the ratio leaves."""
    modules = linears(model(name))
    fitted = {}
    for group in groups:
        shapes = [matrix(modules[n]).shape for n in group.names]
        out, inner = sum(s[0] for s in shapes), shapes[0][1]
        full = min(out, inner)
        with torch.device("meta"):
            parts = torch.empty(out, full), torch.empty(full, inner), torch.empty(full)
        fitted[group] = Factors(*parts)
    return truncate_groups(fitted, ratio, context(model(name)))


def shares(name, groups, ratio):
    """Weights and multiply-adds of the block matrices, as shares of the dense ones."""
    dense = model(name)
    weights = sum(matrix(m).numel() for m in linears(dense).values())
    tokens = dense.example()["input_ids"].shape[1]
    net = compressed(name, groups, ratio)
    left = sum(p.numel() for p in net.parameters())  # a shared one counts once
    gone = sum(p.numel() for p in dense.net.parameters()) - left
    saved = model_size.macs(dense) - model_size.macs(dense.with_net(net))
    return 1 - gone / weights, 1 - saved / (weights * tokens)


@pytest.mark.parametrize(
    ("ratio", "macs"), [(0.2, 0.922), (0.3, 0.807), (0.4, 0.692), (0.5, 0.576)]
)
def test_basis_sharing_on_llama_7b_saves_fewer_multiply_adds_than_weights(ratio, macs):
    groups = groups_across_blocks(model("llama-7b"), size=2, shared=SHARED)
    weights, work = shares("llama-7b", groups, ratio)
    assert weights == pytest.approx(1 - ratio, abs=5e-4)
    assert work == pytest.approx(macs, abs=6e-4)


@pytest.mark.parametrize("ratio", RATIOS)
def test_svd_llm_on_llama_7b_saves_as_many_multiply_adds_as_weights(ratio):
    groups = groups_across_blocks(model("llama-7b"), size=1, shared=())
    weights, work = shares("llama-7b", groups, ratio)
    assert weights == pytest.approx(1 - ratio, abs=5e-4)
    assert work == pytest.approx(weights, abs=1e-9)


def test_joint_groups_compute_the_shared_product_once():
    # Query with key k = 2184 and gate with up k = 2762 as in Basis Sharing with two
    # members; within one block the work shrinks as much as the weights.
    groups = groups_within_blocks(model("llama-7b"), "qk")
    weights, work = shares("llama-7b", groups, 0.2)
    assert weights == pytest.approx(0.8, abs=5e-4)
    assert work == pytest.approx(weights, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "role", "expected"),
    [("mistral-7b", "gate", 0.900), ("opt-6.7b", "up", 0.889), ("gpt2", "qkv", 0.913)],
)
def test_multiply_adds_of_one_matrix_at_a_fifth_equal_the_published_share(
    name, role, expected
):
    groups = groups_across_blocks(model(name), size=2, shared=SHARED)
    groups = [g for g in groups if model(name).role(g.names[0]) == role]
    net = compressed(name, groups, 0.2)
    dense = model(name)
    tokens = dense.example()["input_ids"].shape[1]
    modules = linears(dense)
    work = sum(matrix(modules[n]).numel() for g in groups for n in g.names) * tokens
    saved = model_size.macs(dense) - model_size.macs(dense.with_net(net))
    assert 1 - saved / work == pytest.approx(expected, abs=6e-4)
