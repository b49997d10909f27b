"""Training of early exits, and the thresholds that a ratio gets."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from exit_nets import SHAPE, context

from harness.core import Unsupported
from harness.registry import find
from harness.toolkit import model_size, saved_model
from harness.toolkit.training import predict
from methods._kernels.early_exit import training
from methods._kernels.early_exit.network import leave, with_exits
from methods._kernels.early_exit.training import EarlyExit, Joint
from methods.branchynet import BranchyNet
from methods.class_exclusion import ClassExclusion
from methods.confidence_exit import ConfidenceExit


def all_of(n: int, classes: int) -> torch.Tensor:
    return torch.ones(n, classes, dtype=torch.bool)


def test_every_example_is_read_once_and_in_order():
    class Counted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def all_logits(self, images):
            return [images, -images]

    class Numbers:
        def __len__(self):
            return 2500

        def batch(self, index):
            return index.float()[:, None], None

    first, second = training.every_logit(Counted(), Numbers())
    assert torch.equal(first[:, 0], torch.arange(2500.0))
    assert torch.equal(second, -first)


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
