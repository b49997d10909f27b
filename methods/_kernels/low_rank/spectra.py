"""Eigenvectors of symmetric matrices in float64, and roots of second moments."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.toolkit import devices

_MOST_ROUNDS = 20  # of the refinement; five are usual
_APART = 8  # a gap is safe from this many times the largest error on


def spectrum(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, largest first and not below zero, with their vectors in columns.

    Args:
        symmetric: Without negative eigenvalues beyond rounding, float64, ``(n, n)``.

    Returns:
        Shapes ``(n,)`` and ``(n, n)``.
    """
    # `eigh` reads one triangle; a product that is symmetric on paper has two different
    # ones after rounding.
    symmetric = (symmetric + symmetric.T) / 2
    slow = devices.slow_float64(symmetric.device)
    values, vectors = (refined_eigh if slow else torch.linalg.eigh)(symmetric)
    return values.flip(0).clamp_min(0), vectors.flip(1)


def roots(gram: Tensor | None, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """A root S of a Gram matrix, ``G = S S^T``, and its inverse.

    The Cholesky factor, unless its inverse is beyond what rounding allows. Then G is
    singular: a direction that no input reaches has eigenvalue zero and no inverse. The
    root is then symmetric, with eigenvalues raised to rounding level, which changes the
    error on G itself by rounding only.

    Args:
        gram: Shape ``(n, n)``, or ``(n,)`` for a diagonal; None for the identity.
        like: A tensor of the dtype that the roots have.

    Returns:
        S and its inverse, in the form of ``gram``.
    """
    if gram is None:
        return None, None
    tiny = torch.finfo(like.dtype).eps * gram.shape[0]
    if gram.ndim == 1:
        root = gram.clamp_min(float(gram.max()) * tiny).sqrt()
        return root, 1 / root
    root, failed = torch.linalg.cholesky_ex(gram)
    if not int(failed):
        unit = torch.eye(len(gram)).to(root)
        inverse = torch.linalg.solve_triangular(root, unit, upper=False)
        # Rounding leaves a singular G a pivot of any sign. With one above zero the
        # inverse is hundreds of times larger than below, where no input was seen.
        largest = float(root.norm(dim=1).max() * inverse.norm(dim=1).max())
        if largest < tiny**-0.5:
            return root, inverse
    return psd_roots(gram, tiny)


def psd_roots(moment: Tensor, tiny: float | None = None) -> tuple[Tensor, Tensor]:
    """The symmetric root of a second moment and its inverse.

    Args:
        moment: Symmetric without negative eigenvalues, float64, shape ``(n, n)``.
        tiny: Eigenvalues below this share of the largest are raised to it, so that the
            inverse exists; None for the rounding error of the matrix.

    Returns:
        ``M^(1/2)`` and ``M^(-1/2)``, each of shape ``(n, n)``.
    """
    if tiny is None:
        tiny = torch.finfo(moment.dtype).eps * len(moment)
    values, vectors = spectrum(moment)
    # The second bound is for a moment that is all zero.
    least = max(float(values[0]) * tiny, torch.finfo(moment.dtype).tiny)
    scale = values.clamp_min(least).sqrt()
    return (vectors * scale) @ vectors.T, (vectors / scale) @ vectors.T


def refined_eigh(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """``torch.linalg.eigh`` in float64, by decompositions in float32 and products.

    Many GPUs compute in float64 at a thirty-second or less of the speed of float32. A
    product of matrices is then still fast enough, and an eigendecomposition, most of
    which is not a product, is not.

    With approximate eigenvectors X, ``S = X^T A X`` is nearly diagonal. To first order
    the exact vectors are ``X (I + E)`` with ``E_ij = S_ij / (S_jj - S_ii)``, and the
    error is squared in each round (Ogita & Aishima 2018,
    doi:10.1007/s13160-018-0310-3). The formula fails where two eigenvalues are closer
    than the error of S. Such neighbours form a block of S, which float32 resolves
    again: without its mean the block is small, and the rounding errors of float32 are
    relative to its size. Small eigenvalues so get their digits from round to round. One
    step of Newton and Schulz, ``X (3 I - X^T X) / 2``, keeps X orthonormal.

    Args:
        symmetric: Float64, shape ``(n, n)``.

    Returns:
        Eigenvalues in ascending order, shape ``(n,)``, and their vectors in columns,
        with errors at the rounding level of float64.
    """
    count = len(symmetric)
    vectors = torch.eye(count, dtype=torch.float64, device=symmetric.device)
    _resolve(vectors, symmetric, [(0, count)])
    rounding = torch.finfo(torch.float64).eps * count**0.5
    before = float("inf")
    for _ in range(_MOST_ROUNDS):
        vectors = _orthonormal(vectors)
        inner = vectors.T @ symmetric @ vectors
        values, order = inner.diagonal().sort()
        vectors, inner = vectors[:, order], inner[order][:, order]
        error = inner - values.diag()
        worst = float(error.norm(dim=0).max())
        if worst <= rounding * float(values.abs().max()) or worst >= before:
            break
        before = worst
        # The number of the block that each eigenvalue belongs to.
        starts = values.diff() > _APART * worst
        block = torch.cat([starts.new_zeros(1), starts]).cumsum(0)
        gaps = values - values[:, None]  # (i, j) holds values[j] - values[i]
        apart = block != block[:, None]
        vectors = vectors + vectors @ (error / gaps).where(apart, 0.0)
        ends = block.bincount().cumsum(0).tolist()
        blocks = zip([0, *ends[:-1]], ends, strict=True)
        _resolve(vectors, inner, [(a, b) for a, b in blocks if b - a > 1])
    # The last correction was orthogonal to first order only.
    vectors = _orthonormal(vectors)
    values, order = (vectors * (symmetric @ vectors)).sum(0).sort()
    return values, vectors[:, order]


def _orthonormal(vectors: Tensor) -> Tensor:
    """One step towards the nearest orthonormal matrix, which squares the distance."""
    return 1.5 * vectors - 0.5 * vectors @ (vectors.T @ vectors)


def _resolve(vectors: Tensor, inner: Tensor, blocks: list[tuple[int, int]]) -> None:
    """Turn the vectors of each block so that float32 sees it diagonal, in place."""
    for start, end in blocks:
        part = inner[start:end, start:end]
        part = part - part.diagonal().mean() * torch.eye(end - start).to(part)
        size = part.abs().max()
        if float(size) > 0:
            turn = torch.linalg.eigh((part / size).float()).eigenvectors
            turn = _orthonormal(turn.double())
            vectors[:, start:end] = vectors[:, start:end] @ turn
