"""Early exits: who leaves, what it costs, and the network that really stops."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from harness.core import Context, Unsupported
from harness.models.digits_convnet import DigitsConvnet
from harness.models.mlp import MLP
from harness.registry import find
from harness.toolkit import model_size, saved_model
from harness.toolkit.training import Recipe, predict
from methods._kernels.early_exit import training
from methods._kernels.early_exit.network import Costs, costs_of, leave, with_exits
from methods._kernels.early_exit.thresholds import simulate
from methods._kernels.early_exit.training import EarlyExit, Joint, every_logit
from methods.branchynet import BranchyNet
from methods.class_exclusion import ClassExclusion
from methods.confidence_exit import ConfidenceExit
from tasks.digits import Digits

SHAPE = {"classes": 10, "input": [1, 8, 8]}
QUICK = Recipe(epochs=4, lr=0.1, batch_size=50)


def context(plugin=None) -> Context:
    model = (plugin or DigitsConvnet()).build(SHAPE, 0)
    return Context(
        model=model, seed=0, device=torch.device("cpu"), data=Digits().data()
    )


@pytest.fixture(scope="module")
def trained():
    ctx = context()
    method = ClassExclusion(train=QUICK)
    return ctx, method, method.fit(ctx.model, ctx)


# Who leaves


def all_of(n: int, classes: int) -> torch.Tensor:
    return torch.ones(n, classes, dtype=torch.bool)


def logit(*probabilities: float) -> torch.Tensor:
    return torch.logit(torch.tensor([probabilities]))


def test_exclusion_by_hand():
    # Highest 0.8; threshold 0.5: classes above 0.4 stay.
    gone, left = leave("exclusion", logit(0.8, 0.5, 0.3), 0.5, all_of(1, 3))
    assert left.tolist() == [[True, True, False]]
    assert gone.tolist() == [False]
    # At the next exit class 2 is likeliest and comes back; the others fall.
    gone, left = leave("exclusion", logit(0.1, 0.2, 0.9), 0.5, left)
    assert left.tolist() == [[False, False, True]]
    assert gone.tolist() == [True]


def test_an_excluded_class_stays_excluded_unless_it_is_the_likeliest():
    state = torch.tensor([[True, False, True]])
    _, left = leave("exclusion", logit(0.8, 0.7, 0.6), 0.1, state)
    assert left.tolist() == [[True, False, True]]


def test_confidence_and_entropy_by_hand():
    even = torch.zeros(1, 4)  # softmax 1/4 each, entropy log 4
    sure = torch.tensor([[9.0, 0, 0, 0]])
    batch = torch.cat([even, sure])
    for rule in ("confidence", "entropy"):
        gone, _ = leave(rule, batch, 0.5, all_of(2, 4))
        assert gone.tolist() == [False, True]
    # softmax (3/4, 1/4): above 1 - t / 2 from t = 1/2 on; entropy 0.8113 log 2.
    odds = torch.tensor([[math.log(3), 0.0]])
    assert not leave("confidence", odds, 0.49, all_of(1, 2))[0].item()
    assert leave("confidence", odds, 0.51, all_of(1, 2))[0].item()
    assert not leave("entropy", odds, 0.81, all_of(1, 2))[0].item()
    assert leave("entropy", odds, 0.82, all_of(1, 2))[0].item()


@pytest.mark.parametrize("rule", ["exclusion", "confidence", "entropy"])
def test_at_threshold_0_nobody_leaves(rule):
    logits = torch.randn(50, 10, generator=torch.Generator().manual_seed(0)) * 5
    gone, left = leave(rule, logits, 0.0, all_of(50, 10))
    assert not gone.any()
    assert left.all()


def test_exclusion_near_1_leaves_the_likeliest_class_alone():
    logits = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    gone, left = leave("exclusion", logits, 0.9999, all_of(50, 10))
    assert gone.all()
    assert torch.equal(left.double().argmax(1), logits.argmax(1))


# What it costs


def test_costs_of_a_perceptron_are_those_of_its_matrices():
    # 64-30-20-10 with exits behind both hidden layers: parts 64*30, 30*20, 20*10;
    # heads 30*10 and 20*10.
    ctx = context(MLP(hidden=(30, 20)))
    net = with_exits(ctx.model, ctx.dense(), 10, rule="confidence", pool=1, conv=False)
    assert net.taken == [0, 0, 0]  # nobody left yet, at two exits and at the end
    costs = costs_of(net, ctx.model)
    assert costs.segments == [1920, 600, 200]
    assert costs.heads == [300, 200]
    assert costs.at == [2220, 3020, 3220]
    assert costs.plain == model_size.macs(ctx.model)


def test_the_average_cost_of_three_samples_by_hand():
    costs = Costs([100, 50, 25], [10, 5])
    # One leaves at each exit: 110, 110 + 55, 165 + 25.
    assert costs.average(torch.tensor([1, 1, 1])) == pytest.approx(465 / 3)
    assert costs.average(torch.tensor([0, 0, 4])) == 190


def test_a_convolution_in_a_branch_is_counted():
    ctx = context()
    net = with_exits(ctx.model, ctx.dense(), 10, rule="entropy", pool=1, conv=True)
    costs = costs_of(net, ctx.model)
    # First exit: 16 channels pooled to 4 x 4, conv 3 x 3 to 16, pooled, 16 -> 10.
    assert costs.heads[0] == 16 * 16 * 16 * 9 + 160


# The network


def test_at_threshold_0_the_network_answers_as_without_exits(trained):
    ctx, _, fitted = trained
    net = fitted.net.eval()
    net.thresholds = [0.0] * 3
    images, _ = ctx.data.test.batch(torch.arange(100))
    torch.testing.assert_close(net(images), net.stack(images))
    net.begin_report()
    logits = predict(net, ctx.data.test)
    right = (logits.argmax(1) == ctx.data.test.labels).double().mean().item()
    plain = simulate(
        "exclusion", every_logit(net, ctx.data.test), ctx.data.test.labels,
        fitted.costs, (0.0, 0.0, 0.0),
    )  # fmt: skip
    assert right == plain.accuracy
    assert net.taken == [0, 0, 0, 360]


def test_at_1_every_sample_leaves_at_the_first_exit_and_costs_its_prefix(trained):
    ctx, _, fitted = trained
    net = fitted.net.eval()
    net.thresholds, net.costs = [1.0] * 3, fitted.costs
    net.begin_report()
    predict(net, ctx.data.test)
    report = {m.metric: m.value for m in net.report()}
    assert report["exit_share_1"] == 1
    assert report["macs_average"] == fitted.costs.segments[0] + fitted.costs.heads[0]


@pytest.mark.parametrize("method", [ClassExclusion, ConfidenceExit, BranchyNet])
@pytest.mark.parametrize("threshold", [0.3, 0.9])
def test_the_network_does_what_the_simulation_says(method, threshold):
    ctx = context()
    fitted = method(train=Recipe(epochs=1, lr=0.05)).fit(ctx.model, ctx)
    net, test = fitted.net.eval(), ctx.data.test
    net.thresholds, net.costs = [threshold] * 3, fitted.costs
    net.begin_report()
    logits = predict(net, test, batch_size=77)
    report = {m.metric: m.value for m in net.report()}
    want = simulate(
        method.rule, every_logit(net, test), test.labels, fitted.costs, (threshold,) * 3
    )
    right = (logits.argmax(1) == test.labels).double().mean().item()
    assert right == pytest.approx(want.accuracy)
    assert report["macs_saved"] == pytest.approx(want.saved)


def test_the_report_says_at_which_exit_each_class_leaves(trained):
    ctx, _, fitted = trained
    net, test = fitted.net.eval(), ctx.data.test
    net.thresholds = [0.5] * 3
    net.begin_report()
    predict(net, test, batch_size=77)
    found = {(m.metric, m.step): m for m in net.report() if m.step is not None}

    left = torch.zeros(4, 10, dtype=torch.long)  # by exit and answer, one by one
    for place in range(len(test.labels)):
        images, _ = test.batch(torch.tensor([place]))
        net.taken = [0] * 4
        answer = int(net(images).argmax())
        left[net.taken.index(1), answer] += 1
    assert (left.sum(1) > 0).sum() > 1  # not all of them at one exit
    assert len(found) == 40
    for label in range(10):
        whole = int(left[:, label].sum())
        for exit_ in range(4):
            one = found[f"exit_of_class_{label}", exit_ + 1]
            assert one.n == whole
            assert one.value == pytest.approx(left[exit_, label] / max(whole, 1))


def test_classes_are_counted_in_a_report_only_and_not_without_end(trained):
    ctx, _, fitted = trained
    net = fitted.net.eval()
    net.thresholds = [0.5] * 3
    images, _ = ctx.data.test.batch(torch.arange(8))
    net.begin_report()
    net(images)
    assert sum(map(sum, net.answers)) == 8
    assert len(list(net.report())) > 3
    net(images)
    assert net.answers is None  # a latency that is measured later pays nothing
    net.answers = [[1] * 101] * 4
    assert not [m for m in net.report() if m.step is not None]


def test_samples_that_left_are_not_computed_any_further(trained):
    ctx, _, fitted = trained
    net = fitted.net.eval()
    net.thresholds = [0.9] * 3
    seen = []
    net.stack.conv4.register_forward_hook(lambda m, i, o: seen.append(len(o)))
    images, _ = ctx.data.test.batch(torch.arange(200))
    net.begin_report()
    net(images)
    net.stack.conv4._forward_hooks.clear()
    # conv4 stands behind the third exit.
    assert seen == [net.taken[-1]]
    assert seen[0] < 200


def test_an_excluded_class_is_never_the_answer(trained):
    ctx, _, fitted = trained
    net = fitted.net.eval()
    images, _ = ctx.data.test.batch(torch.arange(360))
    net.thresholds = [0.9] * 3
    logits = net(images)
    excluded = logits.isinf()
    assert excluded.any()
    assert not excluded.gather(1, logits.argmax(1, keepdim=True)).any()


def test_answers_do_not_depend_on_the_batch(trained):
    ctx, _, fitted = trained
    net = fitted.net.eval()
    net.thresholds = [0.9] * 3
    together = predict(net, ctx.data.test, batch_size=360).argmax(1)
    apart = predict(net, ctx.data.test, batch_size=7).argmax(1)
    assert torch.equal(together, apart)


def test_a_saved_network_leaves_at_the_same_exits(trained, tmp_path):
    ctx, method, fitted = trained
    net = method.compress(fitted, 0.2, ctx)
    origin = {"model": "digits_convnet", "options": {}, "revision": "1", "shape": SHAPE}
    saved_model.save(ctx.model.with_net(net), origin, tmp_path)
    again = saved_model.load(tmp_path).net
    images, _ = ctx.data.test.batch(torch.arange(100))
    assert again.thresholds == net.thresholds
    assert torch.equal(net(images), again(images))


# Training


def test_the_joint_loss_weighs_deeper_exits_more():
    # Three exits: 1/4, 1/3, 1/2, and 1 for the network; all logits 0 at ten classes.
    ctx = context()
    net = with_exits(ctx.model, ctx.dense(), 10, rule="exclusion", pool=1, conv=False)
    for parameter in net.parameters():
        parameter.data.zero_()
    batch = ctx.data.train.batch(torch.arange(5))
    softmax = Joint(method=ConfidenceExit(), weights=EarlyExit().weights(3))
    whole = 1 / 4 + 1 / 3 + 1 / 2 + 1
    assert softmax.loss(net, batch).item() == pytest.approx(whole * math.log(10))
    # Binary cross-entropy of probability 1/2: log 2 for each class, the true one 36
    # times: (9 + 36) / 10 log 2.
    binary = Joint(method=ClassExclusion(), weights=EarlyExit().weights(3))
    want = (whole - 1) * 4.5 * math.log(2) + math.log(10)
    assert binary.loss(net, batch).item() == pytest.approx(want)


def test_branchynet_weighs_the_first_exit_most():
    assert BranchyNet().weights(2) == [1.0, 0.3, 0.3]


def test_softmax_heads_change_the_loss_and_the_rule_alone():
    method = ClassExclusion(loss="softmax")
    logits, labels = torch.randn(5, 10), torch.arange(5)

    assert method.exit_rule() == "softmax_exclusion"
    expected = ConfidenceExit().loss_at(logits, labels)
    assert torch.equal(method.loss_at(logits, labels), expected)
    # softmax (3/4, 1/4): the second class stays below the threshold 1/3.
    odds = torch.tensor([[math.log(3), 0.0]])
    assert not leave("softmax_exclusion", odds, 0.33, all_of(1, 2))[0].item()
    assert leave("softmax_exclusion", odds, 0.34, all_of(1, 2))[0].item()


def test_a_higher_ratio_saves_at_least_as_much_and_never_less_than_asked(trained):
    ctx, method, fitted = trained
    saved = []
    for ratio in (0.05, 0.2, 0.4, 0.6):
        method.compress(fitted, ratio, ctx)
        achieved = [m.value for m in ctx.recorded if m.metric == "achieved_ratio"]
        saved.append(achieved[-1])
        assert achieved[-1] >= ratio
    assert saved == sorted(saved)


def test_saving_more_than_the_first_exit_can_is_unsupported_with_the_limit(trained):
    ctx, method, fitted = trained
    most = max(c.saved for c in fitted.candidates)
    with pytest.raises(Unsupported, match=f"at the first exit saves {most:.3f}"):
        method.compress(fitted, 0.999, ctx)


def test_latency_is_measured_beside_the_plain_networks(trained):
    ctx, method, fitted = trained
    method.compress(fitted, 0.5, ctx)
    found = {m.metric: m for m in ctx.recorded}
    assert found["latency"].unit == "s"
    assert found["latency"].value > 0
    assert found["latency_plain"].value > 0


def test_a_network_without_exit_points_is_unsupported():
    ctx = context()
    bare = ctx.model.__class__(
        **{f: getattr(ctx.model, f) for f in ctx.model.__slots__ if f != "roles"},
        roles={},
    )
    with pytest.raises(Unsupported, match="no places for exits"):
        with_exits(bare, ctx.dense(), 10, rule="entropy", pool=1, conv=False)


def test_a_pool_of_nothing_is_refused():
    with pytest.raises(Exception, match="pool is 0"):
        find("method", "class_exclusion").build({"pool": 0})


def test_macs_are_the_average_over_validation_images_not_those_of_one_image(trained):
    ctx, method, fitted = trained
    net = method.compress(fitted, 0.2, ctx)
    model = ctx.model.with_net(net)

    split = ctx.data.validation
    net.begin_report()
    predict(net, split)
    (average,) = (m.value for m in net.report() if m.metric == "macs_average")

    assert model_size.macs(model) == int(average)
    dense = model_size.macs(ctx.model)
    assert 0.2 <= 1 - model_size.macs(model) / dense < 1
    # Whatever the example is: a black image leaves where it leaves.
    for value in (0.0, 3.0):
        other = replace(model, example=lambda v=value: {"images": v + 0 * one(split)})
        assert model_size.macs(other) == int(average)


def one(split):
    return split.batch(torch.tensor([0]))[0]


def test_a_saved_network_remembers_its_average_macs(trained, tmp_path):
    ctx, method, fitted = trained
    model = ctx.model.with_net(method.compress(fitted, 0.2, ctx))
    origin = {"model": "digits_convnet", "options": {}, "shape": SHAPE}
    saved_model.save(model, origin, tmp_path / "saved")

    assert model_size.macs(saved_model.load(tmp_path / "saved")) == model_size.macs(
        model
    )


def test_only_the_coordinate_search_refines_the_thresholds_for_a_ratio(trained):
    ctx, method, fitted = trained
    search = replace(method, search="released")
    known = [c.thresholds for c in fitted.candidates]

    found = {}
    for one in (method, search):
        found[one.search] = [
            tuple(one.compress(fitted, ratio, ctx).thresholds)
            for ratio in (0.05, 0.15, 0.25, 0.35, 0.45)
        ]
    assert all(thresholds in known for thresholds in found["released"])
    assert not all(thresholds in known for thresholds in found["coordinate"])


def test_a_latency_is_the_median_over_single_images(trained, monkeypatch):
    ctx, _, fitted = trained
    # Image n of the first network takes n seconds, that of the second 2 n: the upper
    # median of 1 .. 100 is 51.
    took = [n * scale for scale in (1, 2) for n in range(1, 101)]
    clock = itertools.accumulate(x for one in took for x in (0, one))
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(clock))

    found = training._latencies(fitted.net.eval(), ctx)

    assert [(m.metric, m.value, m.n) for m in found] == [
        ("latency", 51, 100),
        ("latency_plain", 102, 100),
    ]
