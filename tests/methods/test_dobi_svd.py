"""Dobi-SVD against plain loops, and its exact cases."""

import math

import pytest
import torch
from tiny_llm import context, logits, tiny

from harness.core import BenchError, Unsupported
from harness.registry import facts, find
from harness.toolkit import model_size
from methods._kernels.low_rank.factors import linears, matrix

QUICK = {"samples": 2, "epochs": 1}


def compressed(ctx, ratio, **options):
    return (
        find("method", "dobi_svd")
        .build({**QUICK, **options})
        .compress(None, ratio, ctx)
    )


@pytest.fixture(scope="module")
def ctx(tmp_path_factory):
    return context(tiny("llama"), tmp_path_factory.mktemp("dobi"))


def by_loops(ctx, names, ratio, penalty, beta, rate):
    """The shares after one step, from the equations of the docstring in plain loops."""
    net, tokens = ctx.dense().requires_grad_(False), ctx.calibration().tokens[:1]
    weights = {name: matrix(module) for name, module in linears(ctx.model).items()}
    shares = {
        n: torch.tensor((1 - ratio) * max(w.shape) / sum(w.shape), requires_grad=True)
        for n, w in weights.items()
    }

    def hook(name):
        def cut(module, args, out):
            y = out[0].double()
            u, s, v = torch.linalg.svd(y, full_matrices=False)
            made = torch.zeros_like(y)
            position = shares[name] * min(len(s), *weights[name].shape)
            for i in range(len(s)):
                keep = (torch.tanh(beta * (position - (i + 1))) + 1) / 2
                made = made + keep * s[i] * torch.outer(u[:, i], v[i])
            return made.to(out.dtype)[None]

        return cut

    for name in names:
        net.get_submodule(name).register_forward_hook(hook(name))
    scores = net(input_ids=tokens).logits[0]
    entropy = torch.nn.functional.cross_entropy(scores[:-1], tokens[0, 1:])
    spent, whole = 0.0, 0
    for name, weight in weights.items():
        dense = weight.numel()
        cost = shares[name] * min(weight.shape) * sum(weight.shape)
        spent, whole = spent + torch.minimum(cost, torch.tensor(dense)), whole + dense
    loss = entropy.exp() + penalty * (spent / whole - (1 - ratio)).abs()
    loss.backward()
    # The first step of Adam goes by the rate against the sign of the gradient.
    return float(loss.detach()), {
        n: float(s.detach()) - rate * math.copysign(1, float(s.grad))
        for n, s in shares.items()
    }


def test_the_first_step_is_that_of_plain_loops(ctx):
    # Blunt masks, so that every gradient is far above the epsilon of Adam.
    method = find("method", "dobi_svd").build(
        {"samples": 1, "epochs": 1, "beta": 1.0, "learning_rate": 0.01}
    )
    cuts = [method._cut(n, m) for n, m in linears(ctx.model).items()]
    ctx.recorded.clear()
    found = method._trained(cuts, 0.4, ctx)

    names = [cut.name for cut in cuts]
    loss, expected = by_loops(ctx, names, 0.4, 200.0, 1.0, 0.01)
    assert ctx.recorded[-1].value == pytest.approx(loss, rel=1e-4)
    assert found.tolist() == pytest.approx([expected[n] for n in names], abs=2e-5)


def test_training_lowers_the_loss_from_epoch_to_epoch(ctx):
    # 547 and 522 where it was written, with 6 windows and 6 epochs.
    ctx.recorded.clear()
    compressed(ctx, 0.3, samples=4, epochs=5, learning_rate=0.01)

    losses = [one.value for one in ctx.recorded if one.metric == "truncation_loss"]
    assert [one.step for one in ctx.recorded] == [0, 1, 2, 3, 4]
    assert losses[-1] < losses[0]


def test_without_training_the_weight_is_the_projection_of_the_closed_form(ctx):
    # One window, no step: rank k of every matrix by the ratio. The first matrix reads
    # the embeddings, which no cut changes: V are the right singular vectors of its
    # outputs X W^T, and the weight is V V^T W.
    net = compressed(ctx, 0.5, samples=1, epochs=0)

    name, module = next(iter(linears(ctx.model).items()))
    seen = []
    handle = module.register_forward_hook(lambda _, args, out: seen.append(out[0]))
    with torch.no_grad():
        ctx.model.net(input_ids=ctx.calibration().tokens[:1])
    handle.remove()
    weight, thin = matrix(module).double(), net.get_submodule(name)
    rank = thin.right.weight.shape[0]
    vectors = torch.linalg.svd(seen[0].double(), full_matrices=False).Vh[:rank]
    expected = vectors.T @ vectors @ weight
    found = (thin.left.weight @ thin.right.weight).detach().double()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert torch.linalg.matrix_rank(found, rtol=1e-5) == rank


