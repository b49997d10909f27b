"""Basis Sharing: adjacent layers share one basis (arXiv:2410.03765)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from harness.core import Context, Model
from harness.registry import method
from methods._kernels.low_rank.factors import Factors, Group, linears, matrix
from methods._kernels.low_rank.groups import (
    groups_across_blocks,
    groups_across_experts,
)
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
    """Adjacent blocks express one matrix each in a common basis of directions.

    The weights of one role in n adjacent blocks, ``W_1 ... W_n`` of shape
    ``(out, in)``, are stacked to ``W`` of shape ``(n out, in)``. With
    ``G = G_1 + ... + G_n`` the sum of the blocks' input Gram matrices ``mean(x x^T)``
    and ``S S^T = G``, the truncated SVD ``W S = U Sigma V^T`` gives the shared basis
    ``R = Sigma_k V_k^T S^-1`` of shape ``(k, in)`` and the coefficients ``L_i``, the
    rows of ``U_k`` that belong to block i: ``W_i`` becomes ``L_i R``. The basis is
    stored once, which leaves the rank
    ``k = floor((1 - ratio) n out in / (n out + in))``. Each block still multiplies by
    the basis, since its input differs, so that fewer weights are removed from the work
    than from the storage.

    By default groups of two blocks share for query, key, value, gate and up; output and
    down projections are decomposed alone, as in SVD-LLM.

    Difference from the released code (TUDa-HWAI/Basis_Sharing at 8fa941e): it gives a
    smaller last group the rank of a full one (``remainder: full``), which removes less
    than the ratio, and it decomposes G by Cholesky with a jitter (``whitening:
    cholesky``). With both options the numbers are those of the released code; the
    defaults keep the budget and handle a singular G. The released ``do_update_model``
    (``update: true`` without ``refit``) is called by none of its scripts.

    Of a mixture of experts, the experts with the same number in adjacent blocks form a
    group. With ``groups: experts`` it is all experts of one block, whose inputs come
    from the same hidden states; all other matrices are decomposed alone. The paper has
    no experts. Their Gram matrices are those of the tokens that are routed to each.

    Args:
        groups: ``blocks`` shares a basis across adjacent blocks, ``experts`` across the
            experts of a block.
        group_size: Number of adjacent blocks that share a basis; the remaining blocks
            form a last, smaller group.
        shared: Roles that share a basis; the others are decomposed alone.
        remainder: Rank of the smaller last group: ``own`` follows from its own size,
            ``full`` is the rank of a full group, as in the released code.
        refit: ``own_gram`` fits the coefficients of each block to its own Gram matrix
            in closed form, ``L_i = W_i G_i R^T (R G_i R^T)^-1``; ``none`` keeps those
            of the decomposition, which are best for the sum of the Gram matrices.
        update: Fit the coefficients to the inputs of the compressed network: block by
            block with ``refit: own_gram``, else once, with Gram matrices summed over
            the group as in the released code.
        whitening: How G is decomposed: ``eigh`` is exact for every G; ``cholesky``,
            with ``jitter`` where it fails, is what the released code does.
        jitter: The smallest eigenvalue after a failed Cholesky decomposition, on the
            sum over all tokens; for ``cholesky`` only.
    """

    groups: Literal["blocks", "experts"] = "blocks"
    group_size: int = 2
    shared: tuple[str, ...] = ("query", "key", "value", "qkv", "gate", "up")
    remainder: Literal["own", "full"] = "own"
    refit: Literal["none", "own_gram"] = "none"
    update: bool = False
    whitening: Whitening = "eigh"
    jitter: float = 7e-6

    def __post_init__(self) -> None:
        """Check the size of a group.

        Raises:
            ValueError: If ``group_size`` is below 1, or an option is for blocks alone.
        """
        if self.groups == "experts" and self.remainder == "full":
            raise ValueError(
                "remainder: full is for groups of blocks, and with groups: experts "
                "all groups are full: leave one of the two out"
            )
        if self.group_size < 1:
            raise ValueError(f"group_size {self.group_size} is below 1")

    def fit(self, model: Model, ctx: Context) -> dict[Group, Factors]:
        """Decompose each group once; every ratio truncates the same factors."""
        if self.groups == "experts":
            groups = groups_across_experts(model, shared=self.shared)
        else:
            size = self.group_size
            groups = groups_across_blocks(model, size=size, shared=self.shared)
        return factorize_groups(
            model,
            groups,
            whitened(ctx.calibration(), self.whitening, self.jitter, ctx.device),
        )

    def compress(
        self, fitted: dict[Group, Factors], ratio: float, ctx: Context
    ) -> nn.Module:
        """The network with every group at the rank that the ratio leaves."""
        size = self.group_size if self.remainder == "full" else None
        net = truncate_groups(fitted, ratio, ctx, full=size)
        if ratio == 0:
            return net
        # An update replaces the coefficients anyway: it fits them to the inputs of the
        # compressed network instead of the dense one.
        if self.refit == "own_gram" and not self.update:
            _own_gram(net, fitted, ctx)
        if self.update and self.refit == "own_gram":
            update(net, ctx, fitted, inputs="compressed")
        elif self.update:
            pooled_update(net, ctx, fitted)
        return net


def _own_gram(net: nn.Module, fitted: dict[Group, Factors], ctx: Context) -> None:
    """Refit the coefficients to each member's own inputs in the dense model."""
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
