"""Ranks as real numbers that are trained, and the whole ranks that a budget allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from harness.core import Unsupported
from methods._kernels.low_rank.ranks import kept
from methods._kernels.low_rank.soft_cut import masked, soft_mask


@dataclass(frozen=True, slots=True)
class Cut:
    """A matrix whose rank is trained.

    Args:
        name: Its module path.
        full: Its highest rank, ``min(out, in)``.
        size: Bits of the dense matrix.
        price: Bits of each rank.
    """

    name: str
    full: int
    size: int
    price: int

    def cost(self, rank: int) -> int:
        """Bits of the matrix at a rank: those of the dense one at most."""
        return min(rank * self.price, self.size)

    def count(self, rows: int) -> int:
        """Number of singular values of the outputs of this many tokens."""
        return min(rows, self.full)


class SoftCuts:
    """The positions of the cuts of all matrices, as shares that can be trained.

    The share of a matrix times the number of singular values of its outputs is the
    position of the cut; times the full rank of the matrix it is the rank.

    Args:
        cuts: The matrices.
        ratio: The share of bits to remove; every matrix begins with it.
        beta: Sharpness of the mask.
        device: Where the network is.
    """

    def __init__(
        self, cuts: Sequence[Cut], ratio: float, beta: float, device: torch.device
    ) -> None:
        def column(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        self.cuts, self.beta = cuts, beta
        self._full = column([cut.full for cut in cuts])
        self._size = column([cut.size for cut in cuts])
        # Of the whole rank, in bits; 16 bits a weight in float32 are exact enough.
        self._whole = column([cut.price * cut.full for cut in cuts])
        self.shares = nn.Parameter((1 - ratio) * self._size / self._whole)

    def left(self) -> Tensor:
        """The share of all bits that the positions leave, with a gradient."""
        cost = torch.minimum(self.shares * self._whole, self._size)
        return cost.sum() / self._size.sum()

    def functions(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """For each matrix the function that cuts its outputs softly."""
        return {cut.name: partial(self._cut, i) for i, cut in enumerate(self.cuts)}

    def clamp(self) -> None:
        """Bring every position back between the first and one past the last."""
        with torch.no_grad():
            self.shares.clamp_(1 / self._full, 1 + 1 / self._full)

    def _cut(self, index: int, outputs: Tensor) -> Tensor:
        count = self.cuts[index].count(len(outputs))
        # On the device of the outputs: blocks may be spread over several.
        position = (self.shares[index] * count).to(outputs.device)
        # Where out > in the values after the in-th are zero but for rounding.
        mask = soft_mask(position, min(outputs.shape), self.beta)
        return masked(outputs, mask)


def checked_budget(cuts: Sequence[Cut], ratio: float) -> int:
    """Bits that a ratio leaves to all matrices together.

    Args:
        cuts: The matrices.
        ratio: The share of bits to remove, in [0, 1).

    Returns:
        Number of bits.

    Raises:
        Unsupported: If rank 1 everywhere takes more.
    """
    whole = sum(cut.size for cut in cuts)
    budget, least = kept(whole, ratio), sum(cut.cost(1) for cut in cuts)
    if least > budget:
        raise Unsupported(
            f"ratio {ratio} leaves less than rank 1 in each of {len(cuts)} matrices: "
            f"{1 - least / whole:.3f} at most can go"
        )
    return budget


def whole_ranks(cuts: Sequence[Cut], shares: Tensor, budget: int) -> list[int]:
    """Whole ranks in proportion to trained shares, the highest within a budget.

    Args:
        cuts: The matrices.
        shares: The trained share of the full rank of each, shape ``(n,)``.
        budget: Bits for all of them, at least those of rank 1.

    Returns:
        One rank for each matrix, from 1 to the full one.

    >>> two = [Cut("a", 8, 64, 8), Cut("b", 8, 64, 8)]
    >>> whole_ranks(two, torch.tensor([0.2, 0.6]), 64)
    [2, 6]
    """
    wanted = (shares.double() * torch.tensor([float(c.full) for c in cuts])).tolist()

    def at(factor: float) -> list[int]:
        # A product may be an ulp below the whole number that it stands for.
        pairs = zip(cuts, wanted, strict=True)
        return [min(c.full, max(1, int(factor * w + 1e-6))) for c, w in pairs]

    def spent(ranks: Sequence[int]) -> int:
        return sum(c.cost(r) for c, r in zip(cuts, ranks, strict=True))

    # At this factor every rank is full; the bisection keeps `low` within the budget.
    low, high = 0.0, 2 * max(c.full / w for c, w in zip(cuts, wanted, strict=True))
    if spent(at(high)) <= budget:
        return at(high)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(at(middle)) <= budget else (low, middle)
    return at(low)


def rounded_up(cuts: Sequence[Cut], shares: Tensor) -> list[int]:
    """The trained ranks rounded up, whatever they take.

    Args:
        cuts: The matrices.
        shares: As for ``whole_ranks``.

    Returns:
        One rank for each matrix, from 1 to the full one.
    """
    pairs = zip(cuts, shares.tolist(), strict=True)
    # In float32 a share of 0.3 is a little more: of 10 that is 3 and not 4.
    return [min(c.full, max(1, math.ceil(s * c.full - 1e-4))) for c, s in pairs]
