import math

import pytest
import torch
from tiny_llm import context, logits, recorded, tiny

from harness.core import BenchError, Unsupported
from harness.registry import find
from methods._kernels.heads import parts_of
from methods._kernels.low_rank.factors import linears, matrix
from methods.modegpt import leverage, removed

DOWN = "model.layers.1.mlp.down_proj"


def build(**options):
    return find("method", "modegpt").build(options)


def fit_and_compress(ctx, ratio, **options):
    method = build(**options)
    return method.compress(method.fit(ctx.model, ctx), ratio, ctx).eval()


def test_the_down_projection_is_least_squares_on_the_neurons_that_stay(tmp_path):
    model = tiny("llama")
    ctx = context(model, tmp_path, samples=24)
    z = recorded(model, ctx.calibration().tokens, DOWN)
    inner = z.T @ z / len(z)
    scores = []
    for i in range(40):  # the diagonal of C (C + ridge I)^-1, one column at a time
        unit = torch.zeros(40, dtype=torch.float64)
        unit[i] = 1
        ridge = 0.01 * torch.eye(40, dtype=torch.float64)
        scores.append(float(inner[i] @ torch.linalg.solve(inner + ridge, unit)))

    net = fit_and_compress(ctx, 0.3)

    count = net.get_submodule(DOWN).in_features
    assert 1 < count < 40
    best = sorted(range(40), key=lambda i: -scores[i])[:count]
    kept = sorted(best)
    dense = matrix(linears(model)[DOWN]).double()
    expected = torch.linalg.lstsq(z[:, kept], z @ dense.T).solution.T
    found = net.get_submodule(DOWN).weight.double()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    for part in ("gate_proj", "up_proj"):
        name = DOWN.replace("down_proj", part)
        assert torch.equal(
            net.get_submodule(name).weight, linears(model)[name].weight[kept]
        )


@pytest.mark.parametrize("family", ["llama", "qwen2", "opt"])
def test_the_channels_of_query_and_key_are_those_of_plain_loops(family, tmp_path):
    model = tiny(family)
    ctx = context(model, tmp_path)
    one = parts_of(model)[1]
    tokens = ctx.calibration().tokens
    q = recorded(model, tokens, one.names["query"], outputs=True)
    k = recorded(model, tokens, one.names["key"], outputs=True)

    net = fit_and_compress(ctx, 0.4, temperature=1e6)

    key = net.get_submodule(one.names["key"])
    width = len(key.place) // one.key_heads
    assert width == 2 if one.paired else 3  # of 3.6 channels, in pairs
    for head in range(one.key_heads):
        totals = []
        for i in range(6):
            total = 0.0
            for channel in {i, int(one.partner[i])}:
                for reader in range(one.readers):
                    first = (head * one.readers + reader) * 6
                    both = q[:, first + channel].square().mean()
                    total += float(both * k[:, head * 6 + channel].square().mean())
            totals.append(total)
        best = sorted(range(6), key=lambda i: (-totals[i], i % 3, i))[:width]
        own = key.place.view(one.key_heads, width)[head] - 6 * head
        assert own.tolist() == sorted(best)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "opt"])
def test_the_network_has_the_size_that_the_ratio_asks_for(family, tmp_path):
    ctx = context(tiny(family), tmp_path)
    base = sum(matrix(m).numel() for m in linears(ctx.model).values())
    count = lambda net: sum(  # noqa: E731  positions count as well
        t.numel() for t in (*net.parameters(), *dict(net.named_buffers()).values())
    )

    net = fit_and_compress(ctx, 0.3, temperature=1e6)

    gone = count(ctx.model.net) - count(net)
    # One neuron of each of the three blocks is what rounding leaves.
    assert 0.3 * base <= gone <= 0.3 * base + 3 * 3 * 25
    assert torch.isfinite(logits(net)).all()


def test_a_block_that_changes_little_loses_more(tmp_path):
    model = tiny("llama")
    block = model.net.model.layers[1]
    with torch.no_grad():
        block.self_attn.o_proj.weight.mul_(1e-3)
        block.mlp.down_proj.weight.mul_(1e-3)
    ctx = context(model, tmp_path)

    net = fit_and_compress(ctx, 0.3, temperature=0.5)

    widths = [b.mlp.down_proj.in_features for b in net.model.layers]
    assert widths[1] < min(widths[0], widths[2])


def test_the_shares_follow_the_softmax_of_the_influences():
    # exp(-0.1 / 0.1) = 1 / e and exp(-0.2 / 0.1) = 1 / e^2.
    found = removed(torch.tensor([0.0, 0.1, 0.2]), 0.2, 0.1, 0.9)

    total = 1 + 1 / math.e + 1 / math.e**2
    expected = [0.6 / total, 0.6 / math.e / total, 0.6 / math.e**2 / total]
    assert found == pytest.approx(expected)


def test_what_a_block_may_not_lose_is_lost_by_the_others_in_proportion():
    # Of 1.5 in all the first may lose 0.8; the rest is divided one to three.
    influence = torch.tensor([0.0, 0.2, 0.2 - 0.1 * math.log(3)])
    found = removed(influence, 0.5, 0.1, 0.8)

    assert found == pytest.approx([0.8, 0.175, 0.525])


def test_a_blind_difference_of_influences_still_spends_the_budget():
    found = removed(torch.tensor([0.0, 1.0, 1.0]), 0.6, 1e-4, 0.8)

    assert found == pytest.approx([0.8, 0.5, 0.5])


def test_a_ratio_beyond_the_most_is_refused(tmp_path):
    with pytest.raises(Unsupported, match=r"ratio 0.9 is above 0.8"):
        removed(torch.zeros(3), 0.9, 0.1, 0.8)


def test_the_leverage_of_a_dead_neuron_is_zero():
    assert leverage(torch.diag(torch.tensor([1.0, 0.0])), 0.1)[1] == 0


@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"ridge": 0}, {"most": 1.0}, {"most": 0.0}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(BenchError, match=r"above 0|not between 0 and 1"):
        build(**options)
