"""Class-aware pruning: its scores by hand, its modified cost, its loop of cuts."""

import pytest
import torch
from small_nets import context, dense, tiny
from torch import nn

from harness.core import BenchError, Unsupported
from harness.toolkit.training import Objective, Recipe
from methods import class_aware_pruning
from methods._kernels.filters import surgery
from methods.class_aware_pruning import (
    ClassAwarePruning,
    Modified,
    class_scores,
    not_orthogonal,
)
from tasks.digits import Digits

# Scores


def test_class_scores_count_the_classes_in_which_a_filter_is_alive():
    # Filter 0 passes class 0 only, filter 1 (negation) class 1 only, filter 2 is zero;
    # filter 3 is always on but the head ignores it, so that its gradient is zero.
    ctx = tiny()
    found = surgery.groups(ctx.model, ctx.model.net)
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
    found = surgery.groups(ctx.model, net)
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
    found = surgery.groups(model, model.net)
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
            ctx.model.net, surgery.groups(ctx.model, ctx.model.net), ctx,
            images_per_class=1, reduce="sum_then_max",
        )  # fmt: skip


# The modified cost of class-aware pruning


def test_the_orthogonality_term_is_zero_for_orthogonal_kernels():
    # Two kernels that are single centre pixels of different channels: at the centre
    # their products are the identity, at the eight shifts they do not overlap.
    kernel = torch.zeros(2, 2, 3, 3)
    kernel[0, 0, 1, 1] = kernel[1, 1, 1, 1] = 1
    assert not_orthogonal(kernel) == 0
    # Twice as long: the centre becomes 4 I, and |4 I - I| = 3 sqrt(2).
    assert not_orthogonal(2 * kernel).item() == pytest.approx(3 * 2**0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not_orthogonal(1.001 * kernel).item() == pytest.approx(
            0.002001 * 2**0.5, rel=1e-3
        )


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
    assert surgery.parameters(net) <= surgery.budget_of(model, 0.4)


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


def test_as_published_the_network_that_stops_is_the_result():
    model = dense("digits_convnet")
    ctx = context(model, Digits().data())
    method = ClassAwarePruning(
        until="published", class_threshold=9.0, max_fraction=0.05, floor=0.0
    )

    net = method.compress(method.fit(model, ctx), 0.9, ctx)

    before, after = (surgery.parameters(one) for one in (model.net, net))
    assert surgery.budget_of(model, 0.9) < after < before
    # Nothing that may leave matters for fewer than nine classes.
    scores = class_scores(
        net, surgery.groups(model, net), ctx, images_per_class=10, reduce="sum_then_max"
    )
    assert all(value >= 9.0 for value, *_ in surgery.order(scores))


def test_as_published_a_cut_that_costs_too_much_is_taken_back():
    model = dense("digits_convnet")
    ctx = context(model, Digits().data())
    method = ClassAwarePruning(until="published", stop_accuracy=1.0)

    net = method.compress(method.fit(model, ctx), 0.9, ctx)

    assert surgery.parameters(net) == surgery.parameters(model.net)
    assert next(m.value for m in ctx.recorded if m.metric == "cuts") == 0


def test_as_published_the_network_at_the_floor_of_every_layer_is_the_result():
    # Ten classes: each filter is below the threshold, and only the floor stops.
    model = dense("digits_convnet")
    ctx = context(model, Digits().data())
    method = ClassAwarePruning(
        until="published", class_threshold=11.0, max_fraction=0.5, floor=0.5
    )

    net = method.compress(method.fit(model, ctx), 0.9, ctx)

    sizes = {g.name: g.size for g in surgery.groups(model, net)}
    assert sizes == {"conv1": 8, "conv2": 8, "conv3": 16, "conv4": 16}


def test_as_published_needs_a_rule_that_stops():
    with pytest.raises(ValueError, match="needs class_threshold, stop_accuracy"):
        ClassAwarePruning(until="published")


def test_the_last_training_and_the_modified_cost_of_the_others(monkeypatch):
    model = dense("digits_convnet")
    ctx = context(model, Digits().data())
    one = Recipe(epochs=1, lr=0.05)
    goals = []
    for module in (class_aware_pruning, surgery):
        monkeypatch.setattr(
            module, "train", lambda net, recipe, ctx, objective: goals.append(objective)
        )
    method = ClassAwarePruning(
        retrain=one, retrain_cost="modified", finetune=one, max_fraction=0.1
    )

    method.compress(method.fit(model, ctx), 0.4, ctx)

    *cuts, last = goals
    assert len(cuts) >= 2
    assert [type(goal) for goal in cuts] == [Modified] * len(cuts)
    assert [goal.first_epoch for goal in goals] == list(range(len(goals)))
    assert type(last) is Objective


def test_equal_scores_do_not_depend_on_pooling():
    # The only filter that passes class 0 has the gradient at one position of four.
    ctx = tiny()
    found = surgery.groups(ctx.model, ctx.model.net)
    scores = class_scores(
        ctx.model.net, found, ctx, images_per_class=3, reduce="sum_then_max"
    )["conv"]
    # The tie-break of the layer's best filter has its whole weight.
    assert scores.max() == pytest.approx(1, abs=1e-12)


def test_class_aware_pruning_leaves_every_layer_its_floor():
    model = dense("digits_convnet")
    ctx = context(model, Digits().data())
    wide = ClassAwarePruning(floor=0.5, max_fraction=0.5)
    net = wide.compress(wide.fit(model, ctx), 0.6, ctx)
    sizes = {g.name: g.size for g in surgery.groups(model, net)}
    least = {"conv1": 8, "conv2": 8, "conv3": 16, "conv4": 16}
    assert all(sizes[name] >= count for name, count in least.items())
    with pytest.raises(Unsupported, match="before a layer is too narrow"):
        wide.compress(wide.fit(model, ctx), 0.8, ctx)
