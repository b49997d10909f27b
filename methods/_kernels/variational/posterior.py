"""Matrices with a posterior in place of a value: Gaussian, with utilities, or both."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods._kernels.variational import stick_breaking


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is uncertain in a matrix, and the numbers that the posterior starts from.

    Args:
        gaussian: Whether each weight is a normal random variable with its own mean and
            variance.
        sticks: Whether each weight has a utility indicator with a stick-breaking prior.
        alpha: Of the sticks' Beta(alpha, 1); None for the number of sticks, so that
            ``E ln pi`` of the last column is -1.
        truncation: Columns beyond this many have no utility; None for all columns.
        sigma: Standard deviation that the Gaussians start from.
        rate: How much faster than the means the posterior's other parameters learn.
    """

    gaussian: bool
    sticks: bool
    alpha: float | None = None
    truncation: int | None = None
    sigma: float = 0.0067  # softplus(-5), as the code of the same group starts
    rate: float = 1.0


class Sticks(nn.Module):
    """Kumaraswamy posterior over the sticks that the columns of a matrix share."""

    def __init__(self, columns: int, prior: Prior) -> None:
        super().__init__()
        self.count = min(columns, prior.truncation or columns)
        self.alpha = float(self.count if prior.alpha is None else prior.alpha)
        self.rate = prior.rate
        # a = K leaves every column alive at the start; b as in the group's code.
        self.raw_a = nn.Parameter(torch.full((self.count,), self.count / self.rate))
        self.raw_b = nn.Parameter(torch.full((self.count,), 2.0 / self.rate))

    def shape(self) -> tuple[Tensor, Tensor]:
        """The parameters ``a`` and ``b`` of each stick."""
        return (
            # Raw values are stored divided by `rate`: a step of the optimizer on them
            # counts `rate` times. Softplus keeps both parameters above 0.
            functional.softplus(self.rate * self.raw_a),
            functional.softplus(self.rate * self.raw_b),
        )

    def sample_log_pi(self) -> Tensor:
        """One sample of ``ln pi`` of every column, shape ``(sticks,)``."""
        a, b = self.shape()
        return stick_breaking.log_pi(
            stick_breaking.sample_log_sticks(a, b, stick_breaking.uniform_like(a))
        )

    def kl(self) -> Tensor:
        """Divergence of all sticks from their prior, in nats."""
        a, b = self.shape()
        return stick_breaking.kl_sticks(a, b, self.alpha).sum()


