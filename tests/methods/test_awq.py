"""AWQ against plain loops, and what its two searches promise."""

import pytest
import torch
from tiny_llm import context, tiny
from torch import nn

from harness.registry import find
from harness.toolkit.calibration import Statistics
from methods._kernels.integer_grid import not_below
from methods._kernels.low_rank.factors import matrix


def awq(**options):
    return find("method", "awq").build({"group_size": 4, **options})


def problem(out=3, width=10, tokens=40, seed=0):
    rng = torch.Generator().manual_seed(seed)
    inputs = torch.randn(tokens, width, generator=rng, dtype=torch.float64)
    inputs[:, 2] *= 30  # a channel with large activations
    module = nn.Linear(width, out, bias=False)
    module.weight.data = torch.randn(out, width, generator=rng)
    seen = Statistics()
    seen.sites["w"] = "w"
    seen.gram["w"] = inputs.T @ inputs
    seen.abs["w"] = inputs.abs().sum(0)
    seen.tokens["w"] = tokens
    return module, inputs, seen


def rounded_row(row, bits, size, limits=None):
    """A row on its asymmetric grids, number by number."""
    made = []
    for start in range(0, len(row), size):
        group = row[start : start + size]
        if limits is not None:
            limit = limits[start // size]
            group = [min(max(w, -limit), limit) for w in group]
        low, high = min(0.0, *group), max(0.0, *group)
        scale = (high - low) / (2**bits - 1) or 1.0
        # As stored: a clipped group reaches as far up as down, and its zero point lies
        # exactly between two codes.
        stored = not_below(torch.tensor(scale, dtype=torch.float64), torch.float32)
        scale = float(stored)
        zero = round(-low / scale)
        for w in group:
            code = min(max(round(w / scale) + zero, 0), 2**bits - 1)
            made.append(scale * (code - zero))
    return made


def error(old, new, inputs):
    """Mean squared error of the products of one row with the inputs."""
    total = 0.0
    for x in inputs.tolist():
        total += sum((a - b) * v for a, b, v in zip(old, new, x, strict=True)) ** 2
    return total / len(inputs)


def test_the_exponent_is_that_of_plain_loops():
    module, inputs, seen = problem()
    weight = module.weight.tolist()
    mean = inputs.abs().mean(0).tolist()
    tried = []
    for step in range(20):
        scales = [max(a, 1e-4) ** (step / 20) for a in mean]
        middle = (max(scales) * min(scales)) ** 0.5
        scales = [s / middle for s in scales]
        total = 0.0
        for row in weight:
            scaled = rounded_row(
                [w * s for w, s in zip(row, scales, strict=True)], 3, 4
            )
            back = [w / s for w, s in zip(scaled, scales, strict=True)]
            total += error(row, back, inputs)
        tried.append((total, scales))
    _, expected = min(tried, key=lambda pair: pair[0])

    found = awq(bits=3)._search("w", seen, {"w": module})

    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert min(tried)[0] < tried[0][0], "some exponent beats none"


def test_the_ranges_are_those_of_plain_loops():
    module, inputs, seen = problem(seed=3)
    module.weight.data[1, 0] = 9.0  # an outlier on a channel of small activations
    expected = []
    for row in module.weight.tolist():
        limits = []
        for start in range(0, 10, 4):
            group = row[start : start + 4]
            part = inputs[:, start : start + 4]
            largest = max(map(abs, group))
            ranges = [largest * (1 - step / 20) for step in range(10)]
            errors = [
                error(group, rounded_row(group, 3, 4, [limit]), part)
                for limit in ranges
            ]
            limits.append(ranges[errors.index(min(errors))])
        expected.append(rounded_row(row, 3, 4, limits))

    gram = seen.gram["w"] / seen.tokens["w"]
    made = awq(bits=3).rounded(module, gram, torch.ones(10).double(), clip=True)

    torch.testing.assert_close(
        made.weight, torch.tensor(expected), rtol=1e-5, atol=1e-5
    )


def test_a_channel_with_large_activations_is_rounded_more_finely():
    module, _, seen = problem(out=16)
    gram = seen.gram["w"] / seen.tokens["w"]

    def lost(**options):
        method = awq(bits=3, **options)
        scales = method._search("w", seen, {"w": module})
        made = method.rounded(module, gram, scales, clip=method.clip)
        gap = (matrix(module) - made.weight.detach()).double()
        return float(((gap @ gram) * gap).sum())

    plain = lost(scale=False, clip=False)
    assert lost(clip=False) < 0.5 * plain
    assert lost() <= lost(clip=False) * 1.05


def test_matrices_of_one_input_share_their_scales_and_query_is_not_clipped(tmp_path):
    model = tiny("llama")
    ctx = context(model, tmp_path)

    net = awq(bits=3).compress(None, 0.9, ctx)

    block = net.model.layers[1]
    attention, mlp = block.self_attn, block.mlp
    assert torch.equal(attention.q_proj.divisors, attention.v_proj.divisors)
    assert torch.equal(mlp.gate_proj.divisors, mlp.up_proj.divisors)
    assert not torch.equal(attention.q_proj.divisors, mlp.up_proj.divisors)
    # The extreme weights of an unclipped row are on its grid up to half a step.
    dense = model.net.model.layers[1].self_attn.q_proj.weight
    scaled = dense * attention.q_proj.divisors
    made = attention.q_proj.weight * attention.q_proj.divisors
    steps = attention.q_proj.scales.repeat_interleave(4, 1)
    assert ((made - scaled).abs() <= 0.51 * steps).all()


def test_the_inputs_are_those_before_rounding(tmp_path):
    # The scales of the last block follow from the dense model alone.
    model = tiny("llama")
    ctx = context(model, tmp_path)
    method = awq(bits=3)
    net = method.compress(None, 0.9, ctx)
    name = "model.layers.2.mlp.down_proj"
    seen = Statistics()
    handle = model.net.get_submodule(name).register_forward_pre_hook(
        lambda _, args: seen.add(name, args[0])
    )
    with torch.no_grad():
        model.net(input_ids=ctx.calibration().tokens, use_cache=False)
    handle.remove()

    scales = method._search(name, seen, {name: model.net.get_submodule(name)})

    torch.testing.assert_close(
        net.get_submodule(name).divisors.double(), scales, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("options", [{"symmetric": True}, {"group_size": None}])
def test_other_grids(tmp_path, options):
    ctx = context(tiny("gpt2"), tmp_path)

    net = awq(bits=8, **options).compress(None, 0.75, ctx)

    for block, dense in zip(
        net.transformer.h, ctx.model.net.transformer.h, strict=True
    ):
        made, weight = block.mlp.c_fc.weight, matrix(dense.mlp.c_fc)
        assert (made - weight).abs().max() < 0.1 * weight.abs().max()
