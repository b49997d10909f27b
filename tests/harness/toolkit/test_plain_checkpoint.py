"""Checkpoints with fewer blocks compute what the network with dropped blocks does."""

import pytest
import torch
from families import tiny
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForCausalLM

from harness.toolkit.plain_checkpoint import write, write_without
from harness.toolkit.saved_model import replace
from methods.shortgpt import DroppedBlock

DROPPED = 1


def with_a_dropped_block(family, **changes):
    model = tiny(family, num_hidden_layers=4, **changes)
    path = f"model.layers.{DROPPED}"
    return model.with_net(replace(model.net, path, DroppedBlock())), path


@pytest.mark.parametrize(
    ("family", "changes", "lists"),
    [
        (
            "gemma3_text",
            {"layer_types": ["sliding_attention", "full_attention"] * 2},
            {"layer_types": ["sliding_attention"] * 2 + ["full_attention"]},
        ),
        # By hand: 1 for a block with rotated positions; the second block is dropped.
        ("smollm3", {"no_rope_layers": [1, 1, 0, 1]}, {"no_rope_layers": [1, 0, 1]}),
    ],
)
def test_lists_with_an_entry_for_each_block_lose_the_dropped_one(
    family, changes, lists, tmp_path
):
    model, path = with_a_dropped_block(family, **changes)

    assert write_without(model, [path], tmp_path)

    back = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert back.config.num_hidden_layers == 3
    assert {name: getattr(back.config, name) for name in lists} == lists
    ids = torch.arange(24).mul(7).remainder(128)[None]
    with torch.inference_mode():
        found, expected = (
            net(ids, use_cache=False).logits for net in (back, model.net)
        )
        said, wanted = (
            net.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None)
            for net in (back, model.net)
        )
    torch.testing.assert_close(found, expected)
    assert said.tolist() == wanted.tolist()


@pytest.mark.parametrize("family", ["diffllama", "gemma4_text"])
def test_nothing_is_written_where_blocks_depend_on_their_number(family, tmp_path):
    model, path = with_a_dropped_block(family)

    assert not write_without(model, [path], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_in_the_file_once_and_a_parted_one_is_kept(tied, tmp_path):
    net = tiny("llama", tie_word_embeddings=True).net
    if not tied:  # as a method does that changes the head alone
        net.lm_head.weight = nn.Parameter(net.lm_head.weight.detach() * 2)

    write(net, tmp_path)

    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert ("lm_head.weight" not in file.keys()) == tied  # noqa: SIM118
    back = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(24).mul(7).remainder(128)[None]
    with torch.inference_mode():
        found, wanted = (one(ids, use_cache=False).logits for one in (back, net))
    torch.testing.assert_close(found, wanted)
