"""Filter pruning: surgery to a budget, and each score by hand on a small layer."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from harness.core import BenchError, Context, Model, NotFinite, Unsupported
from harness.images import ImageData, Images
from harness.registry import find
from harness.training import Objective, Recipe
from methods import _filters
from methods.class_aware_pruning import (
    ClassAwarePruning,
    Modified,
    class_scores,
    not_orthogonal,
)
from methods.hrank import HRank, ranks
from methods.l1_filter import L1Filter, norms
from methods.network_slimming import NetworkSlimming, Sparse
from methods.taylor import Taylor
from tasks.digits import Digits

DIGITS = {"classes": 10, "input": [1, 8, 8]}
MNIST = {"classes": 10, "input": [1, 28, 28]}
C10 = {"classes": 10, "input": [3, 32, 32]}
SMALL = {
    "wide_resnet": {"depth": 10, "widen": 1},
    "densenet": {"layers_per_block": 2, "growth": 6},
}
CPU = torch.device("cpu")


def dense(name: str, shape=DIGITS) -> Model:
    return find("model", name).build(SMALL.get(name, {})).build(shape, 0)


def context(model: Model, data=None) -> Context:
    return Context(model=model, seed=0, device=CPU, data=data)


def disturb_norms(net: nn.Module) -> None:
    """Norms as after training: at their initial values every filter looks alike."""
    rng = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=rng)
            module.bias.data.uniform_(-0.3, 0.3, generator=rng)
            module.running_mean.uniform_(-0.3, 0.3, generator=rng)


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
    found = _filters.groups(model, model.net)
    chosen = {g.name: list(range(0, g.size, 3)) for g in found}
    small = _filters.remove(model, model.net, chosen)

    def silence(filters):
        def hook(module, inputs, output):
            output[:, filters] = 0
            return output

        return hook

    masked = copy.deepcopy(model.net)
    for group in _filters.groups(model, masked):
        # Zero behind the norm is zero behind the ReLU. Not in a DenseNet, whose norms
        # stand in front of the convolutions: there only the shapes are checked.
        group.output.register_forward_hook(silence(chosen[group.name]))
    images = torch.randn(2, *shape["input"])
    if name != "densenet":
        torch.testing.assert_close(small(images), masked(images), atol=1e-5, rtol=1e-5)
    assert small(images).shape == (2, 10)
    for before, after in zip(found, _filters.groups(model, small), strict=True):
        assert after.size == before.size - len(chosen[before.name])
    assert [g.size for g in _filters.groups(model, model.net)] == [
        g.size for g in found
    ]  # the network that was given is whole


def test_coupled_convolutions_of_a_residual_network_keep_their_width():
    model = dense("resnet20", C10)
    found = {g.name for g in _filters.groups(model, model.net)}
    assert found == {f"block{s}_{b}.conv1" for s in (1, 2, 3) for b in (1, 2, 3)}


@given(ratio=st.floats(0.01, 0.95))
@settings(max_examples=15, deadline=None)
def test_the_budget_is_met_by_the_fewest_filters(ratio):
    model = dense("digits_convnet")
    scores = _filters.uniform(norms(_filters.groups(model, model.net)))
    budget = _filters.budget_of(model, ratio)
    small = _filters.prune_to(model, model.net, scores, budget)
    left = _filters.parameters(small)
    assert left <= budget
    # One filter of this network has at most 16 * 9 + 2 + 32 * 9 = 434 weights.
    assert left > budget - 434


def test_a_higher_ratio_never_has_more_parameters():
    model = dense("digits_convnet")
    sizes = [
        _filters.parameters(L1Filter().compress(None, ratio, context(model)))
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
        _filters.order({"conv1": torch.tensor([1.0, float("nan")])})


def test_the_lowest_scores_leave_first_and_the_best_of_a_layer_never():
    ranking = _filters.order(
        {"a": torch.tensor([0.3, 0.1]), "b": torch.tensor([0.2, 0.05])}
    )
    assert [(name, index) for _, name, index in ranking] == [("b", 1), ("a", 1)]


def test_a_floor_protects_the_best_filters_of_a_layer():
    scores = {"a": torch.tensor([0.3, 0.1, 0.2]), "b": torch.tensor([5.0, 4.0])}
    ranking = _filters.order(scores, {"a": 2})
    assert [(name, index) for _, name, index in ranking] == [("a", 1), ("b", 1)]


def test_class_aware_pruning_leaves_every_layer_its_floor():
    model = dense("digits_convnet")
    ctx = context(model, Digits().data())
    wide = ClassAwarePruning(floor=0.5, max_fraction=0.5)
    net = wide.compress(wide.fit(model, ctx), 0.6, ctx)
    sizes = {g.name: g.size for g in _filters.groups(model, net)}
    least = {"conv1": 8, "conv2": 8, "conv3": 16, "conv4": 16}
    assert all(sizes[name] >= count for name, count in least.items())
    with pytest.raises(Unsupported, match="before a layer is too narrow"):
        wide.compress(wide.fit(model, ctx), 0.8, ctx)


# Scores on a layer made by hand: two classes, images of one bright pixel.


class Tiny(nn.Module):
    """One convolution of four filters that pass, negate, ignore and add 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4, 2)
        self.conv.weight.data = torch.tensor([1.0, -1, 0, 0]).view(4, 1, 1, 1)
        self.conv.bias.data = torch.tensor([0.0, 0, 0, 1])
        self.head.weight.data = torch.tensor([[1.0, 1, 1, 0], [-1.0, -1, -1, 0]])
        self.head.bias.data.zero_()

    def forward(self, images):
        return self.head(self.pool(self.relu(self.conv(images))).flatten(1))


