"""Filter pruning: surgery to a budget, and each score by hand on a small layer."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import C10, DIGITS, MNIST, context, dense, disturb_norms, tiny
from torch import nn

from harness.core import BenchError, NotFinite, Unsupported
from harness.registry import find
from methods._kernels.filters import surgery
from methods.hrank import HRank, ranks
from methods.l1_filter import L1Filter, norms
from methods.network_slimming import NetworkSlimming, Sparse
from methods.taylor import Taylor
from tasks.digits import Digits

# Surgery


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("digits_convnet", DIGITS),
        ("lenet5", MNIST),
        ("resnet20", C10),
        ("densenet", C10),
        ("wide_resnet", C10),
        ("vgg16", C10),
    ],
)
def test_a_pruned_network_equals_the_masked_one(name, shape):
    model = dense(name, shape)
    disturb_norms(model.net)
    found = surgery.groups(model, model.net)
    chosen = {g.name: list(range(0, g.size, 3)) for g in found}
    small = surgery.remove(model, model.net, chosen)

    def silence(filters):
        def hook(module, inputs, output):
            output[:, filters] = 0
            return output

        return hook

    masked = copy.deepcopy(model.net)
    for group in surgery.groups(model, masked):
        # Zero behind the norm is zero behind the ReLU. Not in a DenseNet, whose norms
        # stand in front of the convolutions: there only the shapes are checked.
        group.output.register_forward_hook(silence(chosen[group.name]))
    images = torch.randn(2, *shape["input"])
    if name != "densenet":
        torch.testing.assert_close(small(images), masked(images), atol=1e-5, rtol=1e-5)
    assert small(images).shape == (2, 10)
    for before, after in zip(found, surgery.groups(model, small), strict=True):
        assert after.size == before.size - len(chosen[before.name])
    assert [g.size for g in surgery.groups(model, model.net)] == [
        g.size for g in found
    ]  # the network that was given is whole


def test_coupled_convolutions_of_a_residual_network_keep_their_width():
    model = dense("resnet20", C10)
    found = {g.name for g in surgery.groups(model, model.net)}
    assert found == {f"block{s}_{b}.conv1" for s in (1, 2, 3) for b in (1, 2, 3)}


@given(ratio=st.floats(0.01, 0.95))
@settings(max_examples=15, deadline=None)
def test_the_budget_is_met_by_the_fewest_filters(ratio):
    model = dense("digits_convnet")
    scores = surgery.uniform(norms(surgery.groups(model, model.net)))
    budget = surgery.budget_of(model, ratio)
    small = surgery.prune_to(model, model.net, scores, budget)
    left = surgery.parameters(small)
    assert left <= budget
    # One filter of this network has at most 16 * 9 + 2 + 32 * 9 = 434 weights.
    assert left > budget - 434


def test_a_higher_ratio_never_has_more_parameters():
    model = dense("digits_convnet")
    sizes = [
        surgery.parameters(L1Filter().compress(None, ratio, context(model)))
        for ratio in (0.0, 0.1, 0.3, 0.31, 0.6, 0.9)
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_a_ratio_that_empties_a_layer_is_unsupported_with_the_limit():
    model = dense("digits_convnet")
    with pytest.raises(Unsupported, match=r"of 16794 parameters can go .* Lower"):
        L1Filter().compress(None, 0.999, context(model))


def test_a_network_without_free_convolutions_is_unsupported():
    with pytest.raises(Unsupported, match="has no convolution"):
        L1Filter().compress(None, 0.5, context(dense("mlp")))


def test_a_score_that_is_not_finite_stops_the_trial():
    with pytest.raises(NotFinite, match="filter of conv1"):
        surgery.order({"conv1": torch.tensor([1.0, float("nan")])})


def test_the_lowest_scores_leave_first_and_the_best_of_a_layer_never():
    ranking = surgery.order(
        {"a": torch.tensor([0.3, 0.1]), "b": torch.tensor([0.2, 0.05])}
    )
    assert [(name, index) for _, name, index in ranking] == [("b", 1), ("a", 1)]


def test_a_floor_protects_the_best_filters_of_a_layer():
    scores = {"a": torch.tensor([0.3, 0.1, 0.2]), "b": torch.tensor([5.0, 4.0])}
    ranking = surgery.order(scores, {"a": 2})
    assert [(name, index) for _, name, index in ranking] == [("a", 1), ("b", 1)]


# Scores


def test_l1_scores_are_sums_of_absolute_weights():
    ctx = tiny()
    scores = norms(surgery.groups(ctx.model, ctx.model.net))
    assert scores["conv"].tolist() == [1, 1, 0, 0]


def test_taylor_scores_are_the_derivatives_that_finite_differences_find():
    model = dense("digits_convnet")
    disturb_norms(model.net)
    ctx = context(model, Digits().data())
    net = copy.deepcopy(model.net).double()
    images, labels = next(surgery.batches(ctx, "taylor", 1, 40))
    scores = Taylor(batches=1, batch_size=40).fit(model, ctx)

    def loss(filter_: int, factor: float) -> float:
        def hook(module, inputs, output):
            output[:, filter_] *= factor
            return output

        handle = net.norm2.register_forward_hook(hook)
        value = nn.functional.cross_entropy(net(images.double()), labels).item()
        handle.remove()
        return value

    for filter_ in (0, 7):
        slope = (loss(filter_, 1.001) - loss(filter_, 0.999)) / 0.002
        assert scores["conv2"][filter_].item() == pytest.approx(slope**2, rel=1e-2)


@pytest.mark.parametrize("on", ["gate", "weights", "activation"])
def test_a_filter_that_nothing_reads_has_no_taylor_score(on):
    ctx = tiny()
    scores = Taylor(on=on, batches=1).fit(ctx.model, ctx)["conv"]
    assert scores[2:].tolist() == [0, 0]
    assert (scores[:2] > 0).all()


def test_ranks_are_those_of_hand_made_maps_behind_a_relu():
    maps = torch.zeros(1, 4, 3, 3)
    maps[0, 0] = torch.eye(3)
    maps[0, 1] = 1.0
    maps[0, 2] = -torch.eye(3)  # the ReLU leaves nothing
    maps[0, 3] = torch.diag(torch.tensor([2.0, 1, 0]))
    assert ranks(maps).tolist() == [[3, 1, 0, 2]]


def test_hrank_scores_are_mean_ranks_of_the_real_maps():
    ctx = tiny()
    scores = HRank(batches=1, batch_size=8).fit(ctx.model, ctx)["conv"]
    # A 1 x 2 map has rank 1 unless all its pixels are 0 behind the ReLU. Filter 0 is
    # on for the 4 bright images, filter 1 for the 4 dark ones, filter 3 always.
    assert scores.tolist() == [0.5, 0.5, 0, 1]


def test_slimming_ranks_by_the_norms_weight():
    model = dense("digits_convnet")
    disturb_norms(model.net)
    slim = NetworkSlimming().fit(model, context(model))
    torch.testing.assert_close(slim.scores["conv3"], model.net.norm3.weight.abs().data)
    small = NetworkSlimming().compress(slim, 0.2, context(model))
    kept = sorted(small.norm1.weight.tolist())
    assert kept == sorted(model.net.norm1.weight.tolist())[-len(kept) :]


def test_slimming_adds_the_sign_to_the_gradient_of_norm_weights_only():
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3))
    net[1].weight.data = torch.tensor([2.0, -0.5, 0.0])
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    Sparse(sparsity=0.1).after_backward(net)
    assert net[1].weight.grad.tolist() == pytest.approx([1.1, 0.9, 1.0])
    assert (net[0].weight.grad == 1).all()
    assert (net[1].bias.grad == 1).all()


def test_slimming_needs_norms():
    model = dense("lenet5", MNIST)
    with pytest.raises(Unsupported, match="conv1, conv2 has no batch normalisation"):
        NetworkSlimming().fit(model, context(model))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("taylor", {"batches": 0}, "batches is 0"),
        ("hrank", {"batch_size": 0}, "batch_size 0"),
        ("network_slimming", {"sparsity": -1.0}, "sparsity is -1"),
        ("class_aware_pruning", {"max_fraction": 0.0}, "max_fraction 0"),
        ("l1_filter", {"finetune": {"epochs": 0}}, "epochs is 0"),
    ],
)
def test_options_out_of_range_are_refused_with_their_value(name, options, words):
    with pytest.raises(BenchError, match=words):
        find("method", name).build(options)


def test_nothing_is_removed_where_the_budget_is_the_whole_network():
    model = dense("digits_convnet")
    scores = surgery.uniform(norms(surgery.groups(model, model.net)))
    whole = surgery.parameters(model.net)
    small = surgery.prune_to(model, model.net, scores, whole)
    assert surgery.parameters(small) == whole


def test_no_more_filters_leave_than_allowed_even_above_the_budget():
    model = dense("digits_convnet")
    found = surgery.groups(model, model.net)
    scores = surgery.uniform(norms(found))
    before = sum(g.size for g in found)

    def left(budget: int, at_most: int | None) -> int:
        small = surgery.prune_to(model, model.net, scores, budget, at_most=at_most)
        return before - sum(g.size for g in surgery.groups(model, small))

    assert left(0, 2) == 2
    enough = surgery.budget_of(model, 0.3)
    assert left(enough, 10_000) == left(enough, None) > 2
    with pytest.raises(Unsupported, match="the budget is 0"):
        left(0, 10_000)
