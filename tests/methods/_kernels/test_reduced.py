"""Moments of heads, and the neurons that a budget leaves."""

import pytest
import torch
from tiny_llm import tiny
from torch import nn

from harness.core import NotFinite, Unsupported
from methods._kernels.heads import parts_of
from methods._kernels.reduced import (
    HeadMoments,
    keep_neurons,
    stored,
    watched,
    weights,
)


def test_moments_are_means_over_the_tokens_of_all_batches_by_head():
    moments = HeadMoments(2)
    # Three tokens of two heads with two channels, in two batches of windows.
    moments.add(nn.Identity(), (), torch.tensor([[[1.0, 2.0, 0.0, 1.0]]]))
    second = [[[3.0, 0.0, 2.0, 2.0], [1.0, 1.0, 1.0, 0.0]]]
    moments.add(nn.Identity(), (), torch.tensor(second))

    # Head 1: (1 + 9 + 1, 2 + 0 + 1; ., 4 + 0 + 1) / 3; head 2 likewise.
    want = torch.tensor([[[11.0, 3.0], [3.0, 5.0]], [[5.0, 4.0], [4.0, 5.0]]]) / 3
    assert moments.mean().dtype == torch.float64
    torch.testing.assert_close(moments.mean(), want.double())
    assert moments.squares().tolist() == pytest.approx([11 / 3, 5 / 3, 5 / 3, 5 / 3])


def test_queries_and_keys_are_watched_only_within_the_block():
    model = tiny("llama")
    parts = parts_of(model)
    ids = torch.arange(24)[None]
    with watched(model, parts) as found:
        model.net(ids, use_cache=False)
    before = {name: one.mean().clone() for name, one in found.items()}
    model.net(ids + 9, use_cache=False)

    assert set(found) == {p.names[role] for p in parts for role in ("query", "key")}
    assert {len(one) for one in before.values()} == {4, 2}  # heads of either
    for name, one in found.items():
        assert torch.equal(one.mean(), before[name])


def test_what_a_block_stores_counts_biases_and_its_weights_do_not():
    model = tiny("qwen2")  # 4 query and 2 key-value heads of width 6; 40 neurons of 24
    (one, *_) = parts_of(model)

    matrices = 2 * 24 * 24 + 2 * 12 * 24 + 3 * 24 * 40
    assert weights(model.net, one) == matrices
    assert stored(model.net, one) == matrices + 24 + 2 * 12


def neurons(budget_of, gram=None, spoil=None):
    """The MLP of the first block after it kept the neurons that a budget allows."""
    model = tiny("llama")
    (one, *_) = parts_of(model)
    scores = torch.arange(40.0).flip(0)
    scores[39] = 100
    if spoil:
        spoil(model.net)
    keep_neurons(model.net, one, scores, budget_of(stored(model.net, one)), gram)
    return model.net.model.layers[0].mlp


def test_the_neurons_of_highest_score_stay_in_their_order():
    dense = tiny("llama").net.model.layers[0].mlp

    # A neuron has a row of the gate and of up, and a column of down: 72 numbers.
    mlp = neurons(lambda whole: whole - 37 * 72)
    assert mlp.down_proj.in_features == 3
    kept = [0, 1, 39]
    assert torch.equal(mlp.up_proj.weight, dense.up_proj.weight[kept])
    assert torch.equal(mlp.down_proj.weight, dense.down_proj.weight[:, kept])
    assert neurons(lambda whole: whole - 1).down_proj.in_features == 39
    for more in (0, 1000):
        same = neurons(lambda whole, more=more: whole + more)
        assert torch.equal(same.down_proj.weight, dense.down_proj.weight)


def test_without_a_neuron_a_block_is_unsupported():
    assert neurons(lambda whole: whole - 39 * 72).down_proj.in_features == 1
    with pytest.raises(Unsupported, match=r"leaves no neuron in model\.layers\.0"):
        neurons(lambda whole: whole - 39 * 72 - 1)


def test_the_down_projection_is_fitted_to_the_neurons_that_stay():
    # All neurons equal the first one: three columns do what forty did.
    dense = tiny("llama").net.model.layers[0].mlp.down_proj.weight
    equal = torch.ones(40, 40, dtype=torch.float64)

    mlp = neurons(lambda whole: whole - 37 * 72, gram=equal)

    torch.testing.assert_close(mlp.down_proj.weight.sum(1), dense.sum(1))


def test_a_fitted_weight_that_the_layer_cannot_store_is_refused():
    def half(net):
        net.to(torch.float16)
        net.model.layers[0].mlp.down_proj.weight.data.fill_(60_000.0)

    equal = torch.ones(40, 40, dtype=torch.float64)
    with pytest.raises(NotFinite, match=r"the weight of .*down_proj"):
        neurons(lambda whole: whole - 39 * 72, gram=equal, spoil=half)
