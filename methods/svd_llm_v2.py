"""SVD-LLM V2: the ratio of each matrix follows from its loss (arXiv:2503.12340)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from harness.core import Context, Model
from harness.registry import method
from methods._kernels.low_rank.factors import (
    Factors,
    Group,
    checked_rank,
    linears,
    matrix,
)
from methods._kernels.low_rank.ranks import rank_for
from methods._kernels.low_rank.uniform import factorize_groups, truncate_to
from methods._kernels.low_rank.whitening import whitened


@dataclass(frozen=True, slots=True)
class Fitted:
    """The factors, and what the losses are measured on.

    Args:
        factors: The factors of each matrix.
        tokens: Number T of calibration tokens, which scales the losses.
    """

    factors: Mapping[Group, Factors]
    tokens: int


@method(
    "svd_llm_v2",
    ratio_of="weights",
    needs={"linears", "calibration"},
    kinds={"causal_lm"},
)
class SvdLlmV2:
    """Whitened SVD that removes less from matrices whose truncation loses more.

    Each matrix W with inputs X, one column for each of the T calibration tokens, is
    decomposed as in ``svd_llm``: with ``X X^T = U_s S_s U_s^T`` and the SVD
    ``W U_s S_s^(1/2) = U Sigma V^T``, the truncation
    ``W_k = U_k Sigma_k V_k^T S_s^(-1/2) U_s^T`` has the smallest possible loss
    ``L = ||W X - W_k X||_F``, the root of the sum of the squared singular values left
    out. With R the ratio of the trial, the matrices of one role (all queries, all
    keys, ...) are compared at the rank of R: matrix i of n gets the ratio
    ``r_i = n R s_i / (s_1 + ... + s_n)`` with ``s_i = 1 / log(L_i)``, so that a small
    loss means a high ratio and the mean is R. The rank is
    ``floor((1 - r_i) out in / (out + in))``.

    The paper leaves three cases open. Losses of at most e count as e, since the
    logarithm is zero at 1 and negative below. A matrix keeps rank 1 at least, and the
    others of its role then remove less. Matrices of one role but of another shape form
    a role of their own, so that the mean of the ratios keeps the budget.

    The paper is arXiv:2503.12340. No code of it was released (AIoT-MLSys-Lab/SVD-LLM at
    1c1009a has version 1 only). Its pseudo-code prints the loss where the score s_i is
    meant, and leaves ``V^T`` and a square root out of the product; its text and its
    theorem have both. The whitening is that of ``svd_llm`` with its default
    ``whitening: eigh``; the method differs by its ratios alone. It has no options.
    """

    def fit(self, model: Model, ctx: Context) -> Fitted:
        """Decompose each matrix once; every ratio truncates the same factors."""
        groups = [Group((name,)) for name in linears(model)]
        calibration = ctx.calibration()
        factors = factorize_groups(model, groups, whitened(calibration, "eigh", 0.0))
        return Fitted(factors, calibration.tokens.numel())

    def compress(self, fitted: Fitted, ratio: float, ctx: Context) -> nn.Module:
        """The network with every matrix at the rank that its own ratio leaves."""
        if ratio == 0:
            return ctx.dense()
        modules = linears(ctx.model)
        kinds: dict[tuple[str | None, int, int], list[Group]] = {}
        for group in fitted.factors:
            name = group.names[0]
            out, inner = matrix(modules[name]).shape
            kinds.setdefault((ctx.model.role(name), out, inner), []).append(group)
        ranks: dict[Group, int] = {}
        for (_, out, inner), groups in kinds.items():
            # The rank at which the losses are compared: that of the mean ratio R.
            uniform = [checked_rank(modules, group, ratio) for group in groups]
            losses = [
                # `error` is for G = X X^T / T; the paper's loss is for X X^T, and its
                # logarithm is not free of that scale.
                math.sqrt(fitted.tokens) * fitted.factors[group].error(rank)
                for group, rank in zip(groups, uniform, strict=True)
            ]
            # The ratio of rank 1.
            most = 1 - (out + inner) / (out * inner)
            own = ratios(losses, ratio, most)
            for group, share in zip(groups, own, strict=True):
                # ``most`` is rounded, and its rank may fall below 1 by that alone.
                ranks[group] = max(1, rank_for(out, inner, share))
        return truncate_to(fitted.factors, ranks, ctx)


def ratios(losses: Sequence[float], ratio: float, most: float) -> list[float]:
    """Ratios in proportion to ``1 / log(loss)``, with a given mean.

    Args:
        losses: The loss of each matrix at the mean ratio.
        ratio: The mean of the ratios, in [0, ``most``].
        most: The highest ratio of one matrix. What a matrix would remove beyond it is
            removed from the others, in the same proportion.

    Returns:
        One ratio for each matrix.

    >>> [round(r, 3) for r in ratios([math.e**2, math.e**4, math.e**4], 0.2, 0.9)]
    [0.3, 0.15, 0.15]
    """
    scores = [1 / math.log(max(loss, math.e)) for loss in losses]
    found = [0.0] * len(scores)
    free = list(range(len(scores)))
    left = ratio * len(scores)
    while free:
        total = sum(scores[i] for i in free)
        # Each round fixes those above `most`, and divides the rest among the others.
        over = [i for i in free if left * scores[i] / total > most]
        for i in over or free:
            # Rounded, so that equal losses give the mean and not one ulp beside it.
            found[i] = most if over else round(left * scores[i] / total, 12)
        if not over:
            break
        left -= most * len(over)
        free = [i for i in free if i not in over]
    return found
