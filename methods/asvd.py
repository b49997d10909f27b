"""Activation-aware SVD with its sensitivity-based rank search (arXiv:2312.05821)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from harness.core import Context, Model, Unsupported
from harness.registry import method
from harness.toolkit.blockwise import stream
from harness.toolkit.saved_model import replace
from methods._kernels.low_rank.factors import (
    Factors,
    Group,
    install,
    kept,
    linears,
    matrix,
    stacked,
)
from methods._kernels.low_rank.uniform import factorize_groups, truncate_groups


@dataclass(frozen=True, slots=True)
class Fitted:
    """Factors, and the calibration loss with one matrix at one kept share.

    Args:
        factors: Of every matrix.
        losses: (matrix, share kept) -> loss; empty without the search.
    """

    factors: dict[Group, Factors]
    losses: Mapping[tuple[str, float], float]


@method(
    "asvd",
    ratio_of="weights",
    needs={"linears", "calibration"},
    kinds={"causal_lm"},
    tolerance=0.1,
)
class Asvd:
    """SVD of ``W S`` with S the mean size of each input channel to the power alpha.

    The search measures the calibration loss with each matrix alone at each kept share,
    and gives every matrix the smallest share among the least harmful, as many as the
    budget asks for. The language-model head stays dense, unlike in the released code.

    Args:
        alpha: Power of the mean ``|x|``.
        search: Whether to search; else every matrix gets the same ratio.
        keep: Shares that the search tries.
        search_samples: Calibration windows whose loss it measures.
    """

    alpha: float = 0.5
    search: bool = True
    keep: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    search_samples: int = 32

    def __post_init__(self) -> None:
        """Refuse shares out of range and an empty sample.

        Raises:
            ValueError: If an option is out of its range.
        """
        if not self.keep or not all(0 < share < 1 for share in self.keep):
            raise ValueError(f"keep {list(self.keep)} is not shares between 0 and 1")
        if self.search_samples < 1:
            raise ValueError(f"search_samples {self.search_samples} is below 1")

    def fit(self, model: Model, ctx: Context) -> Fitted:
        """Factorise each matrix, and measure how much each kept share of it harms."""
        found = ctx.calibration()

        def scale(group: Group) -> Tensor:
            # 1e-6 as in the released code, so that a dead channel stays invertible.
            size: Tensor = found.mean_abs(group.names[0]).double() ** self.alpha + 1e-6
            return size.square()

        groups = [Group((name,)) for name in linears(model)]
        factors = factorize_groups(model, groups, scale)
        if not self.search:
            return Fitted(factors, {})
        return Fitted(factors, self._losses(model, factors, ctx))

    def compress(self, fitted: Fitted, ratio: float, ctx: Context) -> nn.Module:
        """The network at the searched ranks, or all at one ratio."""
        if not self.search or ratio == 0:
            return truncate_groups(fitted.factors, ratio, ctx)
        net, modules = ctx.dense(), linears(ctx.model)
        sizes = {name: tuple(matrix(m).shape) for name, m in modules.items()}
        shares = searched(fitted.losses, sizes, ratio)
        for group, factors in fitted.factors.items():
            if group.names[0] in shares:
                weight = stacked(modules, group)
                rank = share_rank(weight.shape, shares[group.names[0]])
                install(net, group, *factors.truncate(rank, weight))
        return net

    def _losses(
        self, model: Model, factors: dict[Group, Factors], ctx: Context
    ) -> dict[tuple[str, float], float]:
        """The loss with one matrix truncated; what comes before its block runs once."""
        modules, net = linears(model), ctx.dense()
        running = stream(model, ctx.calibration().tokens[: self.search_samples])
        losses: dict[tuple[str, float], float] = {}
        for index, (path, block) in enumerate(running):
            for group, found in factors.items():
                name = group.names[0]
                if not name.startswith(f"{path}."):
                    continue
                weight, dense = stacked(modules, group), net.get_submodule(name)
                for share in self.keep:
                    rank = share_rank(weight.shape, share)
                    install(net, group, *found.truncate(rank, weight))
                    losses[name, share] = running.loss(net, index)
                    replace(net, name, dense)
            running.advance(index, block)
        return losses


def share_rank(shape: Sequence[int], share: float) -> int:
    """The rank whose factors hold at most ``share`` of the weights, 1 at least."""
    out, inner = shape
    return max(1, kept(out * inner, 1 - share) // (out + inner))


def searched(
    losses: Mapping[tuple[str, float], float],
    sizes: Mapping[str, Sequence[int]],
    ratio: float,
) -> dict[str, float]:
    """Kept shares within the budget that take in the fewest harmful truncations.

    Args:
        losses: (matrix, share) -> loss with that matrix alone at that share.
        sizes: Matrix -> its shape.
        ratio: The share of all weights to remove.

    Returns:
        Matrix -> share; matrices that are not named stay dense.

    Raises:
        Unsupported: If even the smallest shares of all are over the budget.
    """
    mildest = sorted(losses, key=lambda item: (losses[item], -item[1], item[0]))
    total = sum(out * inner for out, inner in sizes.values())
    budget = kept(total, ratio)
    shares: dict[str, float] = {}
    spent = total
    for name, share in mildest:
        if spent <= budget:
            break
        if share < shares.get(name, 1.0):
            spent += _weights(sizes[name], share)
            spent -= _weights(sizes[name], shares.get(name))
            shares[name] = share
    if spent > budget:
        raise Unsupported(
            f"ratio {ratio} is beyond the smallest share {min(s for _, s in losses)} "
            "that the search tries: give `keep` smaller ones"
        )
    return shares


def _weights(shape: Sequence[int], share: float | None) -> int:
    out, inner = shape
    return out * inner if share is None else share_rank(shape, share) * (out + inner)
