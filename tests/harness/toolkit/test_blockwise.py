"""A network run block by block gives what the whole network gives, in every family."""

import pytest
import torch
from families import tiny
from torch.nn.functional import cross_entropy

from harness.toolkit.blockwise import stream

LENGTH = 16
# What each family has that a stream could get wrong.
SHAPES = {
    "blocks in tuples, ALiBi of a whole batch": ("bloom", {}),
    "attention and MLP side by side, one key": ("falcon", {}),
    "ALiBi, attention before MLP": ("falcon", {"alibi": True, "parallel_attn": False}),
    "side by side with a norm each": ("gpt_neox", {}),
    "one norm for both": ("gptj", {}),
    "ALiBi as a bias by head": ("mpt", {}),
    "rotation of a part of a head": ("phi", {}),
    "a window in every second block": ("gpt_neo", {}),
    "convolution in place of attention": (
        "lfm2", {"layer_types": ["conv", "full_attention"]},
    ),
    "linear attention": (
        "qwen3_5_text", {"layer_types": ["linear_attention", "full_attention"]},
    ),
    "windows and positions by block": ("gemma3_text", {}),
    "an input of each token for each block": ("gemma4_text", {}),
    "keys of an earlier block": (
        "gemma4_text",
        {"num_kv_shared_layers": 1, "layer_types": ["full_attention"] * 2},
    ),
}  # fmt: skip


@pytest.fixture(params=SHAPES)
def model(request):
    family, changes = SHAPES[request.param]
    return tiny(family, **changes)


def windows(count):
    source = torch.Generator().manual_seed(1)
    return torch.randint(1, 128, (count, LENGTH), generator=source)


def whole(model, tokens):
    """States before and behind the blocks, and the loss, by one pass."""
    path = stream(model, tokens[:1]).path
    blocks = model.net.get_submodule(path)
    seen = []
    handle = blocks[-1].register_forward_hook(
        lambda module, args, made: seen.append(
            (made[0] if isinstance(made, tuple) else made).clone()
        )
    )
    with torch.inference_mode():
        logits = model.net(input_ids=tokens, use_cache=False).logits
    handle.remove()
    loss = cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    return torch.cat(seen), float(loss)


def test_blocks_one_after_the_other_give_the_states_and_the_loss_of_the_whole_network(
    model,
):
    tokens = windows(64 + 3)  # a full batch, and a smaller one
    states, loss = whole(model, tokens)
    running = stream(model, tokens)

    for index, (_, block) in enumerate(running):
        assert running.loss(model.net, index) == pytest.approx(loss, rel=1e-5)
        running.advance(index, block)

    torch.testing.assert_close(torch.cat(running.states), states, rtol=1e-4, atol=1e-4)
    assert not any("forward" in vars(block) for block in running.blocks)


def test_arguments_that_do_not_depend_on_the_tokens_are_kept_once():
    running = stream(tiny("llama"), windows(3 * 64))
    first, second = (running.calls[i][0][1]["position_embeddings"] for i in (0, 1))

    assert len(running.states) == 3
    assert first[0] is second[0]
