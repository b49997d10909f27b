import math

import pytest
import torch
from prefix_inputs import inputs_behind
from tiny_llm import context, logits, tiny
from torch import nn

from harness.core import BenchError, Unsupported
from harness.registry import find
from harness.toolkit import saved_model
from harness.toolkit.model_size import share_of_bits
from methods._kernels.low_rank.factors import linears, matrix
from methods._kernels.rounded import Rounded


def problem(out, width, seed=0, tokens=80):
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=rng, dtype=torch.float64)
    inputs = torch.randn(tokens, width, generator=rng, dtype=torch.float64) @ mix
    weight = torch.randn(out, width, generator=rng)
    return weight, inputs.T @ inputs / tokens


def gptq(**options):
    return find("method", "gptq").build(options)


def linear(weight, dtype=torch.float32):
    made = nn.Linear(weight.shape[1], weight.shape[0], dtype=dtype)
    made.weight.data = weight.to(dtype)
    return made


def grid_of(values, bits, symmetric):
    """Scale, zero point, smallest and largest code of one group, in plain Python."""
    low, high = min(0.0, *values), max(0.0, *values)
    if symmetric:
        scale = 2 * max(-low, high) / (2**bits - 1) or 1.0
        return scale, 0, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scale = (high - low) / (2**bits - 1) or 1.0
    return scale, round(-low / scale), 0, 2**bits - 1


def nearest(value, hint):
    """The nearest whole number; of two that are equally near, the one nearer to hint.

    The largest weight of a symmetric grid lies exactly between two codes.
    """
    down = math.floor(value)
    if abs(value - down - 0.5) < 1e-3:
        return min(down, down + 1, key=lambda code: abs(code - hint))
    return round(value)


def reference(
    weight, gram, bits, size, *, found, symmetric=False, act_order=False, static=False
):
    """The algorithm of the paper in plain loops, with a new inverse at each column."""
    out, width = weight.shape
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(width)
    order = list(range(width))
    if act_order:
        order.sort(key=lambda j: -float(gram[j, j]))
    left, made = weight.double().clone(), torch.zeros(out, width, dtype=torch.float64)
    grids = {}
    for place, j in enumerate(order):
        group = j // size if static else place // size
        start = group * size
        members = range(start, min(start + size, width))
        if not static:
            members = [order[k] for k in members]
        source = weight.double() if static else left
        rest = order[place:]
        inverse = torch.linalg.inv(damped[rest][:, rest])
        for i in range(out):
            if (i, group) not in grids:
                values = [float(source[i, k]) for k in members]
                grids[i, group] = grid_of(values, bits, symmetric)
            scale, zero, low, high = grids[i, group]
            code = nearest(float(left[i, j]) / scale, float(found[i, j]) / scale)
            code = min(max(code + zero, low), high)
            made[i, j] = scale * (code - zero)
            left[i, rest] -= (left[i, j] - made[i, j]) / inverse[0, 0] * inverse[0]
    return made


def error(before, after, gram):
    gap = before.double() - after.double()
    return float(((gap @ gram) * gap).sum())


CASES = [
    {},
    {"symmetric": True},
    {"act_order": True},
    {"act_order": True, "static_groups": True},
    {"static_groups": True, "symmetric": True},
    {"group_size": None, "act_order": True},
]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("options", CASES)
def test_the_method_agrees_with_plain_loops(bits, options):
    # 14 columns in groups of 6 leave a last group of 2.
    weight, gram = problem(4, 14, seed=bits)
    options = {"group_size": 6, **options}
    made = gptq(bits=bits, **options).rounded(linear(weight), gram, "w")
    expected = reference(
        weight,
        gram,
        bits,
        options["group_size"] or 14,
        found=made.weight,
        symmetric=options.get("symmetric", False),
        act_order=options.get("act_order", False),
        static=options.get("static_groups", False),
    )
    torch.testing.assert_close(made.weight.double(), expected, rtol=1e-4, atol=1e-4)


def test_the_error_is_smaller_than_that_of_rounding_to_nearest():
    from methods.round_to_nearest import rounded

    for seed in range(5):
        weight, gram = problem(16, 64, seed, tokens=500)
        ours = gptq(group_size=16).rounded(linear(weight), gram, "w")
        nearest = rounded(linear(weight), 4, 16, "asymmetric")
        limit = 0.8 * error(weight, nearest.weight, gram)
        assert error(weight, ours.weight, gram) < limit


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2"])
def test_each_block_is_rounded_for_the_inputs_behind_the_rounded_blocks(
    family, tmp_path
):
    ctx = context(tiny(family), tmp_path)
    method = gptq(bits=3, group_size=16)
    net = method.compress(None, method.ratios()[0], ctx)
    for block in (0, 2):
        for name, inputs in inputs_behind(ctx, net, block).items():
            gram = inputs.T @ inputs / len(inputs)
            dense = matrix(ctx.model.net.get_submodule(name))
            found = net.get_submodule(name).weight
            expected = reference(dense, gram, 3, 16, found=found)
            wanted = error(dense, expected, gram)
            # A code that flips by a rounding error moves the error of one row a little.
            assert error(dense, found, gram) == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", CASES)
