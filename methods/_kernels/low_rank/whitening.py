"""Gram matrices as the methods whiten with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from harness.toolkit.calibration import Calibration
from methods._kernels.low_rank.factors import Group, check_finite

Whitening = Literal["eigh", "cholesky"]


def whitened(
    calibration: Calibration, whitening: Whitening, jitter: float
) -> Callable[[Group], Tensor]:
    """For each group the Gram matrix of its inputs, summed over the sites it reads.

    Args:
        calibration: Of the dense model.
        whitening: ``eigh`` takes the matrix as it is. ``cholesky`` raises one that has
            no Cholesky factor by its smallest eigenvalue and ``jitter``, as the
            released codes do; what they factorise then is what is returned.
        jitter: For ``cholesky``; 1e-6 in SVD-LLM, 7e-6 in Basis Sharing, there on the
            sum over all calibration tokens.

    Returns:
        A function from groups to float64 matrices of shape ``(in, in)``.
    """

    def gram(group: Group) -> Tensor:
        sites = [calibration.site_of(name) for name in group.names]
        distinct = dict.fromkeys(sites)
        total = sum(
            (calibration.gram(site).double() for site in distinct), torch.tensor(0.0)
        )
        check_finite(total, f"the Gram matrix of {group.label}")
        if whitening == "eigh":
            return total
        tokens = calibration.tokens.numel()
        return raised(total * tokens, jitter)

    return gram


def raised(gram: Tensor, jitter: float) -> Tensor:
    """``gram``, or the nearest shift of it by the identity that Cholesky can factor.

    Args:
        gram: Symmetric, float64.
        jitter: Beyond the smallest eigenvalue.

    Returns:
        A positive definite matrix.
    """
    _, failed = torch.linalg.cholesky_ex(gram)
    if not int(failed):
        return gram
    smallest = torch.linalg.eigvalsh(gram)[0]
    return gram + (jitter - smallest) * torch.eye(len(gram), dtype=gram.dtype)
