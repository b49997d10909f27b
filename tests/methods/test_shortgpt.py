import pytest
import torch
from tiny_llm import context, logits, tiny

from harness.core import Unsupported
from harness.registry import find
from methods.shortgpt import DroppedBlock


def shortgpt(**options):
    return find("method", "shortgpt").build(options)


def states_of(model, tokens):
    """The hidden states before each block and behind the last one, before the norm."""
    seen = []
    blocks = model.net.model.layers
    handles = [
        block.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(
                args[0] if args else kwargs["hidden_states"]
            ),
            with_kwargs=True,
        )
        for block in blocks
    ]
    handles.append(
        model.net.model.norm.register_forward_pre_hook(
            lambda _, args: seen.append(args[0])
        )
    )
    with torch.no_grad():
        model.net(input_ids=tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    return [state.flatten(0, 1).double() for state in seen]


def test_the_influence_of_a_block_is_one_minus_the_mean_cosine(tmp_path):
    model = tiny("llama")
    ctx = context(model, tmp_path)

    found = shortgpt().fit(model, ctx)

    states = states_of(model, ctx.calibration().tokens)
    assert len(found) == len(states) - 1 == 3
    for index, influence in enumerate(found.tolist()):
        old, new = states[index], states[index + 1]
        by_hand = sum(
            float(a @ b / (a.norm() * b.norm())) for a, b in zip(old, new, strict=True)
        )
        assert influence == pytest.approx(1 - by_hand / len(old), abs=1e-6)


def test_a_block_that_does_nothing_leaves_first_and_changes_no_output(tmp_path):
    model = tiny("llama")
    block = model.net.model.layers[1]
    with torch.no_grad():  # both branches add zero
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
    ctx = context(model, tmp_path)
    method = shortgpt()
    fitted = method.fit(model, ctx)

    net = method.compress(fitted, 1 / 3, ctx)

    assert fitted[1] == pytest.approx(0, abs=1e-9)
    assert isinstance(net.model.layers[1], DroppedBlock)
    torch.testing.assert_close(logits(net), logits(model.net))
    assert [(m.metric, m.step) for m in ctx.recorded] == [("dropped", 1)]


@pytest.mark.parametrize(
    ("ratio", "dropped"), [(0.1, 1), (1 / 3, 1), (0.34, 2), (2 / 3, 2)]
)
def test_a_ratio_between_two_numbers_of_blocks_is_rounded_up(tmp_path, ratio, dropped):
    ctx = context(tiny("llama"), tmp_path)
    method = shortgpt()

    net = method.compress(torch.tensor([0.1, 0.2, 0.3]), ratio, ctx)

    gone = [isinstance(block, DroppedBlock) for block in net.model.layers]
    assert sum(gone) == dropped
    assert not gone[0]


def test_the_last_blocks_and_random_blocks_are_options(tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    influence = torch.tensor([0.3, 0.1, 0.2])

    last = shortgpt(score="last").compress(influence, 0.3, ctx)
    drawn = shortgpt(score="random").compress(influence, 0.3, ctx)

    assert isinstance(last.model.layers[2], DroppedBlock)
    assert sum(isinstance(b, DroppedBlock) for b in drawn.model.layers) == 1


def test_a_ratio_that_leaves_no_block_is_refused(tmp_path):
    ctx = context(tiny("llama"), tmp_path)

    with pytest.raises(Unsupported, match=r"leaves none of the 3 blocks.* 0\.6667"):
        shortgpt().compress(torch.tensor([0.1, 0.2, 0.3]), 0.67, ctx)


def test_generation_with_a_cache_equals_generation_without(tmp_path):
    model = tiny("llama")
    ctx = context(model, tmp_path)
    net = shortgpt(score="last").compress(torch.zeros(3), 0.3, ctx)
    ids = torch.arange(8)[None]

    words = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        cached = net.generate(ids, use_cache=True, **words)
        plain = net.generate(ids, use_cache=False, **words)

    assert cached.tolist() == plain.tolist()