def tiny() -> Context:
    # Class 0 is bright at the first pixel, class 1 is dark (negative) at the last.
    pixels = torch.full((8, 1, 1, 2), 128, dtype=torch.uint8)
    pixels[:4, 0, 0, 0], pixels[4:, 0, 0, 1] = 255, 0
    images = Images(
        pixels=pixels,
        labels=torch.tensor([0] * 4 + [1] * 4),
        mean=(128 / 255,),
        std=(0.5,),
    )
    data = ImageData(train=images, validation=images, test=images, classes=2)
    model = Model(
        name="tiny", net=Tiny().eval(), kind="classifier", roles={"conv": "conv"},
        example=lambda: {"images": torch.zeros(1, 1, 1, 2)},
    )  # fmt: skip
    return context(model, data)


def test_l1_scores_are_sums_of_absolute_weights():
    ctx = tiny()
    scores = norms(_filters.groups(ctx.model, ctx.model.net))
    assert scores["conv"].tolist() == [1, 1, 0, 0]


def test_class_scores_count_the_classes_in_which_a_filter_is_alive():
    # Filter 0 passes class 0 only, filter 1 (negation) class 1 only, filter 2 is zero;
    # filter 3 is always on but the head ignores it, so that its gradient is zero.
    ctx = tiny()
    found = _filters.groups(ctx.model, ctx.model.net)
    for reduce in ("sum_then_max", "max_then_sum"):
        scores = class_scores(
            ctx.model.net, found, ctx, images_per_class=3, reduce=reduce
        )
        assert scores["conv"].tolist() == pytest.approx([1, 1, 0, 0], abs=1e-5)


def test_a_filter_alive_in_two_classes_at_two_places_tells_the_reductions_apart():
    ctx = tiny()
    net = ctx.model.net
    net.conv.weight.data[0] = 1
    images = ctx.data.train.pixels  # class 1 becomes bright at the second pixel
    images[4:, 0, 0, 1] = 255
    found = _filters.groups(ctx.model, net)
    scores = {
        reduce: class_scores(net, found, ctx, images_per_class=4, reduce=reduce)
        for reduce in ("sum_then_max", "max_then_sum")
    }
    assert scores["sum_then_max"]["conv"][0].item() == pytest.approx(1, abs=1e-5)
    assert scores["max_then_sum"]["conv"][0].item() == pytest.approx(2, abs=1e-5)


