"""The Gram matrices under which methods decompose."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from harness.toolkit.calibration import Calibration
from methods._kernels.low_rank.factors import Group, check_finite

Whitening = Literal["eigh", "cholesky"]


def whitened(
    calibration: Calibration,
    whitening: Whitening,
    jitter: float,
    device: torch.device | None = None,
) -> Callable[[Group], Tensor]:
    """Gives each group the Gram matrix of its inputs, summed over its input sites.

    Args:
        calibration: Statistics of the dense model.
        whitening: ``eigh`` uses the matrix as it is. ``cholesky`` does what the
            released codes do where the matrix has no Cholesky factor: it adds a
            multiple of the identity, so that the smallest eigenvalue is ``jitter``.
        jitter: For ``cholesky`` only: 1e-6 in SVD-LLM and 7e-6 in Basis Sharing, on the
            sum (not the mean) over all calibration tokens.
        device: Where ``cholesky`` computes and leaves the matrix; None for the host.

    Returns:
        A function from groups to float64 matrices of shape ``(in, in)``.
    """

    @lru_cache(maxsize=1)  # query, key and value follow each other and read one site
    def summed(distinct: tuple[str, ...]) -> Tensor:
        total = sum(
            (calibration.gram(site).double() for site in distinct), torch.tensor(0.0)
        )
        check_finite(total, f"the Gram matrix of {distinct[0]}")
        if whitening == "eigh":
            return total
        # Statistics are means over tokens; the jitter of the released codes is in the
        # unit of a sum. A common factor of G does not change the factors.
        tokens = calibration.tokens.numel()
        return raised((total * tokens).to(device), jitter)

    def gram(group: Group) -> Tensor:
        sites = tuple(dict.fromkeys(calibration.site_of(name) for name in group.names))
        return summed(sites)

    return gram


def raised(gram: Tensor, jitter: float) -> Tensor:
    """``gram``, shifted by a multiple of the identity if it has no Cholesky factor.

    Args:
        gram: Symmetric, float64, shape ``(n, n)``.
        jitter: The smallest eigenvalue after the shift.

    Returns:
        A positive definite matrix.
    """
    _, failed = torch.linalg.cholesky_ex(gram)
    if not int(failed):
        return gram
    # Rounding may leave a singular matrix with a small negative eigenvalue.
    smallest = torch.linalg.eigvalsh(gram)[0]
    return gram + (jitter - smallest) * torch.eye(len(gram)).to(gram)