def test_the_file_holds_packed_codes_and_reloads_to_equal_outputs(
    dtype, options, tmp_path
):
    ctx = context(tiny("llama", dtype=dtype), tmp_path)
    method = gptq(bits=3, **{"group_size": 10, **options})
    net = method.compress(None, 0.9, ctx).eval()
    source = tmp_path / "source"
    ctx.model.net.config.save_pretrained(source)
    origin = {"model": str(source), "options": {}, "revision": "", "shape": None}
    saved_model.save(ctx.model.with_net(net), origin, tmp_path / "saved")
    assert torch.equal(logits(saved_model.load(tmp_path / "saved").net), logits(net))
    # down_proj by hand: 24 rows of 40 codes of 3 bits are 15 bytes each; groups of 10
    # make 4 scales per row and 4 zero points of 3 bits, all of which are packed.
    layer, wide = net.model.layers[0].mlp.down_proj, 4 if dtype == torch.float32 else 2
    groups = 24 * (1 if layer.group_size == 40 else 4)
    expected = 24 * 15 + groups * wide
    expected += 0 if options.get("symmetric") else groups * 3 // 8
    if layer.order is not None:
        expected += 40 * 2
    packed = layer.pack().values()
    assert sum(t.numel() * t.element_size() for t in packed) == expected


def test_a_chain_rounds_thin_factors_and_counts_their_stored_bits(tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    members = ["svd_llm", {"name": "gptq", "bits": 4, "group_size": 8}]
    chain = find("method", "chain").build({"chain": members})
    net = chain.compress(chain.fit(ctx.model, ctx), 0.3, ctx).eval()
    kinds = {
        type(m) for n in linears(ctx.model) for m in net.get_submodule(n).modules()
    }
    assert Rounded in kinds
    assert nn.Linear not in kinds
    # By hand from the shapes: a factor of r x n takes r n / 2 bytes of codes (each row
    # starts with a new byte), 4 bytes per scale and half a byte per zero point.
    before = after = 0
    for name, module in linears(ctx.model).items():
        before += 4 * matrix(module).numel()
        for part in net.get_submodule(name).modules():
            if isinstance(part, Rounded):
                rows, width = part.weight.shape
                groups = rows * -(-width // part.group_size)
                after += rows * -(-width // 2) + 4 * groups + -(-groups // 2)
    assert share_of_bits(ctx.model, net) == pytest.approx(1 - after / before)
    assert bool(logits(net).isfinite().all())


def test_a_shared_factor_is_rounded_once_and_stays_shared(tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    members = ["joint_rank_k", {"name": "gptq", "bits": 8}]
    chain = find("method", "chain").build({"chain": members})
    net = chain.compress(chain.fit(ctx.model, ctx), 0.3, ctx).eval()
    attention = net.model.layers[0].self_attn
    assert attention.q_proj.right is attention.k_proj.right
    assert isinstance(attention.q_proj.right.linear, Rounded)


def test_dead_channels_and_few_tokens_are_handled(tmp_path):
    model = tiny("llama")
    with torch.no_grad():
        model.net.model.layers[1].input_layernorm.weight[5] = 0
    ctx = context(model, tmp_path, samples=1, length=5)
    net = gptq().compress(None, 0.875, ctx)
    weight = net.model.layers[1].self_attn.q_proj.weight
    assert bool(weight.isfinite().all())
    assert bool((weight[:, 5] == 0).all())
    with pytest.raises(Unsupported, match=r"layers\.0\..* singular .* set damping"):
        gptq(damping=0.0).compress(None, 0.875, ctx)


def test_the_dense_network_keeps_its_weights_with_dead_channels():
    weight, gram = problem(4, 6)
    gram[2], gram[:, 2] = 0.0, 0.0
    module = linear(weight.clone())
    gptq().rounded(module, gram, "w")
    assert torch.equal(module.weight.data, weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_size": 0}, "group_size 0 is below 1: write the number"),
        ({"damping": -0.5}, r"damping -0\.5 is not 0 or more"),
        ({"bits": 5}, "bits"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(BenchError, match=message):
        gptq(**options)
