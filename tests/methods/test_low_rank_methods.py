"""What every low-rank method owes, on tiny models of five families."""

from functools import cache

import pytest
import torch
from tiny_llm import FAMILIES, context, logits, tiny

from harness.registry import find
from harness.toolkit import saved_model
from methods._kernels.low_rank.factors import linears, matrix

METHODS = {
    "svd": {},
    "joint_rank_k": {},
    "joint_rank_k whitened": {"whiten": True, "extra_groups": "qkv"},
    "fwsvd": {},
    "asvd": {"search_samples": 2, "keep": [0.3, 0.6, 0.9]},
    "asvd unsearched": {"search": False},
    "svd_llm": {},
    "svd_llm updated": {"update": True},
    "svd_llm cholesky": {"whitening": "cholesky"},
    "basis_sharing": {},
    "basis_sharing refitted": {"refit": "own_gram"},
    "basis_sharing updated": {"update": True},
    "basis_sharing both": {"update": True, "refit": "own_gram"},
    "water_filling": {"gradient_samples": 2},
    "water_filling plain": {
        "sensitivity": "output",
        "spend": "uniform",
        "pivot": False,
        "join": "none",
    },
}


def built(label):
    return find("method", label.split()[0]).build(METHODS[label])


# Every method on plain and on fused, transposed matrices; the others on the rest too.
BROAD = ("joint_rank_k whitened", "basis_sharing refitted", "water_filling")
PAIRS = [(f, m) for m in METHODS for f in ("llama", "gpt2")]
PAIRS += [(f, m) for m in BROAD for f in FAMILIES if f not in ("llama", "gpt2")]


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    return cache(lambda f: context(tiny(f), tmp_path_factory.mktemp(f)))


def weights(net, ctx):
    """Stored weights in the place of the matrices, a shared one once."""
    found = {
        id(value): value.numel()
        for name in linears(ctx.model)
        for key, value in net.get_submodule(name).named_parameters()
        if not key.endswith("bias")
    }
    return sum(found.values())


@pytest.mark.parametrize(("family", "label"), PAIRS)
def test_every_method_keeps_its_budget_and_its_promises(family, label, contexts):
    ctx, method = contexts(family), built(label)
    before = {k: v.clone() for k, v in ctx.model.net.state_dict().items()}
    fitted = method.fit(ctx.model, ctx)
    dense = sum(matrix(m).numel() for m in linears(ctx.model).values())

    assert torch.equal(logits(method.compress(fitted, 0, ctx)), logits(ctx.model.net))
    sizes = []
    for ratio in (0.2, 0.5):
        net = method.compress(fitted, ratio, ctx).eval()
        sizes.append(weights(net, ctx))
        assert sizes[-1] <= (1 - ratio) * dense
        # A rank of these tiny matrices is a twelfth of their weights.
        assert sizes[-1] >= (1 - ratio) * dense - dense / 8
        assert logits(net).shape == logits(ctx.model.net).shape
    assert sizes[1] < sizes[0]
    assert torch.equal(logits(method.compress(fitted, 0.5, ctx).eval()), logits(net)), (
        "compressing must not spoil what was fitted"
    )
    for name, value in ctx.model.net.state_dict().items():
        assert torch.equal(value, before[name]), "the dense network was changed"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("label", ["basis_sharing", "water_filling"])
def test_a_compressed_network_survives_its_file(family, label, contexts, tmp_path):
    ctx, method = contexts(family), built(label)
    net = method.compress(method.fit(ctx.model, ctx), 0.4, ctx).eval()
    folder = tmp_path / "saved"
    ctx.model.net.save_pretrained(tmp_path / "dense")
    origin = {"model": str(tmp_path / "dense"), "options": {}, "shape": None}
    saved_model.save(ctx.model.with_net(net), origin, folder)

    again = saved_model.load(folder)
    assert torch.equal(logits(again.net), logits(net))
    size = (folder / "model.safetensors").stat().st_size
    assert saved_model.saved_bytes(net) == saved_model.saved_bytes(again.net) == size
