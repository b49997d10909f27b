"""Stick-breaking utilities: densities, samples and divergences, all in log space."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

EULER = 0.5772156649015329
# Below this, 1 - pi is as good as 0; keeps its logarithm and gradient finite.
_LEAST = 1e-6


def log1mexp(x: Tensor) -> Tensor:
    """``ln(1 - exp(-x))`` for positive ``x``, exact where either form would cancel.

    The switch at ln 2 is Maechler's (2012, "Accurately computing log(1 - exp(-|a|))").

    Args:
        x: Above 0, any shape.

    Returns:
        Same shape, at most 0.
    """
    small = x < 0.6931471805599453
    # The branch not taken still gets a gradient: keep it away from its pole.
    near = torch.where(small, x, torch.ones_like(x))
    far = torch.where(small, torch.ones_like(x), x)
    return torch.where(
        small, torch.log(-torch.expm1(-near)), torch.log1p(-torch.exp(-far))
    )


def sample_log_sticks(a: Tensor, b: Tensor, uniform: Tensor) -> Tensor:
    """Logarithms of Kumaraswamy(a, b) samples, by inversion (arXiv:2102.06143, eq. 9).

    ``u = (1 - (1 - X)^(1/b))^(1/a)``; ``1 - X`` is as uniform as ``X``.

    Args:
        a: First parameters, above 0.
        b: Second parameters, above 0.
        uniform: In (0, 1), of the same shape.

    Returns:
        ``ln u``, differentiable in ``a`` and ``b``.
    """
    return log1mexp((-torch.log(uniform) / b).clamp_min(_LEAST)) / a


def log_pi(log_sticks: Tensor) -> Tensor:
    """``ln pi_k = sum of ln u_i over i <= k``: the prior of utility of each column.

    >>> log_pi(torch.log(torch.tensor([0.5, 0.5]))).exp().tolist()
    [0.5, 0.25]
    """
    return log_sticks.cumsum(0)


def kl_sticks(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """KL(Kumaraswamy(a, b) || Beta(alpha, 1)) of each stick, in nats.

    Exact, with no series, since the second parameter of the Beta is 1 (Nalisnick &
    Smyth 2017, arXiv:1605.06197, its infinite sum vanishes).

    Args:
        a: First parameters, above 0.
        b: Second parameters, above 0.
        alpha: Of the prior; larger values keep more columns alive.

    Returns:
        Shape of ``a``, at least 0.
    """
    return (
        # u^a has the distribution Beta(1, b), so that E[ln u] = (-EULER - digamma(b) -
        # 1/b) / a and E[ln(1 - u^a)] = -1/b. The lines are (a - alpha) E[ln u], the
        # ratio of the constants, and (b - 1) E[ln(1 - u^a)].
        (1 - alpha / a) * (-EULER - torch.digamma(b) - 1 / b)
        + torch.log(a * b / alpha)
        - (b - 1) / b
    )


def kl_utilities(logits: Tensor, log_prior: Tensor) -> Tensor:
    """KL(Bernoulli(q) || Bernoulli(pi)) of each utility indicator, in nats.

    Args:
        logits: Logits of the posterior q.
        log_prior: ``ln pi``, below 0; broadcast against ``logits``.

    Returns:
        Shape of ``logits``; both halves of the divergence, so never below 0.
    """
    q = torch.sigmoid(logits)
    log_rest = log1mexp((-log_prior).clamp_min(_LEAST))
    kept = q * (functional.logsigmoid(logits) - log_prior)
    return kept + (1 - q) * (functional.logsigmoid(-logits) - log_rest)


def kl_gaussian(mean: Tensor, sigma: Tensor) -> Tensor:
    """KL(N(mean, sigma^2) || N(0, 1)) of each weight, in nats."""
    return 0.5 * (sigma.square() + mean.square() - 1) - torch.log(sigma)


def relaxed_utilities(logits: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """Samples of the relaxed Bernoulli (Concrete) distribution, in (0, 1).

    Args:
        logits: Of the probability to be 1.
        temperature: Above 0; the lower, the nearer to 0 and 1 (arXiv:1611.00712).
        uniform: In (0, 1), of the same shape.

    Returns:
        Same shape, differentiable in ``logits``.
    """
    # A logistic number: with a step in the place of the sigmoid, `logits + noise > 0`
    # has exactly the probability sigmoid(logits).
    noise = torch.log(uniform) - torch.log1p(-uniform)
    return torch.sigmoid((logits + noise) / temperature)


def uniform_like(x: Tensor) -> Tensor:
    """Numbers strictly inside (0, 1), from torch's global generator."""
    # Both ends are excluded, since the logarithms of u and of 1 - u are taken.
    tiny = torch.finfo(torch.float32).eps
    return torch.rand_like(x).clamp(tiny, 1 - tiny)
