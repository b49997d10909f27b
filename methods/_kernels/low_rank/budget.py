"""One budget of weights for many matrices, spent where it buys most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.core import Unsupported


@dataclass(frozen=True, slots=True)
class Offer:
    """The error of a group of matrices at each rank, and the weights that it stores.

    Args:
        label: The group's name in messages.
        size: Number of weights in the dense group, whose error is zero.
        cost: Weights stored at rank 1, 2, ..., shape ``(r,)``, float64.
        error: The error at these ranks, shape ``(r,)``, in one unit for all groups.
    """

    label: str
    size: int
    cost: Tensor
    error: Tensor


def offer(
    label: str,
    shape: tuple[int, int],
    energy: Tensor,
    cost: Callable[[int, int, int], int],
) -> Offer:
    """The ranks that cost less than the dense group.

    Args:
        label: The group's name in messages.
        shape: Shape of the stacked weight, ``(out, in)``.
        energy: The error that dropping each direction adds, strongest first.
        cost: ``(out, in, rank)`` -> number of stored weights.

    Returns:
        The offer; ranks that store as much as the dense group are left out.
    """
    out, inner = shape
    # Directions below rounding error are not worth a rank.
    energy = energy.double().where(energy > 1e-14 * energy.max(), 0.0)
    # tail[i] = energy of directions i and later
    tail = energy.flip(0).cumsum(0).flip(0)
    # Rank r keeps the directions 0 to r - 1; the full rank has no error.
    error = torch.cat([tail[1:], torch.zeros(1, dtype=torch.float64)])
    costs = torch.tensor(
        [cost(out, inner, rank) for rank in range(1, len(energy) + 1)],
        dtype=torch.float64,
    )
    # The dense group costs `out * inner` and has no error: it beats every rank that
    # costs as much.
    useful = costs < out * inner
    return Offer(label, out * inner, costs[useful], error[useful].cpu())


def allocate(offers: Sequence[Offer], budget: int) -> list[int | None]:
    """The ranks with the smallest total error within a budget for all groups.

    This is a Lagrangian relaxation (water-filling). At a price p of one weight, each
    group takes the rank that minimises ``error + p * cost``. Bisection finds the lowest
    p at which all groups together stay within the budget. The remaining weights are
    spent on single ranks, the largest error reduction per weight first.

    Args:
        offers: One offer for each group.
        budget: Number of weights that all groups together may store.

    Returns:
        The rank of each group, or None where it stays dense.

    Raises:
        Unsupported: If even rank 1 everywhere is over the budget.
    """
    # A group without a useful rank can only stay dense.
    least = sum(float(o.cost[0]) if len(o.cost) else o.size for o in offers)
    if least > budget:
        raise Unsupported(
            f"the ratio leaves {budget} weights, and rank 1 in each of {len(offers)} "
            f"groups, {offers[0].label} the first, takes {int(least)}: "
            f"{1 - least / sum(o.size for o in offers):.3f} at most can go"
        )
    low, high = (
        -200.0,
        200.0,
    )  # logarithm of the price; ``low`` spends too much
    # At a price of e^-200 the errors alone count, at e^200 the costs alone, in whatever
    # unit errors are given. `high` always keeps the budget: the cheapest choice does,
    # as was checked. 400 / 2^100 is below the resolution of a float64.
    for _ in range(100):
        middle = (low + high) / 2
        over = _spent(offers, _choice(offers, middle)) > budget
        low, high = (middle, high) if over else (low, middle)
    return _fill(offers, _choice(offers, high), budget)


def _choice(offers: Sequence[Offer], log_price: float) -> list[int | None]:
    price = torch.tensor(log_price, dtype=torch.float64).exp()
    chosen: list[int | None] = []
    for one in offers:
        # The Lagrangian of one group, (r,). Groups are independent at a given price.
        burden = one.error + price * one.cost
        best = int(burden.argmin()) if len(burden) else 0
        dense = not len(burden) or float(price) * one.size <= float(burden[best])
        chosen.append(None if dense else best + 1)
    return chosen


def _cost(one: Offer, rank: int | None) -> int:
    return one.size if rank is None else int(one.cost[rank - 1])


def _spent(offers: Sequence[Offer], ranks: Sequence[int | None]) -> int:
    return sum(_cost(o, r) for o, r in zip(offers, ranks, strict=True))


def _fill(
    offers: Sequence[Offer], ranks: list[int | None], budget: int
) -> list[int | None]:
    """Spend the remaining weights on single ranks, largest gain per weight first."""
    # At the lowest price all choices of one group are points of its convex hull. Ranks
    # between two such points are never chosen, so that weights remain. Each step looks
    # at all groups and buys one rank.
    left = budget - _spent(offers, ranks)
    while True:
        best, gain = -1, 0.0
        for i, (one, rank) in enumerate(zip(offers, ranks, strict=True)):
            if rank is None or rank >= len(one.cost):
                continue
            price = float(one.cost[rank] - one.cost[rank - 1])
            saved = float(one.error[rank - 1] - one.error[rank]) / price
            if price <= left and saved > gain:
                best, gain = i, saved
        if best < 0:
            return ranks
        rank = ranks[best]
        assert rank is not None
        left -= int(offers[best].cost[rank] - offers[best].cost[rank - 1])
        ranks[best] = rank + 1
