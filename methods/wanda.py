"""Wanda: prunes by weight times the norm of its input (arXiv:2306.11695)."""

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
    """Sets to zero the weights that change the outputs of a layer least.

    The score of the weight from input j to output i is ``S_ij = |W_ij| ||x_j||``, with
    ``||x_j||`` the Euclidean norm of input channel j over all calibration tokens. In
    each row i, that is for each output, the share ``ratio`` of the weights with the
    smallest scores becomes zero, rounded up to whole weights. Nothing is trained
    afterwards. Embeddings, norms, biases and the head stay as they are, and the network
    keeps its shape: the ratio is a share of zeros, not of parameters.

    It has no options. The paper is arXiv:2306.11695. Differences from the released code
    (locuslab/wanda at 8e8fc87): the norms are those of the dense network, whereas the
    released code recomputes them behind each pruned block; and the number of zeros is
    rounded up, where it rounds down.
    """

    def compress(self, fitted: Any, ratio: float, ctx: Context) -> nn.Module:
        """A network of the same shape with zeros in place of the lowest scores.

        Args:
            fitted: None; the method has no ``fit``.
            ratio: The share of each row to set to zero, in [0, 1).
            ctx: Gives the dense network and the calibration statistics.

        Returns:
            The network.

        Raises:
            Unsupported: If the ratio leaves no weight in a row.
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
    """A mask of the ``count`` smallest scores in each row, of the shape of ``scores``.

    >>> least(torch.tensor([[3.0, 1.0, 2.0]]), 2).tolist()
    [[False, True, True]]
    """
    marks = torch.zeros_like(scores, dtype=torch.bool)
    lowest = scores.topk(count, dim=1, largest=False, sorted=False).indices
    return marks.scatter_(1, lowest, True)
