"""Low rank under one budget for the network, spent where the loss depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from harness.core import Context, Model
from harness.registry import method
from methods._kernels.low_rank.budget import allocate, offer
from methods._kernels.low_rank.curvature import (
    OutputCurvature,
    backward,
    differentiable,
    sampled,
)
from methods._kernels.low_rank.factors import (
    Factors,
    Group,
    factorize_group,
    kept,
    linears,
    matrix,
    stacked,
)
from methods._kernels.low_rank.groups import Join, groups_within_blocks
from methods._kernels.low_rank.installed import install
from methods._kernels.low_rank.pivots import install_pivoted, pivoted_cost
from methods._kernels.low_rank.ranks import pair_cost, rank_for


@dataclass(frozen=True, slots=True)
class Fitted:
    """The result of the decomposition.

    Args:
        factors: The factors of each group.
        shapes: The shape of each group's stacked weight, ``(out, in)``.
        members: The number of outputs of each member of a group.
    """

    factors: Mapping[Group, Factors]
    shapes: Mapping[Group, tuple[int, int]]
    members: Mapping[Group, tuple[int, ...]]

    def budget(self, group: Group, ratio: float) -> int:
        """The weights that two thin factors of each member alone would store.

        With this budget the network is never larger than that of SVD-LLM at the same
        ratio.

        Args:
            group: A group that was fitted.
            ratio: The share of weights to remove, in [0, 1).

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
    version=4,
)
class WaterFilling:
    """Gives each matrix the rank at which a stored weight lowers the loss most.

    To second order, a change D of a weight W adds ``tr(H D G D^T) / 2`` to the loss,
    with ``G = mean(x x^T)`` over the inputs x and ``H = mean(g g^T)`` over the
    gradients g at the outputs (Kronecker-factored Fisher information,
    arXiv:1503.05671). The best matrix of rank k in this sense is a truncated SVD of
    ``H^(1/2) W G^(1/2)`` (as in arXiv:2505.17974), and it adds half the sum of the
    squared singular values left out. That is a number of nats for every matrix of the
    network, so that one budget can be divided among all matrices: each takes the rank k
    that minimises ``error(k) + p cost(k)``, and the price p of a weight is the lowest
    that keeps the budget (water-filling). Matrices that read the same input share one
    factor. Of the product, k rows are stored, and the coefficients that express the
    other rows in them: ``k (in + out - k)`` numbers and one position per output (PIFA,
    Zhao et al. 2025, PMLR 267:77926). The positions count in the budget and in the
    achieved ratio.

    By default query, key and value are joined, and gate with up; the gradients are
    those of 32 calibration windows with labels drawn from the model; the budget is
    global; and factors are stored pivoted. The gradients of a float16 network are
    computed in float32.

    The two-sided whitening is also that of OBD-LLM (arXiv:2604.00821, here
    ``obd_llm``), which gives every matrix the same ratio. The joined matrices, the one
    budget and the pivoted factors with it are this project's own combination; there is
    no released code to compare with. Of a mixture of experts, G and H are means over
    the tokens that an expert reads, and its error counts by their share of all tokens.

    Args:
        join: Matrices of a block that share their input factor: ``qkv`` (query, key and
            value; gate and up), ``qk`` (query and key; gate and up), or ``none``.
        sensitivity: ``gradient`` uses H as above. ``output`` uses the identity and
            divides the error of each group by the energy of its outputs.
        spend: One ``global`` budget, or the same ratio for every group (``uniform``).
        pivot: Whether to store rows and coefficients instead of two thin factors.
        gradient_samples: Number of calibration windows that are run backward.
    """

    join: Join = "qkv"
    sensitivity: Literal["gradient", "output"] = "gradient"
    spend: Literal["global", "uniform"] = "global"
    pivot: bool = True
    gradient_samples: int = 32

    def __post_init__(self) -> None:
        """Check the number of windows.

        Raises:
            ValueError: If ``gradient_samples`` is below 1.
        """
        if self.gradient_samples < 1:
            raise ValueError(f"gradient_samples {self.gradient_samples} is below 1")

    def fit(self, model: Model, ctx: Context) -> Fitted:
        """Decompose every group under its input and output statistics."""
        modules = linears(model)
        groups = groups_within_blocks(model, self.join)
        calibration = ctx.calibration()
        curvature: Mapping[Group, Tensor] = {}
        shares: Mapping[Group, float] = {}
        if self.sensitivity == "gradient":
            curvature, shares = self._curvature(groups, ctx)
        factors, shapes, members = {}, {}, {}
        for group in groups:
            weight = stacked(modules, group)
            gram = calibration.gram(group.names[0])
            made = factorize_group(modules, group, gram, curvature.get(group))
            made = kept(model, made)
            # With H errors are nats per token that the group reads; times its share of
            # the tokens they are nats per token of the text. Without H they have the
            # unit of the group's outputs, and only shares of their energy can be
            # compared.
            unit = 1 / shares[group] if curvature else made.energy.sum()
            made = replace(made, energy=made.energy / unit)
            factors[group], shapes[group] = made, (weight.shape[0], weight.shape[1])
            members[group] = tuple(matrix(modules[n]).shape[0] for n in group.names)
        return Fitted(factors, shapes, members)

    def compress(self, fitted: Fitted, ratio: float, ctx: Context) -> nn.Module:
        """The network at the ranks that the budget allows."""
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
            fitted: From ``fit``; not changed.
            ratio: The share of weights to remove, in [0, 1).

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
            # A budget of one group: the largest rank that fits, in either form of
            # storage.
            ranks = [allocate([one], budget)[0] for one, budget in both]
        else:
            ranks = allocate(offers, sum(budgets))
        return dict(zip(groups, ranks, strict=True))

    def _curvature(
        self, groups: list[Group], ctx: Context
    ) -> tuple[Mapping[Group, Tensor], Mapping[Group, float]]:
        net = differentiable(ctx, exact=True).requires_grad_(False)
        curvature = OutputCurvature(net, groups)
        tokens = ctx.calibration().tokens[: self.gradient_samples]
        with curvature.watch():
            for _ in backward(net, tokens, sampled(ctx.stream("labels"))):
                pass
        return curvature.mean(), curvature.shares()
