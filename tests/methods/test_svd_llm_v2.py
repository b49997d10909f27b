import math

import pytest
import torch
from tiny_llm import FAMILIES, context, logits, tiny

from harness.core import Unsupported
from harness.registry import find
from methods._kernels.low_rank.factors import linears, matrix
from methods.svd_llm_v2 import ratios


def fit_and_compress(ctx, name, ratio):
    method = find("method", name).build({})
    return method.compress(method.fit(ctx.model, ctx), ratio, ctx).eval()


def by_loops(ctx, name, names, ratio):
    """A matrix as the paper's two algorithms give it, from the inputs themselves."""
    inputs = {}
    handles = [
        ctx.model.net.get_submodule(n).register_forward_pre_hook(
            lambda _, args, n=n: inputs.__setitem__(n, args[0].flatten(0, 1).double())
        )
        for n in names
    ]
    with torch.no_grad():
        ctx.model.net(input_ids=ctx.calibration().tokens, use_cache=False)
    for handle in handles:
        handle.remove()

    def truncated(n, share):
        weight, x = matrix(linears(ctx.model)[n]).double(), inputs[n].T
        out, inner = weight.shape
        rank = int((1 - share) * out * inner / (out + inner) + 1e-9)
        left, values, right = torch.linalg.svd(weight @ x, full_matrices=False)
        # W' X is the nearest matrix of that rank to W X; X has full row rank here.
        nearest = (left[:, :rank] * values[:rank]) @ right[:rank]
        return nearest @ torch.linalg.pinv(x), float((weight @ x - nearest).norm())

    scores = {n: 1 / math.log(truncated(n, ratio)[1]) for n in names}
    share = len(names) * ratio * scores[name] / sum(scores.values())
    return truncated(name, share)[0]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_matrix_of_a_role_agrees_with_the_papers_algorithms(family, tmp_path):
    ctx = context(tiny(family), tmp_path)

    net = fit_and_compress(ctx, "svd_llm_v2", 0.4)

    ranks = set()
    modules = linears(ctx.model)
    for role in ("down", "output"):
        names = [name for name in modules if ctx.model.role(name) == role]
        for name in names:
            thin = net.get_submodule(name)
            found = (thin.left.weight @ thin.right.weight).double()
            expected = by_loops(ctx, name, names, 0.4)
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
            ranks.add((role, thin.right.weight.shape[0]))
    assert len(ranks) > 2, "the losses differ, and with them the ranks of one role"


@pytest.mark.parametrize("family", FAMILIES)
def test_in_a_network_of_one_block_nothing_can_be_moved_and_it_is_svd_llm(
    family, tmp_path
):
    ctx = context(tiny(family, num_hidden_layers=1), tmp_path)

    one = fit_and_compress(ctx, "svd_llm", 0.4)
    two = fit_and_compress(ctx, "svd_llm_v2", 0.4)

    assert torch.equal(logits(one), logits(two))


def test_a_ratio_beyond_rank_one_is_moved_to_the_others():
    # Scores 1, 1/2, 1/2: of 2.4 in all, the first would remove 1.2 and may 0.9; the
    # others share 1.5 evenly.
    found = ratios([math.e, math.e**2, math.e**2], 0.8, 0.9)

    assert found == pytest.approx([0.9, 0.75, 0.75])


def test_losses_whose_logarithm_is_not_positive_count_as_the_smallest():
    # Without the floor, 1 / log(1) and 1 / log(0.5) have no meaning here.
    found = ratios([1.0, 0.5, 0.0, math.e, math.e**2], 0.45, 0.9)

    assert found == pytest.approx([0.5, 0.5, 0.5, 0.5, 0.25])


def test_a_ratio_below_rank_one_is_refused(tmp_path):
    ctx = context(tiny("llama"), tmp_path)

    with pytest.raises(Unsupported, match="leaves rank 0"):
        fit_and_compress(ctx, "svd_llm_v2", 0.95)
