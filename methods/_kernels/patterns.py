"""Semi-structured sparsity: at most n of every m consecutive weights of a row."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.core import Unsupported


@dataclass(frozen=True, slots=True)
class Pattern:
    """Of every ``group`` consecutive weights of a row, ``kept`` stay.

    Args:
        kept: Weights that stay, from 1 to ``group - 1``.
        group: Weights of one group.
    """

    kept: int
    group: int

    @property
    def ratio(self) -> float:
        """The share of weights that become zero."""
        return 1 - self.kept / self.group

    def check(self, width: int, name: str) -> None:
        """Check that the groups cover the rows of a matrix.

        Args:
            width: Number of weights in a row, which is the number of inputs.
            name: The matrix, for the message.

        Raises:
            Unsupported: If ``width`` is not a multiple of the size of a group.
        """
        if width % self.group:
            raise Unsupported(
                f"pattern {self.kept}:{self.group} does not fit {name}: its rows have "
                f"{width} weights, which is not a multiple of {self.group}; choose a "
                "pattern whose second number divides the width, or a ratio instead"
            )

    def smallest(self, scores: Tensor) -> Tensor:
        """Mark the scores of each group that do not stay.

        Args:
            scores: Shape ``(rows, width)``; ``width`` is a multiple of ``group``.

        Returns:
            Boolean, of the shape of ``scores``, true for the smallest scores.

        >>> scores = torch.tensor([[4.0, 1.0, 2.0, 3.0]])
        >>> Pattern(2, 4).smallest(scores).tolist()
        [[False, True, True, False]]
        """
        groups = scores.reshape(-1, self.group)
        return least(groups, self.group - self.kept).view_as(scores)


def parse(text: str) -> Pattern:
    """Read a pattern such as ``2:4``.

    Args:
        text: Two whole numbers with a colon between them.

    Returns:
        The pattern, of which ``n`` is ``kept`` and ``m`` is ``group``.

    Raises:
        ValueError: If it is not two numbers ``n:m`` with 0 < n < m.
    """
    # At most four digits, so that a typing error is not taken for a group of millions.
    found = re.fullmatch(r"([0-9]{1,4}):([0-9]{1,4})", text)
    kept, group = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 < kept < group:
        raise ValueError(
            f"pattern {text!r} is not 'n:m' with 0 < n < m, such as '2:4', which keeps "
            "2 of every 4 weights (write it in quotes: YAML reads 2:4 as a time)"
        )
    return Pattern(kept, group)


def fixed_ratio(pattern: Pattern | None, ratio: float) -> None:
    """Check that a trial asks for the ratio of its pattern.

    Args:
        pattern: None if the method has no pattern.
        ratio: The share of weights to set to zero.

    Raises:
        Unsupported: If the pattern gives another ratio.
    """
    if pattern is not None and abs(pattern.ratio - ratio) > 1e-9:
        raise Unsupported(
            f"pattern {pattern.kept}:{pattern.group} sets {pattern.ratio} of the "
            f"weights to zero, not {ratio}: leave the ratio out"
        )


def least(scores: Tensor, count: int) -> Tensor:
    """Mark the ``count`` smallest scores of each row.

    Args:
        scores: Shape ``(rows, width)``.
        count: How many scores of each row to mark, from 0 to ``width``.

    Returns:
        Boolean, of the shape of ``scores``.

    >>> least(torch.tensor([[3.0, 1.0, 2.0]]), 2).tolist()
    [[False, True, True]]
    """
    marks = torch.zeros_like(scores, dtype=torch.bool)
    # By position, so that exactly `count` are marked where scores are equal.
    lowest = scores.topk(count, dim=1, largest=False, sorted=False).indices
    return marks.scatter_(1, lowest, True)


def share(count: int, ratio: float) -> int:
    """The number of weights that ``ratio`` of ``count`` is, rounded up.

    >>> share(10, 0.25), share(10, 0.3), share(1000, 0.29)
    (3, 3, 290)
    """
    # A product such as 1000 * 0.29 = 290.00000000000006 must not round up to 291.
    return -int(-(ratio * count - 1e-9) // 1)
