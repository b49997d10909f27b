"""Each check finds a method that breaks its contract, and only that one."""

import copy
import dataclasses
import math
from contextlib import nullcontext

import pytest
import torch

from harness.contracts import samples
from harness.contracts.checks import ADVICE, CHECKS
from harness.contracts.compressed import BrokenContract
from harness.contracts.suite import checks_of
from harness.core import Measurement, Unsupported
from harness.registry import Plugin, find


class Masks:
    """Zeroes the smallest weights of each matrix; breaks nothing."""

    def fit(self, model, ctx):
        return {
            name: module.weight.detach().abs().flatten().argsort()
            for name, module in model.modules("linear")
        }

    def compress(self, fitted, ratio, ctx):
        if ratio > 0.95:
            raise Unsupported(f"ratio {ratio} is more than the 0.95 that it can remove")
        net = ctx.dense()
        for name, order in fitted.items():
            weight = net.get_submodule(name).weight
            self.zero(weight, order, math.ceil(ratio * len(order)))
        return net

    def zero(self, weight, order, count):
        with torch.no_grad():
            weight.view(-1)[order[:count]] = 0


class ChangesTheModel(Masks):
    def fit(self, model, ctx):
        with torch.no_grad():
            next(model.net.parameters())[0] += 1e-3
        return super().fit(model, ctx)


class LeavesHooks(Masks):
    def fit(self, model, ctx):
        model.net.register_forward_hook(lambda *_: None)
        return super().fit(model, ctx)


class ChangesTheFit(Masks):
    def compress(self, fitted, ratio, ctx):
        net = super().compress(fitted, ratio, ctx)
        next(iter(fitted.values()))[0] += 1
        return net


class HalvesThePrecision(Masks):
    def compress(self, fitted, ratio, ctx):
        return super().compress(fitted, ratio, ctx).double()


class ChangesAtZero(Masks):
    def compress(self, fitted, ratio, ctx):
        return super().compress(fitted, max(ratio, 0.1), ctx)


class Draws(Masks):
    def zero(self, weight, order, count):
        chosen = torch.randperm(len(order), generator=DRAW)
        super().zero(weight, chosen, count)


class Overflows(Masks):
    def compress(self, fitted, ratio, ctx):
        net = super().compress(fitted, ratio, ctx)
        if ratio:
            with torch.no_grad():
                list(net.parameters())[-1][0] = float("inf")
        return net