class VariationalLinear(nn.Module):
    """A linear layer whose ``weight`` is a sample in training, else the mean.

    One sample per forward pass, shared by all sentences and steps, so that the GRU's
    fused kernel reads it like any other matrix. An output unit is a column of the
    paper's matrix.

    Args:
        linear: Whose weight and bias become the means.
        prior: Which quantities are uncertain; see ``Prior``.
        sticks: Of the matrix that this one is a part of; None without utilities.
    """

    def __init__(self, linear: nn.Linear, prior: Prior, sticks: Sticks | None) -> None:
        super().__init__()
        self.rate = prior.rate
        self.temperature = 1.0
        self.mean = nn.Parameter(linear.weight.detach().clone())
        self.bias = nn.Parameter(linear.bias.detach().clone())
        self.raw_sigma: nn.Parameter | None = None
        self.logits: nn.Parameter | None = None
        self.sticks = sticks
        if prior.gaussian:
            # The inverse of softplus, so that every sigma starts at `prior.sigma`.
            start = math.log(math.expm1(prior.sigma)) / self.rate
            self.raw_sigma = nn.Parameter(torch.full_like(self.mean, start))
        if sticks is not None:
            # Every utility starts at about a half.
            start_logits = torch.empty_like(self.mean).uniform_(-0.1, 0.1)
            self.logits = nn.Parameter(start_logits / self.rate)

    @property
    def weight(self) -> Tensor:
        """The matrix to multiply by, shape ``(out, in)``."""
        weight = self.mean if self.training else self.expected()
        if self.training and self.raw_sigma is not None:
            # The reparametrisation: a sample that is differentiable in mean and sigma.
            weight = weight + self.sigma() * torch.randn_like(weight)
        if self.training and self.logits is not None:
            logits = self.rate * self.logits
            noise = stick_breaking.uniform_like(logits)
            weight = weight * self._cut(
                stick_breaking.relaxed_utilities(logits, self.temperature, noise)
            )
        return weight

    def sigma(self) -> Tensor:
        """Standard deviation of each weight; 0 without a Gaussian posterior."""
        if self.raw_sigma is None:
            return torch.zeros_like(self.mean)
        return functional.softplus(self.rate * self.raw_sigma)

    def utility(self) -> Tensor:
        """Posterior probability that each weight is of use; 1 without utilities."""
        if self.logits is None:
            return torch.ones_like(self.mean)
        return self._cut(torch.sigmoid(self.rate * self.logits))

    def expected(self) -> Tensor:
        """Mean of each weight under the posterior: utility times mean."""
        return self.utility() * self.mean

    def variance(self) -> Tensor:
        """Variance of utility times weight, which are independent."""
        q, mean = self.utility(), self.mean
        # Var(z w) = E[z] E[w^2] - (E[z] E[w])^2 with E[z^2] = E[z] = q, E[w^2] =
        # sigma^2 + mean^2.
        return q * (self.sigma().square() + (1 - q) * mean.square())

    def kl(self, log_prior: Tensor | None) -> Tensor:
        """Divergence of weights and utilities from their priors, in nats.

        Args:
            log_prior: A sample of ``ln pi``, shape ``(sticks,)``; None without them.

        Returns:
            A scalar.
        """
        total = self.mean.new_zeros(())
        if self.raw_sigma is not None:
            total = total + stick_breaking.kl_gaussian(self.mean, self.sigma()).sum()
        if self.logits is not None and log_prior is not None:
            # Beyond the truncation level a utility is zero by definition, without a
            # divergence.
            logits = self.rate * self.logits[: len(log_prior)]
            total = (
                total + stick_breaking.kl_utilities(logits, log_prior[:, None]).sum()
            )
        return total

    def forward(self, x: Tensor) -> Tensor:
        """``x`` times the matrix, plus the bias."""
        return functional.linear(x, self.weight, self.bias)

    def _cut(self, utilities: Tensor) -> Tensor:
        """No utility beyond the truncation level."""
        assert self.sticks is not None
        if self.sticks.count == len(utilities):
            return utilities
        # An output unit is a row here and a column of the paper's matrix.
        rows = torch.arange(len(utilities), device=utilities.device)
        return utilities * (rows < self.sticks.count)[:, None]


def make_variational(
    net: nn.Module, names: list[str], prior: Prior
) -> list[VariationalLinear]:
    """Give the named matrices a posterior, in place.

    Args:
        net: Network whose layers are replaced in place.
        names: Linear layers ``...input.GATE`` and ``...hidden.GATE``; the two halves of
            one matrix share their sticks.
        prior: Which quantities are uncertain; see ``Prior``.

    Returns:
        The new layers, in the order of ``names``.
    """
    sticks: dict[str, Sticks] = {}
    layers = []
    for name in names:
        parent, _, leaf = name.rpartition(".")
        linear = net.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        shared = None
        if prior.sticks:
            # `x.input.reset` and `x.hidden.reset` are parts of one matrix of the paper:
            # `x.reset`.
            key = f"{parent.rpartition('.')[0]}.{leaf}"
            if key not in sticks:
                sticks[key] = Sticks(linear.out_features, prior)
            shared = sticks[key]
        layer = VariationalLinear(linear, prior, shared)
        setattr(net.get_submodule(parent), leaf, layer)
        layers.append(layer)
    return layers


def total_kl(layers: list[VariationalLinear]) -> Tensor:
    """One Monte-Carlo sample of the divergence of all layers and their sticks.

    Everything is in closed form but the expectation over the sticks in the utilities'
    divergence, which takes the sample (arXiv:2102.06143, eqs. 12-15).

    Args:
        layers: Layers that ``make_variational`` returned.

    Returns:
        A scalar, in nats.
    """
    total = layers[0].mean.new_zeros(())
    priors: dict[Sticks, Tensor] = {}
    for layer in layers:
        # Layers that share sticks share the sample, and the sticks' own divergence
        # counts once.
        if layer.sticks is not None and layer.sticks not in priors:
            priors[layer.sticks] = layer.sticks.sample_log_pi()
            total = total + layer.sticks.kl()
        log_prior = None if layer.sticks is None else priors[layer.sticks]
        total = total + layer.kl(log_prior)
    return total
