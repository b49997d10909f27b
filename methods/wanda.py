"""Wanda: prunes by weight times the norm of its input (arXiv:2306.11695)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness.core import Context, Unsupported
from harness.registry import method
from methods._kernels.low_rank.factors import (
    check_finite,
    linears,
    matrix,
    refuse_tied,
)
from methods._kernels.patterns import Pattern, fixed_ratio, least, parse, share
from methods._kernels.prefix import behind_prefix, norms_of
from methods._kernels.rounded import matrices


@method(
    "wanda",
    ratio_of="zeros",
    needs={"linears", "calibration"},
    kinds={"causal_lm"},
    tolerance=0.01,
    version=2,
)
class Wanda:
    """Sets to zero the weights that change the outputs of a layer least.

    The score of the weight from input j to output i is ``S_ij = |W_ij| ||x_j||``, with
    ``||x_j||`` the Euclidean norm of input channel j over all calibration tokens. The
    weights of each row i, that is of each output, compete with each other: the share
    ``ratio`` with the smallest scores becomes zero, rounded up to whole weights.
    The blocks are pruned in order, and the norms are those behind the pruned blocks,
    as in the paper. Nothing is trained afterwards. Embeddings, norms, biases and the
    head stay as they are, and the network keeps its shape: the ratio is a share of
    zeros, not of parameters.

    With ``pattern: "2:4"`` the weights of each group of four neighbours in a row
    compete, and two of them stay. The ratio is then fixed to 0.5.

    The paper is arXiv:2306.11695. The released code (locuslab/wanda at 8e8fc87) rounds
    the number of zeros down. Its ``prune_n`` counts the weights of a group that become
    zero; here the first number of a pattern counts those that stay. Its ``use_variant``
    is ``rows: cumulative``: it sorts the scores of each row and sums them up; the
    weights where the sum is the smallest share of the total of their row become zero,
    so that rows differ in the number of their zeros. The released code searches the
    threshold by bisection to within 0.001 of the ratio; here it is exact.

    Args:
        pattern: ``"n:m"`` keeps n of every m neighbours in a row, such as ``"2:4"`` or
            ``"4:8"`` (in quotes); None prunes rows without a pattern.
        rows: ``equal`` sets the same number of weights of every row to zero;
            ``cumulative`` is the variant above.
        inputs: Whether the norms are those of the network whose earlier blocks are
            ``pruned``, or of the ``dense`` network.
    """

    pattern: str | None = None
    rows: Literal["equal", "cumulative"] = "equal"
    inputs: Literal["pruned", "dense"] = "pruned"

    def __post_init__(self) -> None:
        """Check the pattern.

        Raises:
            ValueError: If it is malformed, or if ``rows`` is given with it.
        """
        if self._pattern() is not None and self.rows != "equal":
            raise ValueError(
                f"rows: {self.rows} does not go with pattern {self.pattern!r}, which "
                "fixes the zeros of every row: leave one of the two out"
            )

    def _pattern(self) -> Pattern | None:
        return None if self.pattern is None else parse(self.pattern)

    def ratios(self, dtype: str = "float32") -> tuple[float, ...] | None:
        """The ratio that the pattern fixes; None without a pattern."""
        pattern = self._pattern()
        return None if pattern is None else (pattern.ratio,)

    def compress(self, fitted: Any, ratio: float, ctx: Context) -> nn.Module:
        """A network of the same shape with zeros in place of the lowest scores.

        Args:
            fitted: None; the method has no ``fit``.
            ratio: The share of the weights to set to zero, in [0, 1).
            ctx: Gives the dense network and the calibration text.

        Returns:
            The network, with zeros in the place of the lowest scores.

        Raises:
            Unsupported: If the ratio leaves no weight in a row, or the pattern does
                not fit a matrix.
        """
        net = ctx.dense()
        if ratio == 0:
            return net
        pattern = self._pattern()
        fixed_ratio(pattern, ratio)
        modules = self._modules(net, ctx)
        for name, module in modules.items():
            weight = matrix(module)
            if pattern is not None:
                pattern.check(weight.shape[1], name)
            elif share(weight.shape[1], ratio) >= weight.shape[1]:
                raise Unsupported(
                    f"ratio {ratio} leaves nothing of the {weight.shape[1]} weights in "
                    f"a row of {name}"
                )
        for name, norms in self._norms(net, ctx, modules):
            weight = matrix(net.get_submodule(name))
            scores = weight.float().abs() * norms.to(weight.device)  # S_ij, (out, in)
            # In place: `weight` is a view of the parameter.
            weight.masked_fill_(self._smallest(scores, ratio), 0.0)
        return net

    def _smallest(self, scores: Tensor, ratio: float) -> Tensor:
        pattern = self._pattern()
        if pattern is not None:
            return pattern.smallest(scores)
        if self.rows == "equal":
            return least(scores, share(scores.shape[1], ratio))
        return least_mass(scores, share(scores.numel(), ratio))

    def _modules(self, net: nn.Module, ctx: Context) -> Mapping[str, nn.Module]:
        # Statistics of the dense network know nothing of the inputs of thin factors.
        found = linears(ctx.model) if self.inputs == "dense" else matrices(ctx, net)
        refuse_tied(found)
        for name, module in found.items():
            check_finite(matrix(module), f"the weight of {name}")
        return found

    def _norms(
        self, net: nn.Module, ctx: Context, names: Iterable[str]
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield each matrix with the scale of its inputs; equal to norms up to one."""
        if self.inputs == "dense":
            found = ctx.calibration()
            for name in names:
                yield name, found.gram(name).diagonal().sqrt()
        else:
            # Root mean squares instead of norms: a common factor in a matrix changes no
            # ranking.
            for name, seen in behind_prefix(net, ctx, names):
                yield name, norms_of(seen, name).float()


def least_mass(scores: Tensor, count: int) -> Tensor:
    """Mark the weights below a share of the total score of their row.

    Args:
        scores: Shape ``(rows, width)``, not negative.
        count: Number of weights to mark in the matrix, from 0 to all.

    Returns:
        Boolean, of the shape of ``scores``. In each row the marked scores are the
        smallest; their sum is about the same share of the total in every row.

    >>> least_mass(torch.tensor([[1.0, 1.0, 8.0], [5.0, 5.0, 5.0]]), 2).tolist()
    [[True, True, False], [False, False, False]]
    """
    ordered, order = scores.double().sort(dim=1, stable=True)
    total = ordered.sum(1, keepdim=True)
    # A row of zeros has no total; all of its weights go first.
    shares = ordered.cumsum(1) / total.where(total > 0, 1.0)
    # One threshold for the shares of all rows. Shares grow along a row, so that the
    # marked weights are the smallest of their row.
    marks = least(shares.flatten()[None], count).view_as(shares)
    # Back from sorted positions to columns.
    return torch.zeros_like(marks).scatter_(1, order, marks)
