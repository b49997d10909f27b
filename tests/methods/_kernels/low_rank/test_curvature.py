"""Fisher information and output curvature, against gradients of each window alone."""

import copy

import pytest
import torch
from tiny_llm import context, tiny
from torch.nn.functional import cross_entropy

from harness.core import NotFinite
from harness.registry import find
from methods._kernels.low_rank.curvature import (
    OutputCurvature,
    backward,
    differentiable,
    likelihood,
    row_fisher,
    sampled,
)
from methods._kernels.low_rank.factors import Group, matrix


def loss_of(net, window):
    logits = net(input_ids=window[None], use_cache=False).logits
    return cross_entropy(logits[0, :-1], window[1:])


def windows(count=3, length=12):
    return torch.arange(count * length).mul(37).remainder(256).view(count, length)


@pytest.mark.parametrize(
    ("family", "name"),
    [("llama", "model.layers.1.mlp.down_proj"), ("gpt2", "transformer.h.1.mlp.c_proj")],
)
def test_row_fisher_is_the_mean_squared_gradient_of_each_input_channel(family, name):
    net = tiny(family).net
    tokens = windows()
    expected = 0
    alone = copy.deepcopy(net)
    for window in tokens:
        alone.zero_grad()
        loss_of(alone, window).backward()
        gradient = alone.get_submodule(name).weight.grad.double()
        gradient = gradient.T if family == "gpt2" else gradient  # stores (in, out)
        expected = expected + gradient.square().sum(0) / len(tokens)

    found = row_fisher(copy.deepcopy(net), [name], tokens)

    torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-10)


def test_no_hook_stays_behind_also_after_an_error():
    net = copy.deepcopy(tiny("llama").net)
    name = "model.layers.1.mlp.down_proj"
    net.model.norm.weight.data[0] = torch.nan

    with pytest.raises(NotFinite, match="loss of calibration window 0 is nan"):
        row_fisher(net, [name], windows())

    assert not net.get_submodule(name).weight._post_accumulate_grad_hooks
    assert not net.get_input_embeddings()._forward_hooks


def test_every_window_is_run_once_in_order():
    net = copy.deepcopy(tiny("llama").net).requires_grad_(False)

    assert list(backward(net, windows(4), likelihood)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("names", "tall"),
    [
        (("model.layers.1.self_attn.o_proj",), False),  # 24 x 24
        (("model.layers.1.mlp.down_proj",), False),  # 24 x 40
        (("model.layers.1.mlp.up_proj", "model.layers.1.mlp.gate_proj"), True),
        (("model.layers.1.self_attn.k_proj",), False),  # 12 x 24
        # Two of 12 x 24: the backward pass reaches them in one order only.
        (("model.layers.1.self_attn.k_proj", "model.layers.1.self_attn.v_proj"), False),
        (("model.layers.1.self_attn.v_proj", "model.layers.1.self_attn.k_proj"), False),
    ],
)
def test_output_curvature_is_the_mean_outer_product_on_the_smaller_side(names, tall):
    net = tiny("llama").net
    tokens = windows()
    group = Group(names)
    total, count = 0, 0
    for window in tokens:  # one window at a time, gradients of outputs by autograd
        run = copy.deepcopy(net)
        outputs = {}
        for name in names:
            run.get_submodule(name).register_forward_hook(
                lambda _, args, out, name=name, to=outputs: to.__setitem__(name, out)
            )
        loss = loss_of(run, window)
        gradients = torch.autograd.grad(loss, [outputs[n] for n in names])
        rows = torch.cat([g[0] for g in gradients], 1).double()
        if tall:
            stacked = torch.cat([matrix(net.get_submodule(n)) for n in names])
            rows = rows @ stacked.double()
        total = total + rows.T @ rows
        count += len(rows)
    watched = copy.deepcopy(net).requires_grad_(False)
    curvature = OutputCurvature(watched, [group])

    with curvature.watch():
        for _ in backward(watched, tokens, likelihood):
            pass

    torch.testing.assert_close(
        curvature.mean()[group], total / count, rtol=1e-4, atol=1e-12
    )
    assert not any(m._forward_hooks for m in watched.modules())


def test_sampled_tokens_follow_the_models_own_predictions():
    # With all mass on one token, that token is drawn: the loss is 0, summed over rows.
    sure = torch.full((1, 5, 7), -200.0)
    sure[..., 3] = 200.0
    generator = torch.Generator().manual_seed(0)
    assert float(sampled(generator)(sure, torch.zeros(1, 5).long())) == 0

    even = torch.zeros(1, 5, 8)
    loss = sampled(generator)(even, torch.zeros(1, 5).long())
    assert float(loss) == pytest.approx(5 * torch.tensor(8.0).log().item())


def test_the_likelihood_is_the_mean_over_next_tokens():
    logits = torch.randn(1, 4, 6)
    ids = torch.tensor([[0, 3, 1, 5]])

    by_hand = -sum(
        float(logits[0, at].log_softmax(-1)[ids[0, at + 1]]) for at in range(3)
    )
    assert float(likelihood(logits, ids)) == pytest.approx(by_hand / 3, rel=1e-5)


@pytest.mark.parametrize(
    ("stored", "used"),
    [
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float32),
    ],
)
def test_gradients_of_float16_networks_are_taken_in_float32(stored, used):
    ctx = context(tiny("llama", dtype=stored))

    assert next(differentiable(ctx).parameters()).dtype == used


REST = ("obd_llm", "fwsvd")  # of the methods that read gradients


def without_two_experts():
    """A mixture whose router gives every token to experts 0 and 1."""
    model = tiny("qwen3_moe")
    for block in model.net.model.layers:
        block.mlp.gate.register_forward_hook(
            lambda _, args, out: (out[0], out[1], out[2] * 0 + torch.tensor([0, 1]))
        )
    return model


def test_an_expert_without_tokens_has_the_mean_curvature_and_the_least_share():
    model = without_two_experts()
    path = "model.layers.1.mlp.experts"
    seen, unseen = (Group((f"{path}.{n}.down_proj",)) for n in (0, 3))
    net = copy.deepcopy(model.net).requires_grad_(False)
    curvature = OutputCurvature(net, [seen, unseen])
    with curvature.watch():
        for _ in backward(net, torch.arange(64).view(2, 32), likelihood):
            pass
    moments, shares = curvature.mean(), curvature.shares()

    # Both have 24 outputs and 16 inputs: the moment is W^T H W, with H = c I and
    # c = E|g|^2 / 24 over the tokens of the experts that were reached.
    weight = net.get_submodule(unseen.names[0]).weight.double()
    wanted = weight.T @ weight
    scale = float(moments[unseen].trace() / wanted.trace())
    torch.testing.assert_close(moments[unseen], scale * wanted)
    assert scale > 0
    assert (shares[seen], shares[unseen]) == (1.0, 1 / 64)


@pytest.mark.parametrize(
    "name",
    ["water_filling", *(pytest.param(n, marks=pytest.mark.slow) for n in REST)],
)
def test_methods_with_gradients_treat_experts_without_tokens(name, tmp_path):
    ctx = context(without_two_experts(), tmp_path)
    method = find("method", name).build({})

    net = method.compress(method.fit(ctx.model, ctx), 0.4, ctx)

    weights = [p for n, p in net.named_parameters() if ".experts.3." in n]
    assert all(weight.isfinite().all() for weight in weights)
    one = net.get_submodule("model.layers.1.mlp.experts.3.up_proj")
    assert type(one) is not torch.nn.Linear, "it stays dense"
