import pytest
import torch
from tiny_llm import context, logits, recorded, tiny

from harness.registry import find
from methods._kernels.heads import parts_of
from methods._kernels.low_rank.factors import linears, matrix
from methods.a3 import score_maps

DOWN = "model.layers.1.mlp.down_proj"


def build(**options):
    return find("method", "a3").build(options)


def fit_and_compress(ctx, ratio, **options):
    method = build(**options)
    return method.compress(method.fit(ctx.model, ctx), ratio, ctx).eval()


def test_the_score_maps_have_the_error_of_the_full_svd_of_all_scores():
    # Second implementation: the scores of all pairs of 60 queries and 50 keys as one
    # matrix, whose best approximation of rank 4 is its truncated SVD (Eckart-Young).
    rng = torch.Generator().manual_seed(0)
    q = torch.randn(60, 6, generator=rng, dtype=torch.float64)
    k = torch.randn(50, 6, generator=rng, dtype=torch.float64)
    q[:, 2] = q[:, 0] - q[:, 1]  # a singular moment

    a, b = score_maps((q.T @ q / 60)[None], (k.T @ k / 50)[None], 4)

    scores = q @ k.T
    found = (q @ a[0].T) @ (k @ b[0].T).T
    left, values, right = torch.linalg.svd(scores, full_matrices=False)
    best = (left[:, :4] * values[:4]) @ right[:4]
    torch.testing.assert_close(found, best, rtol=1e-5, atol=1e-6)


def test_without_rotary_positions_the_scores_are_the_closest_of_their_width(tmp_path):
    model = tiny("opt")
    ctx = context(model, tmp_path)
    one = parts_of(model)[1]
    tokens = ctx.calibration().tokens

    net = fit_and_compress(ctx, 0.4)

    rows = {}
    for role in ("query", "key"):
        dense = recorded(model, tokens, one.names[role], outputs=True)
        inputs = recorded(model, tokens, one.names[role])
        module = net.get_submodule(one.names[role])
        with torch.no_grad():  # of the dense inputs, biases included
            made = module(inputs.float()).double()
        rows[role] = (dense.unflatten(1, (4, 6)), made.unflatten(1, (4, 6)))
    for head in range(4):
        (q, q_made), (k, k_made) = (
            [part[:, head] for part in rows[role]] for role in ("query", "key")
        )
        left, values, right = torch.linalg.svd(q @ k.T, full_matrices=False)
        best = (left[:, :3] * values[:3]) @ right[:3]
        torch.testing.assert_close(q_made @ k_made.T, best, rtol=1e-2, atol=1e-2)


def test_the_neurons_are_those_of_plain_loops_and_keep_their_weights(tmp_path):
    model = tiny("llama")
    ctx = context(model, tmp_path)
    z = recorded(model, ctx.calibration().tokens, DOWN)
    down = matrix(linears(model)[DOWN]).double()
    scores = []
    for i in range(40):
        energy = sum(float(v) ** 2 for v in z[:, i]) / len(z)
        scores.append(energy * sum(float(w) ** 2 for w in down[:, i]))

    net = fit_and_compress(ctx, 0.3)

    reader = net.get_submodule(DOWN)
    kept = sorted(sorted(range(40), key=lambda i: -scores[i])[: reader.in_features])
    assert 1 < reader.in_features < 40
    assert torch.equal(reader.weight, linears(model)[DOWN].weight[:, kept])


def test_the_refit_lowers_the_error_of_the_outputs(tmp_path):
    model = tiny("llama")
    ctx = context(model, tmp_path)
    z = recorded(model, ctx.calibration().tokens, DOWN)
    dense = z @ matrix(linears(model)[DOWN]).double().T
    plain, fitted = (fit_and_compress(ctx, 0.3, refit=r) for r in (False, True))
    up = plain.get_submodule(DOWN.replace("down", "up")).weight
    full = linears(model)[DOWN.replace("down", "up")].weight
    kept = [int((full == row).all(1).nonzero()[0]) for row in up]

    errors = [
        float((z[:, kept] @ matrix(net.get_submodule(DOWN)).double().T - dense).norm())
        for net in (plain, fitted)
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "opt"])
def test_the_network_has_the_size_that_the_ratio_asks_for(family, tmp_path):
    ctx = context(tiny(family), tmp_path)
    base = sum(matrix(m).numel() for m in linears(ctx.model).values())

    def count(net):
        tensors = (*net.parameters(), *dict(net.named_buffers()).values())
        return sum(t.numel() for t in tensors)

    net = fit_and_compress(ctx, 0.3)

    gone = count(ctx.model.net) - count(net)
    # One neuron of each of the three blocks is what rounding leaves.
    assert 0.3 * base <= gone <= 0.3 * base + 3 * 3 * 25
    assert torch.isfinite(logits(net)).all()


def test_every_block_loses_the_same(tmp_path):
    net = fit_and_compress(context(tiny("llama"), tmp_path), 0.4)
    shapes = [[p.shape for p in block.parameters()] for block in net.model.layers]

    assert shapes[0] == shapes[1] == shapes[2]
