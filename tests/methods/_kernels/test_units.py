import families
import pytest
import torch
from tiny_llm import logits, tiny
from torch import nn

from harness.core import Unsupported
from harness.toolkit.model_size import ratio_base, size
from methods._kernels.units import channels_of, choose, narrow, units_of

UP = "model.layers.1.mlp.up_proj"


def test_the_units_of_a_block_are_key_value_groups_and_neurons():
    model = tiny("llama")  # 4 query heads that read 2 key-value heads; 40 neurons

    found = units_of(model)

    assert [(u.reader.split(".")[-1], u.count) for u in found] == [
        ("o_proj", 2),
        ("down_proj", 40),
    ] * 3
    attention, neurons = found[:2]
    assert attention.channels(model.net) == 2 * 6  # two query heads of width 6
    # Rows of query, key, value; columns of output.
    assert attention.weights(model.net) == 12 * 24 + 6 * 24 + 6 * 24 + 24 * 12
    assert neurons.weights(model.net) == 3 * 24
    assert sum(u.count * u.weights(model.net) for u in found) == ratio_base(model)


@pytest.mark.parametrize("which", [0, 1], ids=["attention", "mlp"])
def test_removing_a_unit_equals_zeroing_what_it_reads(which):
    # Second implementation: the reader's columns become zero, and no shape changes.
    model = tiny("qwen2")  # its query, key and value have biases
    one = units_of(model)[which]
    width = one.channels(model.net)
    kept = torch.tensor([n for n in range(one.count) if n != 1])
    zeroed, narrowed = (tiny("qwen2").net for _ in range(2))
    columns = slice(width, 2 * width)
    zeroed.get_submodule(one.reader).weight.data[:, columns] = 0

    narrow(narrowed, one, kept)

    torch.testing.assert_close(logits(narrowed), logits(zeroed))
    lost = size(model).params - size(model.with_net(narrowed)).params
    biases = 2 * 6 + 6 + 6 if which == 0 else 0
    assert lost == one.weights(model.net) + biases


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mistral", {"sliding_window": 8}),
        ("gemma2", {}),  # its scores are capped, and every second window is short
        ("gemma3_text", {}),  # norms of query and key by head
        ("phi", {}),  # attention and MLP side by side, no gate
        ("starcoder2", {}),
    ],
)
def test_a_unit_of_each_kind_can_leave_the_blocks_of_a_family(family, changes):
    model = families.tiny(family, **changes)
    zeroed, narrowed = (families.tiny(family, **changes).net for _ in range(2))
    for one in units_of(model):
        columns = channels_of(torch.tensor([0]), one.channels(model.net))
        zeroed.get_submodule(one.reader).weight.data[:, columns] = 0
        narrow(narrowed, one, torch.arange(1, one.count))

    ids = torch.arange(24).mul(7).remainder(128)[None]
    with torch.inference_mode():
        found, expected = (n(ids, use_cache=False).logits for n in (narrowed, zeroed))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "family",
    [
        "olmo2",  # one norm over all heads
        "bitnet",  # a norm behind the heads
        "diffllama",  # heads work in pairs
        "doge",  # a gate by head
    ],
)
def test_units_that_other_parts_depend_on_cannot_leave(family, dtype):
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4}
    model = families.tiny(family, **sizes)
    model.net.to(dtype)

    with pytest.raises(Unsupported, match="other parts of its block depend"):
        units_of(model)


def test_a_bias_is_added_to_that_of_the_reader():
    model = tiny("llama")
    one = units_of(model)[1]
    extra = torch.arange(24.0)
    narrow(model.net, one, torch.arange(40), extra)

    assert torch.equal(model.net.get_submodule(one.reader).bias, extra)
    narrow(model.net, one, torch.arange(40), extra)
    assert torch.equal(model.net.get_submodule(one.reader).bias, 2 * extra)
    narrow(model.net, one, torch.arange(40))
    assert torch.equal(model.net.get_submodule(one.reader).bias, 2 * extra)


def test_the_lowest_scores_leave_until_the_share_is_gone():
    model = tiny("llama")
    found = units_of(model)
    scores = [torch.arange(u.count) + 1000.0 * i for i, u in enumerate(found)]

    # The first attention group, then neurons of the first MLP, lowest scores first.
    cost = [u.weights(model.net) for u in found]
    ratio = (cost[0] + 3 * cost[1]) / ratio_base(model)
    kept = choose(model, found, scores, ratio)

    assert kept[0].tolist() == [1]
    assert kept[1].tolist() == list(range(3, 40))
    assert [len(k) for k in kept[2:]] == [u.count for u in found[2:]]
    # One weight more takes one neuron more; a bias of 24 numbers takes one for itself.
    assert len(choose(model, found, scores, ratio + 1e-4)[1]) == 36
    assert len(choose(model, found, scores, ratio, added=24)[1]) == 36


def test_every_attention_and_every_mlp_keeps_one_unit():
    model = tiny("llama")
    found = units_of(model)
    scores = [torch.zeros(u.count) for u in found]
    floor = 1 - sum(u.weights(model.net) for u in found) / ratio_base(model)

    kept = choose(model, found, scores, floor)
    assert [len(k) for k in kept] == [1] * 6

    # One group of 864 and one neuron of 72 weights, of 2 groups and 40 neurons.
    share = (864 + 72) / (2 * 864 + 40 * 72)
    assert share == pytest.approx(1 - floor)
    said = rf"less than one attention group .* which are {share:.3f} of the block"
    with pytest.raises(Unsupported, match=said):
        choose(model, found, scores, floor + 1e-4)


@pytest.mark.parametrize(
    ("family", "reason"),
    [("gpt2", "one matrix of role query"), ("opt", "fixed number of heads")],
)
def test_other_attentions_are_refused_with_the_reason(family, reason):
    with pytest.raises(Unsupported, match=reason):
        units_of(tiny(family))


def test_a_network_that_is_low_rank_already_is_refused():
    model = tiny("llama")
    model.net.model.layers[1].mlp.up_proj = nn.Sequential(nn.Linear(24, 40))

    with pytest.raises(Unsupported, match="put a structured method first"):
        units_of(model)


def test_channels_of_units_are_neighbours():
    assert channels_of(torch.tensor([1, 3]), 3).tolist() == [3, 4, 5, 9, 10, 11]
