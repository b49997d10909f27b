"""Low rank under one budget: ranks go where the loss feels them, rows are pivots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from harness.core import Context, Model
from harness.registry import method
from methods._kernels.low_rank.budget import allocate, offer
from methods._kernels.low_rank.curvature import OutputCurvature, backward, sampled
from methods._kernels.low_rank.factors import (
    Factors,
    Group,
    factorize_group,
    install,
    linears,
    matrix,
    pair_cost,
    rank_for,
    stacked,
)
from methods._kernels.low_rank.groups import Join, groups_within_blocks
from methods._kernels.low_rank.pivots import install_pivoted, pivoted_cost


@dataclass(frozen=True, slots=True)
class Fitted:
    """Factors of each group, the stacked shape, and the outputs of each member."""

    factors: Mapping[Group, Factors]
    shapes: Mapping[Group, tuple[int, int]]
    members: Mapping[Group, tuple[int, ...]]

    def budget(self, group: Group, ratio: float) -> int:
        """What two thin factors of each member alone would take, ranks rounded down.

        So the network is never larger than that of SVD-LLM at the same ratio.

        Args:
            group: One of those that were fitted.
            ratio: The share of weights to remove.

        Returns:
            A number of weights.
        """
        inner = self.shapes[group][1]
        return sum(
            max(1, rank_for(out, inner, ratio)) * (out + inner)
            for out in self.members[group]
        )


@method(
    "water_filling",
    ratio_of="weights",
    needs={"linears", "calibration"},
    kinds={"causal_lm"},
    stochastic=True,
)
class WaterFilling:
    """Joint factors within a layer, ranks by measured sensitivity, pivoted storage.

    The loss that a change D of a weight adds is, to second order, half of
    ``tr(H D G D^T)`` with G the second moment of the input and H that of the gradient
    at the output (Kronecker-factored Fisher, arXiv:1503.05671). The best rank-k matrix
    under it is a truncated SVD of ``H^(1/2) W G^(1/2)`` (arXiv:2505.17974). Its dropped
    squared singular values count in nats, one unit for every matrix of the network, so
    that a single budget is spent where it buys most.

    Args:
        join: Which matrices of a block share their input factor.
        sensitivity: Weigh outputs by their ``gradient``, or only by their size
            (``output``: each group's error relative to its energy).
        spend: One ``global`` budget, or the same ratio for every group (``uniform``).
        pivot: Store k rows and the mixing of the others instead of two thin factors.
        gradient_samples: Calibration windows that are run backward.
    """

    join: Join = "qkv"
    sensitivity: Literal["gradient", "output"] = "gradient"
    spend: Literal["global", "uniform"] = "global"
    pivot: bool = True
    gradient_samples: int = 32

    def __post_init__(self) -> None:
        """Refuse an empty sample.

        Raises:
            ValueError: If ``gradient_samples`` is below 1.
        """
        if self.gradient_samples < 1:
            raise ValueError(f"gradient_samples {self.gradient_samples} is below 1")

    def fit(self, model: Model, ctx: Context) -> Fitted:
        """Factorise every group under its input and output statistics."""
        modules = linears(model)
        groups = groups_within_blocks(model, self.join)
        calibration = ctx.calibration()
        curvature: Mapping[Group, Tensor] = {}
        if self.sensitivity == "gradient":
            curvature = self._curvature(groups, ctx)
        factors, shapes, members = {}, {}, {}
        for group in groups:
            weight = stacked(modules, group)
            gram = calibration.gram(group.names[0])
            made = factorize_group(modules, group, gram, curvature.get(group))
            if not curvature:
                made = replace(made, energy=made.energy / made.energy.sum())
            factors[group], shapes[group] = made, (weight.shape[0], weight.shape[1])
            members[group] = tuple(matrix(modules[n]).shape[0] for n in group.names)
        return Fitted(factors, shapes, members)

    def compress(self, fitted: Fitted, ratio: float, ctx: Context) -> nn.Module:
        """The network at the ranks that the budget buys."""
        net = ctx.dense()
        if ratio == 0:
            return net
        modules = linears(ctx.model)
        put = install_pivoted if self.pivot else install
        for group, rank in self.ranks(fitted, ratio).items():
            if rank is not None:
                weight = stacked(modules, group)
                put(net, group, *fitted.factors[group].truncate(rank, weight))
        return net

    def ranks(self, fitted: Fitted, ratio: float) -> dict[Group, int | None]:
        """The rank of each group; None where it stays dense.

        Args:
            fitted: From ``fit``.
            ratio: The share of weights to remove.

        Returns:
            Group -> rank.
        """
        cost = pivoted_cost if self.pivot else pair_cost
        groups = list(fitted.factors)
        offers = [
            offer(g.label, fitted.shapes[g], fitted.factors[g].energy, cost)
            for g in groups
        ]
        budgets = [fitted.budget(group, ratio) for group in groups]
        if self.spend == "uniform":
            both = zip(offers, budgets, strict=True)
            ranks = [allocate([one], budget)[0] for one, budget in both]
        else:
            ranks = allocate(offers, sum(budgets))
        return dict(zip(groups, ranks, strict=True))

    def _curvature(self, groups: list[Group], ctx: Context) -> Mapping[Group, Tensor]:
        net = ctx.dense().requires_grad_(False)
        curvature = OutputCurvature(net, groups)
        tokens = ctx.calibration().tokens[: self.gradient_samples]
        with curvature.watch():
            for _ in backward(net, tokens, sampled(ctx.stream("labels"))):
                pass
        return curvature.mean()