def test_class_scores_lie_between_0_and_the_number_of_classes():
    model = dense("digits_convnet")
    model.net.conv2.weight.data[5] = 0  # and its norm has bias 0: a dead filter
    ctx = context(model, Digits().data())
    found = _filters.groups(model, model.net)
    scores = class_scores(
        model.net, found, ctx, images_per_class=5, reduce="sum_then_max"
    )
    for score in scores.values():
        assert score.min() >= 0
        assert score.max() <= 10
    assert scores["conv2"][5] == 0


def test_a_class_without_images_to_score_with_is_named():
    ctx = tiny()
    ctx.data.train.labels[:] = 0
    with pytest.raises(BenchError, match="no training image has class 1"):
        class_scores(
            ctx.model.net, _filters.groups(ctx.model, ctx.model.net), ctx,
            images_per_class=1, reduce="sum_then_max",
        )  # fmt: skip


def test_taylor_scores_are_the_derivatives_that_finite_differences_find():
    model = dense("digits_convnet")
    disturb_norms(model.net)
    ctx = context(model, Digits().data())
    net = copy.deepcopy(model.net).double()
    images, labels = next(_filters.batches(ctx, "taylor", 1, 40))
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
    if on == "activation":  # normalised in the layer
        assert scores.norm().item() == pytest.approx(1)


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


# The modified cost of class-aware pruning


def test_the_orthogonality_term_is_zero_for_orthogonal_kernels():
    # Two kernels that are single centre pixels of different channels: at the centre
    # their products are the identity, at the eight shifts they do not overlap.
    kernel = torch.zeros(2, 2, 3, 3)
    kernel[0, 0, 1, 1] = kernel[1, 1, 1, 1] = 1
    assert not_orthogonal(kernel) == 0
    # Twice as long: the centre becomes 4 I, and |4 I - I| = 3 sqrt(2).
    assert not_orthogonal(2 * kernel).item() == pytest.approx(3 * 2**0.5)


def test_the_modified_cost_is_the_sum_of_its_three_terms():
    model = dense("digits_convnet")
    batch = Digits().data().train.batch(torch.arange(8))
    got = Modified(orthogonality=0.5, l1=0.25).loss(model.net, batch)
    convs = [m for m in model.net.modules() if isinstance(m, nn.Conv2d)]
    want = (
        Objective().loss(model.net, batch)
        + 0.5 * sum(not_orthogonal(c.weight) for c in convs)
        + 0.25 * sum(p.abs().sum() for p in model.net.parameters())
    )
    torch.testing.assert_close(got, want)


# The loop of class-aware pruning


def test_class_aware_pruning_takes_as_many_cuts_as_its_fraction_asks():
    model = dense("digits_convnet")
    ctx = context(model, Digits().data())
    tune = Recipe(epochs=1, lr=0.05)
    careful = ClassAwarePruning(max_fraction=0.1, retrain=tune)
    net = careful.compress(careful.fit(model, ctx), 0.4, ctx)
    cuts = next(m.value for m in ctx.recorded if m.metric == "cuts")
    assert cuts >= 2
    steps = [m.step for m in ctx.recorded if m.metric == "train_loss"]
    assert steps == list(range(int(cuts)))  # one curve over all cuts
    assert _filters.parameters(net) <= _filters.budget_of(model, 0.4)


def test_class_aware_pruning_stops_where_every_filter_matters():
    model = dense("digits_convnet")
    ctx = context(model, Digits().data())
    strict = ClassAwarePruning(class_threshold=1e-9)
    with pytest.raises(Unsupported, match="every filter matters for 1e-09 classes"):
        strict.compress(strict.fit(model, ctx), 0.5, ctx)


def test_class_aware_pruning_stops_below_the_wanted_accuracy():
    model = dense("digits_convnet")
    ctx = context(model, Digits().data())
    proud = ClassAwarePruning(stop_accuracy=0.99)
    with pytest.raises(Unsupported, match=r"fell to 0\.\d+, below stop_accuracy 0.99"):
        proud.compress(proud.fit(model, ctx), 0.5, ctx)


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
