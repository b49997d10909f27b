import pytest
import torch
from tiny_llm import context, logits, tiny

from harness.registry import find
from methods._kernels.units import units_of

NAME = "model.layers.1.mlp.down_proj"


def flap(**options):
    return find("method", "flap").build(options)


def inputs_of(model, ctx, name):
    """The inputs of a matrix in the dense model, in float64, by one whole pass."""
    seen = []
    handle = model.net.get_submodule(name).register_forward_pre_hook(
        lambda _, args: seen.append(args[0].flatten(0, -2).double())
    )
    with torch.no_grad():
        model.net(input_ids=ctx.calibration().tokens, use_cache=False)
    handle.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("name", [NAME, "model.layers.2.self_attn.o_proj"])
def test_the_moments_are_those_of_the_inputs_of_the_dense_model(tmp_path, name):
    model = tiny("llama")
    ctx = context(model, tmp_path)

    found = flap().fit(model, ctx)[name]

    x = inputs_of(model, ctx, name)
    torch.testing.assert_close(found.mean, x.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.variance, x.var(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("score", ["variance", "magnitude"])
def test_the_score_agrees_with_plain_loops(tmp_path, score):
    model = tiny("llama")
    ctx = context(model, tmp_path)
    method = flap(score=score)
    fitted = method.fit(model, ctx)
    for one in units_of(model)[:2]:
        x = inputs_of(model, ctx, one.reader)
        weight = model.net.get_submodule(one.reader).weight.detach().double()
        width = x.shape[1] // one.count
        by_unit = []
        for unit in range(one.count):
            total = 0.0
            for j in range(unit * width, (unit + 1) * width):
                mean = float(x[:, j].mean())
                moved = sum((float(v) - mean) ** 2 for v in x[:, j]) / (len(x) - 1)
                moved += mean**2 if score == "magnitude" else 0.0
                total += moved * sum(float(w) ** 2 for w in weight[:, j])
            by_unit.append(total / width)
        plain = torch.tensor(by_unit, dtype=torch.float64)
        plain = (plain - plain.mean()) / plain.std()

        found = method._scores(model.net, one, fitted[one.reader])

        torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-4)


def test_a_channel_that_never_changes_leaves_first_and_its_bias_makes_up_for_it(
    tmp_path, monkeypatch
):
    model = tiny("llama")
    ctx = context(model, tmp_path)
    method = flap()
    fitted = method.fit(model, ctx)
    # Of every neuron but one the variance is large: that one is what leaves.
    for name, seen in fitted.items():
        seen.variance.fill_(1.0)
        if name == NAME:
            seen.variance[7] = 0.0

    net = method.compress(fitted, 1e-4, ctx)

    reader = net.get_submodule(NAME)
    dense = model.net.get_submodule(NAME)
    stay = [j for j in range(40) if j != 7]
    assert torch.equal(reader.weight, dense.weight[:, stay])
    expected = dense.weight[:, 7].double() * fitted[NAME].mean[7]
    torch.testing.assert_close(reader.bias.double(), expected, rtol=1e-5, atol=1e-7)


def test_the_bias_is_what_keeps_a_constant_channel_exact(tmp_path):
    # If the removed channels are constant, FLAP changes no output.
    model = tiny("qwen2")
    block = model.net.model.layers[1].mlp
    with torch.no_grad():  # neurons 0 to 4 are silent: gate 0 makes silu(0) * up = 0
        block.gate_proj.weight[:5] = 0
    ctx = context(model, tmp_path)
    method = flap()
    fitted = method.fit(model, ctx)
    for name, seen in fitted.items():
        if name != NAME:  # nothing else stands out
            seen.variance.fill_(0.0)
            seen.mean.fill_(0.0)

    net = method.compress(fitted, 1e-4, ctx)

    torch.testing.assert_close(logits(net), logits(model.net))
    assert net.model.layers[1].mlp.down_proj.in_features < 40


def test_without_compensation_no_bias_is_added(tmp_path):
    model = tiny("llama")
    ctx = context(model, tmp_path)
    method = flap(compensate=False)

    net = method.compress(method.fit(model, ctx), 0.3, ctx)

    assert all(net.get_submodule(u.reader).bias is None for u in units_of(model))