@pytest.mark.parametrize("pca", ["exact", "centred"])
def test_one_window_gives_the_same_weights_by_every_pca_but_the_centred(ctx, pca):
    plain = logits(compressed(ctx, 0.5, samples=1, epochs=0))
    other = logits(compressed(ctx, 0.5, samples=1, epochs=0, pca=pca))

    gap = float((plain - other).norm() / plain.norm())
    assert (gap < 1e-3) is (pca == "exact")


def test_the_budget_is_met_whatever_was_trained(ctx):
    net = compressed(ctx, 0.3, learning_rate=0.3)

    dense = sum(matrix(m).numel() for m in linears(ctx.model).values())
    left = sum(
        sum(p.numel() for name, p in net.get_submodule(n).named_parameters())
        for n in linears(ctx.model)
    )
    ranks = {
        net.get_submodule(n).right.weight.shape[0] / min(matrix(m).shape)
        for n, m in linears(ctx.model).items()
        if hasattr(net.get_submodule(n), "right")
    }
    # Within one rank of the largest matrix, 24 x 40.
    assert 0.7 * dense - 64 <= left <= 0.7 * dense
    assert len(ranks) > 3


def test_remapped_factors_count_bits_and_are_nearly_the_factors(ctx):
    options = {"samples": 2, "epochs": 0, "storage": "remapped"}
    method = find("method", "dobi_svd").build(options)
    net = method.compress(None, 0.4, ctx)

    assert facts(find("method", "dobi_svd"), method)["ratio_of"] == "bits"
    # In float32: 8 bits for most numbers of a rank, so that nearly every rank fits.
    left = model_size.share_of_bits(ctx.model, net)
    assert 0.4 <= left < 0.5
    dense, again = logits(ctx.model.net), logits(net)
    plain = logits(compressed(ctx, 0.4, epochs=0))
    assert (again - dense).norm() < (plain - dense).norm()


def test_positions_of_the_lowest_loss_are_kept_on_request(ctx):
    # One step of any size: before it the shares are equal, and the loss is the lowest
    # that was seen.
    cuts_of = find("method", "dobi_svd").build
    options = {"samples": 1, "epochs": 1, "learning_rate": 0.2}
    method = cuts_of({**options, "keep": "best"})
    cuts = [method._cut(n, m) for n, m in linears(ctx.model).items()]

    best, last = (
        cuts_of({**options, "keep": keep})._trained(cuts, 0.5, ctx)
        for keep in ("best", "last")
    )
    equal = [0.5 * c.size / (c.price * c.full) for c in cuts]
    assert best.tolist() == pytest.approx(equal)
    assert not torch.equal(best, last)


def test_text_with_fewer_directions_than_the_rank_is_filled_up(tmp_path):
    # Windows of 4 tokens give 4 directions each at most, and ranks go up to 12.
    ctx = context(tiny("gpt2"), tmp_path, length=4)
    net = compressed(ctx, 0.1, samples=1, epochs=0)

    for name in linears(ctx.model):
        thin = net.get_submodule(name)
        weight = (thin.left.weight @ thin.right.weight).detach().double()
        rank = thin.right.weight.shape[0]
        assert torch.linalg.matrix_rank(weight, rtol=1e-5) == rank
    assert bool(logits(net).isfinite().all())


def test_a_matrix_that_reads_only_zeros_is_truncated_by_its_own_svd(tmp_path):
    # No text says which directions matter: the best of rank k is the plain SVD.
    model = tiny("llama", attention_bias=False)
    with torch.no_grad():
        model.net.model.layers[0].input_layernorm.weight.zero_()
    net = compressed(context(model, tmp_path), 0.5, samples=2)

    name = "model.layers.0.self_attn.q_proj"
    thin, weight = net.get_submodule(name), matrix(linears(model)[name]).double()
    rank = thin.right.weight.shape[0]
    left, values, right = torch.linalg.svd(weight)
    expected = (left[:, :rank] * values[:rank]) @ right[:rank]
    found = (thin.left.weight @ thin.right.weight).detach().double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_ratio_below_rank_one_is_refused_before_training(ctx):
    with pytest.raises(Unsupported, match="at most can go"):
        find("method", "dobi_svd").build({}).compress(None, 0.99, ctx)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": -1}, "samples -1 is below 0"),
        ({"epochs": -1}, "epochs -1 is below 0"),
        ({"beta": 0.0}, "beta 0.0 is not above 0"),
    ],
)
def test_wrong_numbers_are_refused(options, words):
    with pytest.raises(BenchError, match=words):
        find("method", "dobi_svd").build(options)
