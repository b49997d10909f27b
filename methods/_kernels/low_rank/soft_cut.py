"""Activations whose singular values are cut off at a position that can be trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Terms of the series that stands for `1 / (1 - q^2)` where two singular values are
# closer than this share of the larger: at q = 1 the quotient is infinite.
TERMS = 11
CLOSE = 1e-10


def soft_mask(position: Tensor, count: int, sharpness: float) -> Tensor:
    """The share of each singular value that a cut at a real position keeps.

    It is ``t_i = (tanh(b (p - i)) + 1) / 2`` for i = 1, 2, ...: near 1 for i below the
    position p, 1/2 at it, near 0 above.

    Args:
        position: p, a scalar; it may need a gradient.
        count: Number of singular values.
        sharpness: b; larger is closer to a step.

    Returns:
        Shape ``(count,)``.

    >>> [round(float(t), 2) for t in soft_mask(torch.tensor(2.0), 3, 10.0)]
    [1.0, 0.5, 0.0]
    """
    numbers = torch.arange(1, count + 1, device=position.device)
    return 0.5 * torch.tanh(sharpness * (position - numbers)) + 0.5


def masked(matrix: Tensor, mask: Tensor) -> Tensor:
    """A matrix with each singular value times its share of a mask.

    With ``X = U diag(s) V^T`` it is ``U diag(t s) V^T``, and both arguments get a
    gradient. That of X divides by ``s_i^2 - s_j^2``, which the usual backward pass of
    an SVD does for every pair: pairs that the mask treats alike cancel, and are left
    out here. Where a cut separates two equal values, 11 terms of
    ``1 / (1 - q^2) = 1 + q^2 + q^4 + ...`` with ``q = s_j / s_i`` keep the gradient
    finite, as in arXiv:2502.02723.

    Args:
        matrix: X, shape ``(rows, columns)``, float32 or float64.
        mask: t, shape ``(min(rows, columns),)``.

    Returns:
        Shape ``(rows, columns)``.
    """
    result: Tensor = _Masked.apply(matrix, mask)  # type: ignore[no-untyped-call]
    return result


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, mask: Tensor) -> Tensor:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        mask = mask.to(values.dtype)
        ctx.save_for_backward(left, values, right, mask)
        return (left * (mask * values)) @ right

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        left, values, right, mask = ctx.saved_tensors
        across = gradient @ right.T  # (rows, r)
        inner = left.T @ across  # (r, r), P = U^T G V
        core = _within(inner, values, mask)
        # What lies outside the thin U or V: its singular value is 0, its share too.
        above = (across - left @ inner) * mask
        beside = mask[:, None] * (left.T @ gradient - inner @ right)
        whole = left @ (core @ right + beside) + above @ right
        return whole, inner.diagonal() * values


def _within(inner: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """The gradient of the matrix in the coordinates of its singular vectors."""
    # With e = 1 / (s_j^2 - s_i^2) the entry (i, j) is
    #   t_i P_ij + (t_j - t_i) e (s_j^2 P_ij + s_i s_j P_ji).
    # The products e s_j^2 and e s_i s_j depend on the quotient of both values alone, so
    # that no small number is divided by.
    high = torch.maximum(values[:, None], values[None])
    low = torch.minimum(values[:, None], values[None])
    quotient = (low / high).where(high > 0, 1.0)
    close = 1 - quotient <= CLOSE
    series = sum((quotient.square() ** n for n in range(TERMS)), torch.tensor(0.0))
    inverse = series.where(close, 1 / (1 - quotient.square()))
    # s_j <= s_i right of the diagonal: there e is negative and s_j^2 / s_i^2 = q^2.
    right = torch.ones_like(inner).triu(1).bool()
    own = (-quotient.square()).where(right, 1.0) * inverse
    other = (-quotient).where(right, quotient) * inverse
    step = mask[None] - mask[:, None]
    return mask[:, None] * inner + step * (own * inner + other * inner.T)


@contextmanager
def outputs_through(
    net: nn.Module, functions: Mapping[str, Callable[[Tensor], Tensor]]
) -> Iterator[None]:
    """Send the outputs of matrices through functions while the context is open.

    Args:
        net: The network.
        functions: Module path -> function of the outputs without their bias, float32
            of shape ``(tokens, out)``.
    """

    def hook(function: Callable[[Tensor], Tensor]) -> Any:
        def replace(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
            if not out.numel():  # an expert that no token of the window reaches
                return out
            bias: Any = module.bias
            plain = out if bias is None else out - bias
            made = function(plain.flatten(0, -2).float()).view(out.shape).to(out.dtype)
            return made if bias is None else made + bias

        return replace

    handles = [
        net.get_submodule(name).register_forward_hook(hook(function))
        for name, function in functions.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
