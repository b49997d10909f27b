import copy
from dataclasses import replace

import families
import pytest
import torch
from tiny_llm import logits, tiny
from transformers import AutoModelForCausalLM
from transformers.models.qwen3 import Qwen3Config

from harness.core import Unsupported
from harness.models import _language
from methods._kernels import heads

FAMILIES = ("llama", "mistral", "qwen2", "opt")


def parts(model, index=1):
    return heads.parts_of(model)[index]


def test_rotary_positions_turn_channel_i_with_the_channel_half_a_head_on():
    llama, opt = parts(tiny("llama")), parts(tiny("opt"))

    assert llama.partner.tolist() == [3, 4, 5, 0, 1, 2]
    assert llama.paired
    assert (llama.heads, llama.key_heads, llama.readers) == (4, 2, 2)
    assert opt.partner.tolist() == [0, 1, 2, 3, 4, 5]
    assert not opt.paired


@pytest.mark.parametrize("family", FAMILIES)
def test_leaving_channels_out_equals_zeroing_them(family):
    # Second implementation: rows and biases become zero, and no shape changes.
    model = tiny(family)
    one = parts(model)
    channels = torch.tensor([[0, 1, 3, 4]] * one.key_heads)
    gone = [2, 5]
    zeroed, reduced = copy.deepcopy(model.net), copy.deepcopy(model.net)
    for role in ("query", "key"):
        module = zeroed.get_submodule(one.names[role])
        for row in range(module.out_features):
            if row % 6 in gone:
                module.weight.data[row] = 0
                if module.bias is not None:
                    module.bias.data[row] = 0

    heads.keep_query_key(reduced, one, channels)

    torch.testing.assert_close(logits(reduced), logits(zeroed))
    before = sum(p.numel() for p in model.net.parameters())
    assert sum(p.numel() for p in reduced.parameters()) < before


def test_each_head_keeps_channels_of_its_own():
    model = tiny("llama")
    one = parts(model)
    net = copy.deepcopy(model.net)

    heads.keep_query_key(net, one, torch.tensor([[0, 3], [1, 4]]))

    query = net.get_submodule(one.names["query"])
    # Two query heads of width 6 read each of the two key heads.
    assert query.place.tolist() == [0, 3, 6, 9, 13, 16, 19, 22]
    assert net.get_submodule(one.names["key"]).place.tolist() == [0, 3, 7, 10]


def test_the_scores_agree_with_plain_loops():
    one = parts(tiny("llama"))
    rng = torch.Generator().manual_seed(0)
    query, key = torch.rand(24, generator=rng), torch.rand(12, generator=rng)

    found = heads.pair_scores(one, query, key)

    for head in range(2):
        for i in range(6):
            total = 0.0
            for channel in (i, (i + 3) % 6):
                for reader in range(2):
                    q = float(query[(head * 2 + reader) * 6 + channel])
                    total += q * float(key[head * 6 + channel])
            assert float(found[head, i]) == pytest.approx(total)


def test_the_best_pairs_stay_whole():
    one = parts(tiny("llama"))
    scores = torch.tensor([[1.0, 5, 3, 1, 5, 3], [9.0, 2, 2, 9, 2, 2]])

    assert heads.best_channels(one, scores, 4).tolist() == [[1, 2, 4, 5], [0, 1, 3, 4]]


def test_a_fused_projection_is_refused_with_a_reason():
    with pytest.raises(Unsupported, match="does not have one matrix of role query"):
        heads.parts_of(tiny("gpt2"))


def test_normalised_queries_are_refused_with_a_reason():
    small = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1}
    attention = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}
    config = Qwen3Config(vocab_size=64, **small, **attention)
    net = AutoModelForCausalLM.from_config(config)

    with pytest.raises(Unsupported, match="normalises each query and key"):
        heads.parts_of(_language.wrap("tiny-qwen3", net, tokenizer=None))


@pytest.mark.parametrize(
    ("family", "name"),
    [("bitnet", "attn_sub_norm.weight"), ("diffllama", "lambda_q1")],
)
def test_what_stands_between_two_matrices_is_refused_by_name(family, name):
    with pytest.raises(Unsupported, match=f"has {name} beside its matrices"):
        heads.parts_of(families.tiny(family))


def test_a_network_that_is_compressed_already_is_refused_with_a_reason():
    model = tiny("llama")
    heads.keep_query_key(model.net, parts(model), torch.tensor([[0, 3], [1, 4]]))

    with pytest.raises(Unsupported, match="put this method first in the chain"):
        heads.parts_of(model)


def test_the_width_of_a_head_is_rounded_down():
    one = replace(parts(tiny("llama")), head_dim=10)

    # (1 - 0.9) * 10 is a little less than 1 in floating point.
    assert [one.width(share) for share in (0, 0.25, 0.9, 0.95)] == [10, 7, 1, 0]


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_the_neurons_of_a_block_have_their_writers_and_their_reader(family):
    model = tiny(family)
    one = parts(model)
    found = one.neurons(model.net)

    writers = ("gate", "up") if family == "llama" else ("up",)
    assert found.writers == tuple(one.names[role] for role in writers)
    assert (found.reader, found.count) == (one.names["down"], 40)


@pytest.mark.parametrize(
    ("family", "width", "kept"),
    [
        ("llama", 5, 4),  # channels turn in pairs
        ("llama", 1, 2),  # one pair stays
        ("opt", 5, 5),
        ("opt", 0, 1),
        ("opt", 6, None),
        ("llama", 6, None),
    ],
)
def test_heads_keep_the_channels_of_highest_score(family, width, kept):
    model = tiny(family)
    one = parts(model)
    scores = torch.arange(6.0).repeat(one.key_heads, 1)
    if family == "llama":  # a pair has one score
        scores = torch.tensor([[1.0, 3, 2, 1, 3, 2]] * 2)

    heads.keep_best_query_key(model.net, one, scores, width)

    key = model.net.get_submodule(one.names["key"])
    if kept is None:
        assert isinstance(key, torch.nn.Linear)
        return
    best = {1: [5], 2: [1, 4], 4: [1, 2, 4, 5], 5: [1, 2, 3, 4, 5]}[kept]
    assert key.place.tolist()[:kept] == best
    assert len(key.place) == kept * one.key_heads


def test_mapping_heads_to_some_of_their_channels_equals_leaving_the_others_out():
    model = tiny("opt")  # with biases, without rotary positions
    one = parts(model)
    channels = torch.tensor([1, 4, 5])
    cut, turned = copy.deepcopy(model.net), copy.deepcopy(model.net)
    pick = torch.eye(6, dtype=torch.float64)[channels].expand(one.heads, 3, 6)

    heads.keep_query_key(cut, one, channels.expand(one.key_heads, 3))
    # A score is a product of both, so that a factor of 4 of one cancels.
    heads.turn_query_key(turned, one, 4 * pick, pick / 4)

    torch.testing.assert_close(logits(turned), logits(cut))
    place = turned.get_submodule(one.names["key"]).place
    assert place.tolist() == [6 * h + i for h in range(4) for i in range(3)]
