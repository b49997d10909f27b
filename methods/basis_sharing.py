"""Basis Sharing: adjacent layers share one basis (arXiv:2410.03765)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from harness.core import Context, Model
from harness.registry import method
from methods._kernels.low_rank.factors import Factors, Group, linears, matrix
from methods._kernels.low_rank.groups import groups_across_blocks
from methods._kernels.low_rank.layers import LowRank
from methods._kernels.low_rank.refit import pooled_update, refit, update
from methods._kernels.low_rank.uniform import factorize_groups, truncate_groups
from methods._kernels.low_rank.whitening import Whitening, whitened


@method(
    "basis_sharing",
    ratio_of="weights",
    needs={"linears", "calibration"},
    kinds={"causal_lm"},
)
class BasisSharing:
    """One basis a group of adjacent blocks, coefficients for each of them.

    Args:
        group_size: Blocks that share; the remainder forms a last, smaller group.
        shared: Roles that share; the others are factorised alone, as in SVD-LLM.
        remainder: Rank of a smaller last group: its ``own`` by its size, or that of a
            ``full`` group, as in the released code (slightly off the ratio).
        refit: ``own_gram`` fits each block's coefficients to its own inputs, closed
            form, instead of those pooled over the group.
        update: Fit the coefficients to inputs of the compressed network: block by block
            to their own with ``refit``, else pooled as the released ``do_update_model``
            (which no released script calls).
        whitening: ``eigh``, or ``cholesky`` with the ``jitter`` of the released code.
        jitter: Beyond the smallest eigenvalue, for ``cholesky`` only.
    """

    group_size: int = 2
    shared: tuple[str, ...] = ("query", "key", "value", "qkv", "gate", "up")
    remainder: Literal["own", "full"] = "own"
    refit: Literal["none", "own_gram"] = "none"
    update: bool = False
    whitening: Whitening = "eigh"
    jitter: float = 7e-6

    def __post_init__(self) -> None:
        """Refuse an empty group.

        Raises:
            ValueError: If ``group_size`` is below 1.
        """
        if self.group_size < 1:
            raise ValueError(f"group_size {self.group_size} is below 1")

    def fit(self, model: Model, ctx: Context) -> dict[Group, Factors]:
        """Factorise each group once; every ratio truncates the same factors."""
        groups = groups_across_blocks(model, size=self.group_size, shared=self.shared)
        return factorize_groups(
            model, groups, whitened(ctx.calibration(), self.whitening, self.jitter)
        )

    def compress(
        self, fitted: dict[Group, Factors], ratio: float, ctx: Context
    ) -> nn.Module:
        """The network with every group at the rank that the ratio leaves."""
        size = self.group_size if self.remainder == "full" else None
        net = truncate_groups(fitted, ratio, ctx, full=size)
        if ratio == 0:
            return net
        if self.refit == "own_gram" and not self.update:
            _own_gram(net, fitted, ctx)
        if self.update and self.refit == "own_gram":
            update(net, ctx, fitted, inputs="compressed")
        elif self.update:
            pooled_update(net, ctx, fitted)
        return net


def _own_gram(net: nn.Module, fitted: dict[Group, Factors], ctx: Context) -> None:
    """Refit coefficients of groups to each member's own inputs in the dense model."""
    modules, found = linears(ctx.model), ctx.calibration()
    for group in fitted:
        if len(group.names) == 1:  # pooled over itself: the refit would change nothing
            continue
        for name in group.names:
            thin = net.get_submodule(name)
            assert isinstance(thin, LowRank)
            left = refit(
                matrix(modules[name]), thin.right.weight.detach(), found.gram(name)
            )
            with torch.no_grad():
                thin.left.weight.copy_(left)
