"""Directions that the outputs of many windows have in common."""

from __future__ import annotations

import torch
from torch import Tensor


class Directions:
    """The leading common directions of many subspaces, by incremental PCA.

    Of orthonormal rows ``V_1, V_2, ...`` it keeps the ``count`` leading right singular
    vectors of all rows on top of each other: after each addition, those of the kept
    rows, each times its singular value, on top of the new ones. If no more than
    ``count`` directions were ever seen, the result is exact.

    Args:
        count: Number of directions to keep.
        centred: Whether to subtract the mean of the rows, as principal components of
            data do.
    """

    def __init__(self, count: int, *, centred: bool = False) -> None:
        self.count, self.centred = count, centred
        self._rows: Tensor | None = None  # (kept, n), each times its singular value
        self._mean: Tensor | None = None
        self._seen = 0

    def add(self, rows: Tensor) -> None:
        """Count the rows of one more subspace, shape ``(k, n)``."""
        parts = [] if self._rows is None else [self._rows]
        if self.centred:
            mean = rows.mean(0)
            old = mean if self._mean is None else self._mean
            total = self._seen + len(rows)
            # One row for the distance of both means (Ross et al. 2008).
            shift = (self._seen * len(rows) / total) ** 0.5 * (old - mean)
            parts += [rows - mean] + ([shift[None]] if self._seen else [])
            self._mean = old + (mean - old) * len(rows) / total
            self._seen = total
        else:
            parts.append(rows)
        stack = torch.cat(parts)
        _, values, vectors = torch.linalg.svd(stack, full_matrices=False)
        self._rows = values[: self.count, None] * vectors[: self.count]

    def basis(self) -> Tensor | None:
        """Orthonormal rows, strongest first, ``count`` at most; None if none was added.

        Directions at the level of rounding are left out.
        """
        if self._rows is None:
            return None
        sizes = self._rows.norm(dim=1)
        real = sizes > sizes.max() * torch.finfo(sizes.dtype).eps * self._rows.shape[1]
        return self._rows[real] / sizes[real, None]


class ExactDirections:
    """The leading common directions of many subspaces, from the sum of projections.

    With all orthonormal rows on top of each other as V, they are the eigenvectors of
    ``V^T V``. It takes the memory of one matrix of shape ``(n, n)``.

    Args:
        count: Number of directions to keep.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._sum: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        """Count the rows of one more subspace, shape ``(k, n)``."""
        part = rows.T @ rows
        self._sum = part if self._sum is None else self._sum + part

    def basis(self) -> Tensor | None:
        """As that of ``Directions``."""
        if self._sum is None:
            return None
        values, vectors = torch.linalg.eigh(self._sum)
        real = values > values[-1] * torch.finfo(values.dtype).eps * len(values)
        return vectors[:, real].flip(1).T[: self.count]


def completed(basis: Tensor | None, weight: Tensor, count: int) -> Tensor:
    """A basis of the outputs of a weight, filled up where text gave too few directions.

    Args:
        basis: Orthonormal rows, shape ``(k, out)`` with ``k <= count``; None for none.
        weight: Shape ``(out, in)``, float64.
        count: Number of directions wanted, ``min(out, in)`` at most.

    Returns:
        Shape ``(count, out)``: the rows of ``basis``, then the strongest left singular
        vectors of what they leave of the weight.
    """
    if basis is None:
        basis = weight.new_zeros(0, len(weight))
    basis = basis.to(weight)
    if len(basis) >= count:
        return basis
    rest = weight - basis.T @ (basis @ weight)
    left = torch.linalg.svd(rest, full_matrices=False).U.T
    # QR: what rounding leaves of the old directions in the new ones is removed.
    rows = torch.cat([basis, left[: count - len(basis)]])
    return torch.linalg.qr(rows.T).Q.T
