"""Wanda: weights times the norm of what they read (arXiv:2306.11695)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.core import Context, Unsupported
from harness.registry import method
from methods._kernels.low_rank.factors import check_finite, linears, matrix


@method(
    "wanda",
    ratio_of="zeros",
    needs={"linears", "calibration"},
    kinds={"causal_lm"},
    tolerance=0.01,
)
class Wanda:
    """In each row the weights of least ``|w| * ||x||`` become zero, no retraining."""

    def compress(self, fitted: Any, ratio: float, ctx: Context) -> nn.Module:
        """A network of the same shape with exact zeros in place of unfelt weights.

        Args:
            fitted: Nothing.
            ratio: The share of every row to zero, rounded up to whole weights.
            ctx: Of the bundle.

        Returns:
            The network.

        Raises:
            Unsupported: If the ratio leaves nothing of a row.
        """
        net = ctx.dense()
        if ratio == 0:
            return net
        found = ctx.calibration()
        for name in linears(ctx.model):
            weight = matrix(net.get_submodule(name))
            norms = found.gram(name).diagonal().sqrt().to(weight.device)
            check_finite(weight, f"the weight of {name}")
            drop = -int(-ratio * weight.shape[1] // 1)  # rounded up
            if drop >= weight.shape[1]:
                raise Unsupported(
                    f"ratio {ratio} leaves nothing of the {weight.shape[1]} weights in "
                    f"a row of {name}"
                )
            weight.masked_fill_(least(weight.abs() * norms, drop), 0.0)
        return net


def least(scores: Tensor, count: int) -> Tensor:
    """Marks the ``count`` smallest scores of each row.

    >>> least(torch.tensor([[3.0, 1.0, 2.0]]), 2).tolist()
    [[False, True, True]]
    """
    marks = torch.zeros_like(scores, dtype=torch.bool)
    lowest = scores.topk(count, dim=1, largest=False, sorted=False).indices
    return marks.scatter_(1, lowest, True)
