"""Optimal brain surgeon, column by column: the solver of SparseGPT and GPTQ."""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from harness.core import Unsupported


class Rule(Protocol):
    """Decides which value each weight of a column gets."""

    def block(self, first: int, weights: Tensor) -> None:
        """Prepare for the columns from ``first`` on.

        Args:
            first: Index of the first column of a block.
            weights: The columns from ``first`` to the last one of the matrix with the
                corrections so far, shape ``(out, in - first)``.
        """

    def column(self, index: int, weights: Tensor) -> Tensor:
        """The new values of a column.

        Args:
            index: Number of the column in the order of treatment, from 0.
            weights: The columns from ``index`` to the end of the block with the
                corrections so far, shape ``(out, k)``.

        Returns:
            The values that replace the first column of ``weights``, shape ``(out,)``.
        """


def inverse_factor(gram: Tensor, damping: float, name: str) -> tuple[Tensor, Tensor]:
    """Factor the inverse of a damped Gram matrix: ``R^T R = (G + d I)^-1``.

    Args:
        gram: G, the mean of ``x x^T`` over the inputs, shape ``(in, in)``.
        damping: d as a share of the mean of the diagonal of G, not negative.
        name: The matrix, for the messages.

    Returns:
        R, upper triangular, float64; and the channels whose input is always zero, shape
        ``(in,)``, boolean. These channels take no part in the mean. On the diagonal of
        G they count as an average channel, so that they affect no other channel.

    Raises:
        Unsupported: If all inputs are zero, or G is singular and the damping too small.
    """
    damped = gram.double().clone()
    # A view: what is written to the diagonal below changes `damped`.
    diagonal = damped.diagonal()
    dead = diagonal == 0
    if bool(dead.all()):
        raise Unsupported(
            f"the inputs of {name} are all zero on the calibration text; use another "
            "text, or leave this model out"
        )
    mean = diagonal[~dead].mean()
    diagonal[dead] = mean
    diagonal += damping * mean
    # The `_ex` form returns a code where `cholesky` raises, so that both factorisations
    # share one message.
    lower, failed = torch.linalg.cholesky_ex(damped)
    if not failed:
        inverse = torch.cholesky_inverse(lower)
        # Row j of the upper factor is row j of the inverse that is left once the
        # columns before j are fixed, over the root of its diagonal. The factor thus
        # replaces one update of the inverse for each column (GPTQ, arXiv:2210.17323,
        # section 3, step 3).
        upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
    if failed:
        raise Unsupported(
            f"the Gram matrix of the inputs of {name} is singular with damping "
            f"{damping}: set damping to 0.01, or calibrate on more tokens than the "
            f"{len(gram)} input channels"
        )
    return upper, dead


def bounds(width: int, *steps: int) -> list[int]:
    """Where blocks start: at each multiple of each step; and the end of the last one.

    >>> bounds(10, 4, 6)
    [0, 4, 6, 8, 10]
    """
    return sorted({start for step in steps for start in range(0, width, step)}) + [
        width
    ]


def solve(weight: Tensor, factor: Tensor, rule: Rule, blocks: list[int]) -> Tensor:
    """Replace the columns in order; later columns make up for the errors so far.

    With R the factor, column j gets the values ``q`` of the rule. The error
    ``e = (w_j - q) / R_jj`` is spread over the later columns: ``w_k -= e R_jk``. For
    the given q this is the least squared error of the outputs that the later columns
    can reach. Columns of a block are corrected at once, those behind it when the block
    ends; without rounding errors the division into blocks changes no value.

    Args:
        weight: Shape ``(out, in)``, float32 or float64.
        factor: R, upper triangular, shape ``(in, in)``; see ``inverse_factor``.
        rule: Gives the new values q of each column, in order; it sees the corrections
            so far.
        blocks: First column of each block, in order, and the number of columns, from
            ``bounds``.

    Returns:
        The new weight, in the dtype of ``weight``.
    """
    # Transposed, so that the loop reads and writes rows, which are contiguous.
    left = weight.T.clone(memory_format=torch.contiguous_format)  # (in, out)
    made = torch.empty_like(left)
    factor = factor.to(left)
    # Updates in blocks: without them every column would update the whole rest of the
    # matrix, which is limited by memory traffic (GPTQ's lazy batch updates).
    for first, last in pairwise(blocks):
        rule.block(first, left[first:].T)
        errors = torch.empty_like(left[first:last])  # (block, out): e of each column
        for index in range(first, last):
            made[index] = rule.column(index, left[index:last].T)
            error = (left[index] - made[index]) / factor[index, index]  # (out,)
            row = factor[index, index + 1 : last]
            # Within the block at once: `w_k -= e R_jk` as an outer product.
            left[index + 1 : last].addr_(row, error, alpha=-1)
            errors[index - first] = error
        # Behind the block: the same sum over its columns as one product, (rest, out).
        left[last:] -= factor[first:last, last:].T @ errors
    return made.T.contiguous()
