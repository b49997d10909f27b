"""GPTQ: rounds by columns, later columns make up for it (arXiv:2210.17323)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harness.core import Context
from harness.registry import method
from harness.toolkit.saved_model import replace
from methods._kernels.column_solver import bounds, inverse_factor, solve
from methods._kernels.integer_grid import Bits, Grid, Levels, fit_grid, in_groups
from methods._kernels.low_rank.factors import matrix
from methods._kernels.prefix import behind_prefix, gram_of
from methods._kernels.rounded import (
    Rounded,
    check_group_size,
    matrices,
    removed_bits,
    rounded_layer,
)

_BLOCK = 128  # columns that are corrected at once; a matter of speed alone


@method(
    "gptq",
    ratio_of="bits",
    needs={"linears", "calibration"},
    kinds={"causal_lm"},
)
class Gptq:
    """Rounds weights one column after the other and corrects the later ones.

    For a matrix W with inputs x, let ``G = mean(x x^T)`` and
    ``R^T R = (G + d I)^-1`` with R upper triangular; d is ``damping`` times the mean of
    the diagonal of G. The columns are treated from left to right. Each weight w of
    column j becomes the nearest value q of the grid of its group, and the later weights
    of its row are corrected in the best way: ``w_k -= (w - q) / R_jj R_jk`` for k > j.

    A group is ``group_size`` neighbours of a row. With b the number of bits its grid is
    ``s (c - z)`` for codes c from 0 to ``2^b - 1``, with ``s = (max w - min w) /
    (2^b - 1)`` (max at least 0, min at most 0) and ``z = round(-min w / s)``. It is
    fixed when its first column is reached, from the corrected weights. With
    ``symmetric`` the grid is ``s c`` for c from ``-2^(b-1)`` to ``2^(b-1) - 1`` and
    ``s = 2 max |w| / (2^b - 1)``, without a zero point.

    The blocks of the network are rounded in order, and x are the inputs behind the
    rounded blocks. Weights of inputs that are always zero become zero. Embeddings,
    norms, biases and the head stay as they are. By default weights have 4 bits in
    groups of 128 with zero points, in the given order, with a damping of 1 %. The
    method has a single ratio, the share of bits removed from a weight; scales, zero
    points and the order of columns count in the achieved ratio. In a chain the thin
    factors are rounded; a factor that several blocks share is fitted to the inputs of
    the first one, and zeros of a pruned network do not stay zeros.

    The paper is arXiv:2210.17323. Differences from the released code (IST-DASLab/gptq
    at 2d65066e): for groups of less than 128 columns it takes the grid from weights
    without the corrections of the last columns, up to 127, here from all of them; its
    symmetric grid of a row without negative weights clips the larger half of them,
    here it does not; a dead channel counts as 1 in the mean of the diagonal, whatever
    the unit of the inputs, here it does not count; Cholesky decompositions are in
    float64 here. Its ``mse`` and ``true_sequential`` are not available.

    Args:
        bits: Bits per weight: 8, 4, 3 or 2.
        group_size: Number of weights in a row that share a scale; None for a whole row.
            If it does not divide the width, the last group of a row is smaller.
        symmetric: Whether to leave the zero points out.
        act_order: Whether to treat columns in the order of the mean squares of their
            inputs, largest first. Groups then hold neighbours in this order, which is
            stored with 2 bytes per column.
        static_groups: Whether to fix all grids before the first column, from the
            weights as given. Groups then hold neighbours in the given order.
        damping: Share of the mean of the diagonal of G that is added to it.
    """

    bits: Bits = 4
    group_size: int | None = 128
    symmetric: bool = False
    act_order: bool = False
    static_groups: bool = False
    damping: float = 0.01

    def __post_init__(self) -> None:
        """Check the size of a group and the damping.

        Raises:
            ValueError: If one is out of range.
        """
        check_group_size(self.group_size)
        if not 0 <= self.damping < float("inf"):
            raise ValueError(f"damping {self.damping} is not 0 or more")

    def ratios(self, dtype: str = "float32") -> tuple[float, ...]:
        """The share of bits removed from a weight of a dtype."""
        return (removed_bits(self.bits, dtype),)

    def compress(self, fitted: Any, ratio: float, ctx: Context) -> nn.Module:
        """The network with every matrix rounded.

        Args:
            fitted: None; the method has no ``fit``.
            ratio: 0 for the dense network; any other value means the bits of the
                options.
            ctx: Gives the dense network and the calibration text.

        Returns:
            A network whose matrices are stored as codes and scales.
        """
        net = ctx.dense()
        if ratio == 0:
            return net
        modules = matrices(ctx, net)
        for name, seen in behind_prefix(net, ctx, modules):
            made = self.rounded(modules[name], gram_of(seen, name), name)
            net = replace(net, name, made)
        return net

    def rounded(self, module: nn.Module, gram: Tensor, name: str) -> Rounded:
        """A rounded copy of a linear layer.

        Args:
            module: A linear layer, or GPT-2's transposed one.
            gram: The mean of ``x x^T`` over its inputs, shape ``(in, in)``.
            name: The layer, for the messages.

        Returns:
            The layer, with scales in the dtype of the weight.
        """
        weight = matrix(module).float().clone()
        gram = gram.to(weight.device)
        width = weight.shape[1]
        size = min(self.group_size or width, width)
        order = torch.arange(width, device=weight.device)
        if self.act_order:
            order = gram.diagonal().argsort(descending=True, stable=True)
        # In the order of treatment: R depends on it, since column j is corrected for
        # the columns before it. `dead` counts in this order too.
        factor, dead = inverse_factor(gram[order][:, order], self.damping, name)
        # An input that is always zero makes its weights free: 0 costs nothing.
        weight[:, order[dead]] = 0
        levels: Levels = "full" if self.symmetric else "asymmetric"
        dtype = matrix(module).dtype
        rule = Rounder(
            order=order, bits=self.bits, size=size, levels=levels, dtype=dtype
        )
        if self.static_groups:
            # From the weights before any correction, in the given order of columns.
            rule.static = fit_grid(in_groups(weight, size), self.bits, levels, dtype)
        # The rule records the codes; the rounded values that `solve` returns are not
        # needed.
        # A block starts at each multiple of the group size, so that a group's grid is
        # fitted after all corrections by earlier groups.
        solve(weight[:, order], factor, rule, bounds(width, _BLOCK, size))
        codes, grid = rule.finished()
        # Only groups of neighbours in the new order need this order in the file. Static
        # groups are groups of the given order, and a whole row is one group in any
        # order.
        kept = self.act_order and not self.static_groups and size < width
        if not kept:  # back to the order of the columns
            codes = torch.empty_like(codes).index_copy_(1, order, codes)
        return rounded_layer(
            module,
            codes,
            grid,
            group_size=size,
            order=order if kept else None,
        )


@dataclass(slots=True, kw_only=True)
class Rounder:
    """The rule of GPTQ: the nearest value of the grid of a column's group.

    Args:
        order: The column of the weight that each treated column is, shape ``(in,)``.
        bits: Bits of a code, 2 to 8.
        size: Number of columns in a group, which share a scale for each row.
        levels: Which values the codes stand for.
        dtype: The dtype of stored scales.
        static: Grids of shape ``(out, groups)`` fixed before; None to fit each grid
            when its group is reached.
    """

    order: Tensor
    bits: int
    size: int
    levels: Levels
    dtype: torch.dtype
    static: Grid | None = None
    _grids: list[Grid] = field(default_factory=list)
    _codes: list[Tensor] = field(default_factory=list)

    def block(self, first: int, weights: Tensor) -> None:
        """Fit the grid of the group that starts here, if one does."""
        if self.static is None and first % self.size == 0:
            group = weights[:, : self.size]
            # A row of the last group may be shorter: the slice ends with the matrix.
            self._grids.append(fit_grid(group, self.bits, self.levels, self.dtype))

    def column(self, index: int, weights: Tensor) -> Tensor:
        """The rounded values of a column; remembers their codes."""
        if self.static is None:
            grid = self._grids[-1]
        else:
            # The group of the column in the given order.
            grid = _part(self.static, int(self.order[index]) // self.size)
        self._codes.append(grid.codes(weights[:, 0]))
        return grid.nearest(weights[:, 0])

    def finished(self) -> tuple[Tensor, Grid]:
        """Codes of shape ``(out, in)`` in the treated order, and the grids."""
        codes = torch.stack(self._codes, 1)
        if self.static is not None:
            return codes, self.static
        first = self._grids[0]
        zeros = [grid.zero for grid in self._grids if grid.zero is not None]
        return codes, Grid(
            torch.stack([grid.scale for grid in self._grids], 1),
            torch.stack(zeros, 1) if zeros else None,
            first.low,
            first.high,
        )


def _part(grid: Grid, group: int) -> Grid:
    zero = None if grid.zero is None else grid.zero[:, group]
    return Grid(grid.scale[:, group], zero, grid.low, grid.high)
