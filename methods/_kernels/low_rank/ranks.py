"""Rank arithmetic: how many directions a share of weights leaves, exactly."""

from __future__ import annotations

from fractions import Fraction


def kept(weights: int, ratio: float) -> int:
    """The number of ``weights`` that may stay, in exact arithmetic.

    In floating point ``(1 - 0.9) * 10`` is below 1 and would round down to 0.

    >>> kept(10, 0.9), kept(4096 * 4096, 0.2)
    (1, 13421772)
    """
    return int((1 - Fraction(repr(ratio))) * weights)


def rank_for(out_features: int, in_features: int, ratio: float) -> int:
    """The largest rank whose two factors hold at most ``1 - ratio`` of the weights.

    Args:
        out_features: Outputs of all members of the group together.
        in_features: Width of the shared input.
        ratio: The share of weights to remove, in [0, 1).

    Returns:
        ``floor((1 - ratio) out in / (out + in))``, as in appendix A.1 of
        arXiv:2410.03765.

    >>> rank_for(2 * 4096, 4096, 0.2)
    2184
    """
    return kept(out_features * in_features, ratio) // (out_features + in_features)


def pair_cost(out_features: int, in_features: int, rank: int) -> int:
    """``rank (out + in)``: the number of weights in two thin factors.

    >>> pair_cost(6, 4, 2)
    20
    """
    return rank * (out_features + in_features)
