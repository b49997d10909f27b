"""Random projections of every matrix: the baseline of low-rank methods."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from harness.core import Context
from harness.registry import method
from methods._kernels.low_rank.factors import (
    Factors,
    Group,
    checked_rank,
    linears,
    matrix,
)
from methods._kernels.low_rank.uniform import truncate_groups


@method("random_low_rank", ratio_of="weights", needs={"linears"}, stochastic=True)
class RandomLowRank:
    """Projects the outputs of each matrix onto random directions.

    For a weight W of shape ``(out, in)``, Q holds k random orthonormal columns of
    length ``out`` (uniform over all subspaces), and W becomes ``Q (Q^T W)``: of all
    approximations with that column space the nearest. On average it keeps the share
    ``k / out`` of ``||W||^2``. The rank is that of ``svd``:
    ``k = floor((1 - ratio) out in / (out + in))``.

    A method that chooses its directions has to beat this one.
    """

    def compress(self, fitted: Any, ratio: float, ctx: Context) -> nn.Module:
        """The network with every matrix projected.

        Args:
            fitted: None; the method has no ``fit``.
            ratio: The share of the weights to remove, in [0, 1).
            ctx: Gives the dense network and the random directions.

        Returns:
            A network with two thin layers in place of each matrix.
        """
        if ratio == 0:
            return ctx.dense()
        modules = linears(ctx.model)
        made = {}
        for name, module in modules.items():
            group = Group((name,))
            rank = checked_rank(modules, group, ratio)
            rows = matrix(module).shape[0]
            drawn = torch.randn(
                rows, rank, generator=ctx.stream(name), dtype=torch.float64
            )
            # The column space of a Gaussian matrix is uniform over all subspaces, since
            # its distribution does not change under rotations.
            left = torch.linalg.qr(drawn).Q.float()
            # Without a right factor `truncate` computes Q^T W itself.
            made[group] = Factors(left, None, torch.zeros(rank, dtype=torch.float64))
        return truncate_groups(made, ratio, ctx)
