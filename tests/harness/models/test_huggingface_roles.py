"""Methods that a network of transformers is refused for, by roles of its matrices."""

from dataclasses import replace

import pytest
import tiny_llm
import torch
from hugging_face_folder import family, mixture, rebuild

from harness.core import BenchError, Unsupported
from harness.models import _language
from harness.toolkit import model_size
from harness.toolkit.roles import ONE_EACH
from methods._kernels.heads import parts_of


def needs(*names, ratio_of="weights"):
    return {"needs": frozenset(names), "ratio_of": ratio_of}


def test_a_network_without_known_roles_loads_and_refuses_methods_that_read_them(folder):
    from transformers import MambaConfig

    small = MambaConfig(
        vocab_size=256, hidden_size=8, num_hidden_layers=2, state_size=4
    )
    found = rebuild(folder, small)

    assert torch.isfinite(found.load().net(**found.load().example()).logits).all()
    assert found.refuses(needs(ratio_of="none")) is None
    assert found.refuses(needs(ratio_of="weights")) is None
    for method in (needs("linears"), needs(ratio_of="zeros")):
        assert "(mamba) has no matrix whose role is known" in found.refuses(method)
        assert found.refuses(method) == found.refuses_loaded(method, found.load())


def test_a_network_of_which_a_part_has_roles_is_refused_unless_the_grid_allows(folder):
    from transformers import TrOCRConfig

    small = TrOCRConfig(
        vocab_size=256, d_model=24, decoder_layers=2, decoder_attention_heads=4,
        decoder_ffn_dim=40, cross_attention_hidden_size=24, pad_token_id=0,
    )  # fmt: skip
    found = rebuild(folder, small)
    why = found.refuses(needs("linears"))

    # By hand: attention 4 * 24*24 and an MLP of 2 * 24*40 have roles, and the attention
    # to an image, another 4 * 24*24, has none.
    assert model_size.coverage(found.load()) == pytest.approx(4224 / 6528)
    assert "only 64.7% of the block weights" in why
    assert "`partial: allow`" in why
    assert replace(found, partial="allow").refuses(needs("linears")) is None
    assert replace(found, partial="allow").refuses_loaded(
        needs("linears"), found.load()
    ) is None  # fmt: skip


def test_the_plan_and_the_loaded_network_count_experts_alike(folder):
    found = rebuild(folder, mixture())
    planned = _language.configured(folder, trust_remote_code=False)

    # By hand: attention 2 * 24*24 + 2 * 24*12 = 1,728 and 4 experts of 3 * 24*40 have
    # roles, and a router of 4 * 24 has none.
    share = (1728 + 4 * 3 * 24 * 40) / (1728 + 4 * 3 * 24 * 40 + 4 * 24)
    assert planned.coverage == pytest.approx(share)
    assert planned == _language.look(found.load())
    assert planned.single == ("key", "output", "query", "value")
    assert found.refuses(needs("linears")) is None


@pytest.mark.parametrize("need", ["units", "width"])
def test_structured_methods_are_refused_before_a_mixture_is_loaded(folder, need):
    wanted = needs("linears", need)
    assert family(folder).refuses(wanted) is None

    found = rebuild(folder, mixture())
    why = found.refuses(wanted)

    assert "(mixtral) does not have one matrix of role" in why
    assert "take a dense model" in why
    assert found.refuses_loaded(wanted, found.load()) == why


@pytest.mark.parametrize(
    ("name", "treated"),
    [("llama", True), ("opt", True), ("gpt2", False), ("qwen3_moe", False)],
)
def test_what_the_plan_says_of_units_is_what_structured_methods_do(name, treated):
    model = tiny_llm.tiny(name)
    single = _language.look(model).single

    assert (set(ONE_EACH["units"]) <= set(single)) == treated
    if treated:
        assert parts_of(model)
    else:
        with pytest.raises(Unsupported, match="does not have one matrix of role"):
            parts_of(model)


def test_the_plan_needs_no_weights_to_know_the_roles(folder):
    (folder / "model.safetensors").unlink()
    assert family(folder).refuses(needs("linears")) is None
    with pytest.raises(BenchError, match="no weights in"):
        family(folder).load()