class RemovesHalf(Masks):
    def zero(self, weight, order, count):
        super().zero(weight, order, count // 2)


class RemovesTooMuch(Masks):
    def zero(self, weight, order, count):
        super().zero(weight, order, count * 2)


class Grows(Masks):
    def compress(self, fitted, ratio, ctx):
        ctx.record(Measurement(metric="achieved_ratio", value=ratio))
        return super().compress(fitted, 0.6 - ratio if ratio else 0.0, ctx)


class Remembers(Masks):
    def compress(self, fitted, ratio, ctx):
        net = super().compress(fitted, ratio, ctx)
        if ratio:
            # The state of a function is neither parameter nor buffer.
            net.register_forward_hook(lambda _m, _i, out: out + 1)
        return net


class IsTerse(Masks):
    def compress(self, fitted, ratio, ctx):
        if ratio > 0.9:
            raise Unsupported("no")
        return super().compress(fitted, ratio, ctx)


DRAW = torch.Generator().manual_seed(0)
BREAKS = {
    ChangesTheModel: "fit changed the dense model",
    LeavesHooks: "fit left hooks on the dense model",
    ChangesTheFit: "compress changed what fit returned",
    HalvesThePrecision: "parameters have the dtypes torch.float64",
    ChangesAtZero: ("ratio_zero_changes_nothing",),
    Draws: ("same_seed_same_network",),
    Overflows: ("shape_is_kept",),
    RemovesHalf: ("budget_is_kept",),
    RemovesTooMuch: ("budget_is_kept",),
    Grows: ("size_never_grows",),
    Remembers: ("saved_network_is_equal",),
    IsTerse: ("high_ratio_is_refused_or_kept",),
}


def plugin(cls, **declared) -> Plugin:
    """The class as a method, without an entry in the registry."""
    made = dataclasses.dataclass(frozen=True, kw_only=True)(
        type(cls.__name__, (cls,), {"__doc__": "A sentence."})
    )
    facts = {
        "ratio_of": "zeros",
        "needs": frozenset({"linears"}),
        "kinds": frozenset({"classifier"}),
        "stochastic": False,
        "tolerance": 0.05,
    }
    return Plugin(
        kind="method", name="broken", cls=made, version=1, facts=facts | declared
    )


def failures(method: Plugin) -> dict[str, str]:
    """Name of each failed check -> what it says."""
    found = {}
    for check in checks_of(method):
        try:
            check()
        except BrokenContract as why:
            found[check.name] = str(why)
    return found


@pytest.fixture(autouse=True)
def untouched():
    """Some methods here change the shared model; put it back."""
    net = samples.context("mlp").model.net
    state = copy.deepcopy(net.state_dict())
    yield
    net.load_state_dict(state)
    net._forward_hooks.clear()


def test_a_method_that_breaks_nothing_passes():
    assert failures(plugin(Masks)) == {}


@pytest.mark.parametrize("cls", BREAKS, ids=lambda cls: cls.__name__)
def test_a_broken_contract_is_found(cls):
    found, wanted = failures(plugin(cls)), BREAKS[cls]
    if isinstance(wanted, str):  # of making the networks: every check says so
        assert len(found) == len(CHECKS) - 1  # all but the one of language models
        assert all(wanted in said for said in found.values())
    else:
        assert tuple(found) == wanted


def test_a_method_that_no_model_fits_is_found():
    found = failures(plugin(Masks, needs=frozenset({"linears", "nothing_gives_this"})))
    assert found == {
        "misfits_are_refused": "it treats none of smollm2-135m, digits_convnet, mlp, "
        "vgg16, gru_seq2seq"
    }


def test_every_check_says_what_to_do():
    checks = {check.__name__ for check in CHECKS} | {"misfits_are_refused"}
    assert set(ADVICE) == checks


def test_a_language_model_comes_in_three_dtypes_and_with_experts():
    found = {check.sample for check in checks_of(find("method", "wanda"))}
    dtypes = {"causal_lm", "causal_lm bfloat16", "causal_lm float16"}
    assert found == {"", *dtypes, samples.MIXTURE}


@pytest.mark.parametrize(
    ("reason", "passes"), [("needs one dense model", True), ("no", False)]
)
def test_a_mixture_of_experts_may_be_refused_with_a_reason(reason, passes):
    class Refuses(Masks):
        def fit(self, model, ctx):
            raise Unsupported(reason)

    method = plugin(Refuses, kinds=frozenset({"causal_lm"}))

    def first(strict):
        return next(
            check
            for check in checks_of(method, strict=strict)
            if check.sample == samples.MIXTURE
        )

    with nullcontext() if passes else pytest.raises(BrokenContract, match="reason no"):
        first(strict=False)()
    with pytest.raises(Unsupported):
        first(strict=True)()


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("dense", {"high_ratio_is_refused_or_kept"}),  # it has no ratio
        ("round_to_nearest", {"high_ratio_is_refused_or_kept"}),  # its bits say it
        ("wanda", set()),
    ],
)
def test_what_does_not_apply_is_left_out(name, absent):
    found = [c.name for c in checks_of(name) if c.sample == "causal_lm"]
    assert {check.__name__ for check in CHECKS} - set(found) == absent
    later = [c.name for c in checks_of(name) if c.sample == "causal_lm float16"]
    assert "cached_generation_is_equal" not in later
