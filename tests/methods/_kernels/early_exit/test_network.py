"""Early exits: who leaves, what it costs, and the network that really stops."""

import math

import pytest
import torch
from exit_nets import SHAPE, context
from fake_device import FakeDevices
from torch import nn

from harness.core import Unsupported
from harness.models.mlp import MLP
from harness.toolkit import model_size, saved_model
from harness.toolkit.training import Recipe, predict
from methods._kernels.early_exit.network import (
    Costs,
    ExitNet,
    costs_of,
    leave,
    with_exits,
)
from methods._kernels.early_exit.thresholds import simulate
from methods._kernels.early_exit.training import every_logit
from methods.branchynet import BranchyNet
from methods.class_exclusion import ClassExclusion
from methods.confidence_exit import ConfidenceExit


def test_the_host_waits_twice_an_exit():
    torch.manual_seed(0)
    stack = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    heads = [{"features": 4, "classes": 4, "pool": 0, "conv": False}] * 3
    net = ExitNet(
        stack,
        exits=["0", "1", "2"],
        heads=heads,
        rule="confidence",
        thresholds=[0.9, 0.9, 0.9],
    ).eval()
    inputs = torch.randn(64, 4)
    with torch.inference_mode():
        wanted, taken = net(inputs), net.taken
    assert all(taken), "every exit is taken"

    with FakeDevices() as fake, torch.inference_mode():
        fake.move(net, fake.devices[0])
        net.taken = [0] * 4
        found = net(inputs.to(fake.devices[0]))
        # The samples that leave, and the others: their number decides the next shapes.
        assert fake.reads == 2 * 3
        assert torch.equal(found.cpu(), wanted)
    assert net.taken == taken


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


@pytest.mark.parametrize("rule", ["exclusion", "confidence", "entropy"])
def test_at_threshold_0_not_even_a_certain_sample_leaves(rule):
    # In float32 the largest probability is exactly 1, and the entropy exactly 0.
    certain = torch.tensor([[200.0, 0.0, 0.0], [0.0, -200.0, 200.0]])
    gone, _ = leave(rule, certain, 0.0, all_of(2, 3))
    assert not gone.any()


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


def test_a_report_has_the_share_of_each_exit_but_the_end():
    ctx = context(MLP(hidden=(30, 20)))
    net = with_exits(ctx.model, ctx.dense(), 10, rule="confidence", pool=1, conv=False)

    def said(*taken):
        net.taken = list(taken)
        found = {m.metric: (m.value, m.n) for m in net.report()}
        return {k: v for k, v in found.items() if k.startswith("exit_share")}

    assert said(3, 1, 4) == {"exit_share_1": (3 / 8, 8), "exit_share_2": (1 / 8, 8)}
    assert said(0, 0, 0) == {"exit_share_1": (0, 1), "exit_share_2": (0, 1)}


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
    net.answers = [[1] * 100] * 4
    by_class = [m for m in net.report() if m.step is not None]
    assert len(by_class) == 400
    assert {(m.value, m.n) for m in by_class} == {(0.25, 4)}


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


def test_a_network_without_exit_points_is_unsupported():
    ctx = context()
    bare = ctx.model.__class__(
        **{f: getattr(ctx.model, f) for f in ctx.model.__slots__ if f != "roles"},
        roles={},
    )
    with pytest.raises(Unsupported, match="no places for exits"):
        with_exits(bare, ctx.dense(), 10, rule="entropy", pool=1, conv=False)
