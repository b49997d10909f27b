"""Rounding of weights to 8, 4, 3 or 2 bits (the baseline RTN of arXiv:2210.17323)."""

from __future__ import annotations

from typing import Any

from torch import nn

from harness.core import Context
from harness.registry import method
from harness.toolkit.saved_model import replace
from methods._kernels.integer_grid import Bits, Levels, fit_grid, in_groups
from methods._kernels.low_rank.factors import matrix
from methods._kernels.rounded import (
    Rounded,
    check_group_size,
    matrices,
    removed_bits,
    rounded_layer,
)


@method("round_to_nearest", ratio_of="bits", needs={"linears"}, version=2)
class RoundToNearest:
    """Rounds every weight to the nearest of a few evenly spaced values.

    A group of weights w of one row shares the scale ``s = max |w| / (2^(b - 1) - 1)``
    with b the number of bits. Each weight is stored as the integer ``q = round(w / s)``
    and used as ``s q``, so that it is off by ``s / 2`` at most. With 2 bits these are
    three values: -s, 0 and s. Without ``symmetric`` the scale is
    ``s = (max w - min w) / (2^b - 1)``, where max is at least 0 and min at most 0, and
    the weight ``s (q - z)`` with the zero point ``z = round(-min w / s)``, an integer
    that is stored for each group.

    Activations are not rounded, and the products run in the dtype of the network. In a
    chain after a low-rank method the thin factors are rounded.

    By default weights have 8 bits, each row has one scale, and there are no zero
    points. The method has a single ratio, the share of bits removed from a weight: 0.75
    for 8 bits of a float32 network, 0.5 of a half-precision one. Scales and zero points
    count in the achieved ratio.

    It is the baseline called RTN of the papers on quantisation (arXiv:2210.17323). The
    code of these papers rounds with zero points, which is ``symmetric: false``.

    Args:
        bits: Bits per weight: 8, 4, 3 or 2.
        group_size: Number of weights in a row that share a scale; None for a whole row.
            If it does not divide the width, the last group of a row is smaller.
        symmetric: Whether there are as many values above zero as below, without a zero
            point.
    """

    bits: Bits = 8
    group_size: int | None = None
    symmetric: bool = True

    def __post_init__(self) -> None:
        """Check the size of a group.

        Raises:
            ValueError: If ``group_size`` is below 1.
        """
        check_group_size(self.group_size)

    def ratios(self, dtype: str = "float32") -> tuple[float, ...]:
        """The share of bits removed from a weight of a dtype."""
        return (removed_bits(self.bits, dtype),)

    def compress(self, fitted: Any, ratio: float, ctx: Context) -> nn.Module:
        """The network with every matrix rounded.

        Args:
            fitted: None; the method has no ``fit``.
            ratio: 0 for the dense network; any other value means the bits of the
                options.
            ctx: Gives the dense network.

        Returns:
            A network whose matrices are stored as codes and scales.
        """
        net = ctx.dense()
        if ratio == 0:
            return net
        levels: Levels = "narrow" if self.symmetric else "asymmetric"
        for name, module in matrices(ctx, net).items():
            made = rounded(module, self.bits, self.group_size, levels)
            net = replace(net, name, made)
        return net


def rounded(
    module: nn.Module, bits: int, group_size: int | None, levels: Levels = "narrow"
) -> Rounded:
    """A rounded copy of a linear layer.

    Args:
        module: A linear layer, or GPT-2's transposed one.
        bits: Bits per weight, 2 to 8.
        group_size: Number of weights in a row that share a scale; None for a whole row.
        levels: Which values the codes stand for.

    Returns:
        The layer, with scales in the dtype of the weight; no weight is off by more than
        half a scale, but for the rounding of the dtype.
    """
    # In float32: a half-precision quotient is off by more than half an integer at 127.
    weight = matrix(module).float()
    size = min(group_size or weight.shape[1], weight.shape[1])
    groups = in_groups(weight, size)
    grid = fit_grid(groups, bits, levels, matrix(module).dtype)
    codes = grid.codes(groups).flatten(1)[:, : weight.shape[1]]
    return rounded_layer(module, codes, grid, group_size=size)
