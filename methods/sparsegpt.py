"""SparseGPT: prunes by columns, later columns make up for it (arXiv:2301.00774)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from harness.core import Context, Unsupported
from harness.registry import method
from methods._kernels.column_solver import bounds, inverse_factor, solve
from methods._kernels.low_rank.factors import matrix, refuse_tied
from methods._kernels.patterns import Pattern, fixed_ratio, least, parse, share
from methods._kernels.prefix import behind_prefix, gram_of
from methods._kernels.rounded import matrices

Threshold = Literal["exact", "released"]


@method(
    "sparsegpt",
    ratio_of="zeros",
    needs={"linears", "calibration"},
    kinds={"causal_lm"},
    tolerance=0.01,
)
class SparseGpt:
    """Sets weights to zero and corrects the others, so that outputs change least.

    For a matrix W with inputs x, let ``G = mean(x x^T)`` and
    ``R^T R = (G + d I)^-1`` with R upper triangular; d is ``damping`` times the mean of
    the diagonal of G. The columns of W are treated from left to right. Setting the
    weight w of column j to zero costs ``w^2 / R_jj^2``, if the later weights of its row
    are corrected in the best way, ``w_k -= (w / R_jj) R_jk`` for k > j. In each block
    of ``blocksize`` columns the share ``ratio`` of the weights with the smallest costs
    is chosen when the block is reached, over all rows together, rounded up to whole
    weights.

    The blocks of the network are pruned in order, and x are the inputs behind the
    pruned blocks. Inputs that are always zero (dead channels) get weights of zero.
    Embeddings, norms, biases and the head stay as they are, and the network keeps its
    shape: the ratio is a share of zeros, not of parameters. Defaults are those of the
    paper: blocks of 128 columns and a damping of 1 %.

    With ``pattern: "2:4"`` two of every four neighbours in a row stay, chosen when the
    first of them is reached. The ratio is then fixed to 0.5.

    The paper is arXiv:2301.00774. Differences from the released code
    (IST-DASLab/sparsegpt at 147d2159): it removes every weight whose cost is at most
    that of the first weight to keep, so one weight more per block of columns
    (``threshold: released``); a dead channel counts as 1 in the mean of the diagonal,
    whatever the unit of the inputs, and here it does not count; Cholesky
    decompositions are in float64 here, in float32 there.

    Args:
        pattern: ``"n:m"`` keeps n of every m neighbours in a row, such as ``"2:4"`` or
            ``"4:8"`` (in quotes); None prunes without a pattern.
        blocksize: Number of columns for which weights are chosen together.
        damping: Share of the mean of the diagonal of G that is added to it.
        threshold: ``exact``, or ``released`` for one more weight per block of columns.
    """

    pattern: str | None = None
    blocksize: int = 128
    damping: float = 0.01
    threshold: Threshold = "exact"

    def __post_init__(self) -> None:
        """Check the options together.

        Raises:
            ValueError: If one is out of range, or does not go with the pattern.
        """
        pattern, errors = self._pattern(), []
        if self.blocksize < 1:
            errors.append(f"blocksize {self.blocksize} is below 1")
        # A group across two blocks would be chosen before the corrections of its first
        # block reach its last columns.
        elif pattern is not None and self.blocksize % pattern.group:
            errors.append(
                f"blocksize {self.blocksize} is not a multiple of {pattern.group}, the "
                f"second number of pattern {self.pattern!r}"
            )
        if not 0 <= self.damping < float("inf"):
            errors.append(f"damping {self.damping} is not 0 or more")
        if pattern is not None and self.threshold != "exact":
            errors.append(
                f"threshold: {self.threshold} has no meaning with pattern "
                f"{self.pattern!r}: leave one of the two out"
            )
        if errors:
            raise ValueError("; ".join(errors))

    def _pattern(self) -> Pattern | None:
        return None if self.pattern is None else parse(self.pattern)

    def ratios(self, dtype: str = "float32") -> tuple[float, ...] | None:
        """The ratio that the pattern fixes; None without a pattern."""
        pattern = self._pattern()
        return None if pattern is None else (pattern.ratio,)

    def compress(self, fitted: Any, ratio: float, ctx: Context) -> nn.Module:
        """A network of the same shape, with zeros and corrected weights.

        Args:
            fitted: None; the method has no ``fit``.
            ratio: The share of the weights to set to zero, in [0, 1).
            ctx: Gives the dense network and the calibration text.

        Returns:
            The network, with zeros in the place of the chosen weights.

        Raises:
            Unsupported: If the ratio leaves no weight in a block of columns, or the
                pattern does not fit a matrix.
        """
        net = ctx.dense()
        if ratio == 0:
            return net
        pattern = self._pattern()
        fixed_ratio(pattern, ratio)
        names = matrices(ctx, net)  # also the factors that a low-rank method left
        refuse_tied(names)
        for name, module in names.items():
            if pattern is not None:
                pattern.check(matrix(module).shape[1], name)
        for name, seen in behind_prefix(net, ctx, names):
            # A view of the parameter, transposed for GPT-2: `copy_` writes the result
            # into it.
            weight = matrix(net.get_submodule(name))
            factor, dead = inverse_factor(gram_of(seen, name), self.damping, name)
            # Solved in float32: in half precision the corrections of many columns would
            # be rounded away.
            weight.copy_(self._pruned(weight.float(), factor, dead, ratio, name))
        return net

    def _pruned(
        self, weight: Tensor, factor: Tensor, dead: Tensor, ratio: float, name: str
    ) -> Tensor:
        weight = weight.masked_fill(dead.to(weight.device), 0)
        rule = Chooser(
            diagonal=factor.diagonal().to(weight),
            ratio=ratio,
            blocksize=self.blocksize,
            pattern=self._pattern(),
            threshold=self.threshold,
            name=name,
        )
        return solve(weight, factor, rule, bounds(weight.shape[1], self.blocksize))


@dataclass(slots=True, kw_only=True)
class Chooser:
    """The rule of SparseGPT: which weights of a column become zero.

    Args:
        diagonal: Of the factor R, shape ``(in,)``.
        ratio: The share of each block of columns that becomes zero.
        blocksize: Number of columns for which weights are chosen together.
        pattern: The pattern of the zeros; None for the share alone.
        threshold: As the option of the method.
        name: The matrix, for the messages.
    """

    diagonal: Tensor
    ratio: float
    blocksize: int
    pattern: Pattern | None = None
    threshold: Threshold = "exact"
    name: str = "a matrix"
    _zeros: Tensor = field(init=False)
    _first: int = field(init=False)

    def block(self, first: int, weights: Tensor) -> None:
        """Choose the weights of a block, unless a pattern chooses them later."""
        if self.pattern is None:
            self._choose(first, weights[:, : self.blocksize])

    def column(self, index: int, weights: Tensor) -> Tensor:
        """The column with zeros where a weight was chosen."""
        if self.pattern is not None and index % self.pattern.group == 0:
            # The weights have the corrections of all columns before: the pattern is
            # chosen as late as possible.
            self._choose(index, weights[:, : self.pattern.group])
        return weights[:, 0].masked_fill(self._zeros[:, index - self._first], 0)

    def _choose(self, first: int, weights: Tensor) -> None:
        # w^2 / R_jj^2
        cost = (weights / self.diagonal[first : first + weights.shape[1]]) ** 2
        self._first = first
        if self.pattern is not None:
            self._zeros = self.pattern.smallest(cost)
            return
        flat = cost.flatten()
        # Over all rows of the block together: rows may differ in their number of zeros.
        count = share(len(flat), self.ratio)
        if count >= len(flat):
            raise Unsupported(
                f"ratio {self.ratio} leaves nothing of the {len(flat)} weights of "
                f"columns {first} to {first + weights.shape[1] - 1} of {self.name}"
            )
        if self.threshold == "released":
            # The lowest cost that should stay; `<=` removes its weight too.
            limit = flat.sort().values[int(len(flat) * self.ratio)]
            self._zeros = cost <= limit
        else:
            self._zeros = least(flat[None], count).view_as(cost)
