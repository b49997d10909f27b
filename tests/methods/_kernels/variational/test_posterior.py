"""Matrices with a posterior: start values, moments, divergences by their formulas."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from methods._kernels.variational.posterior import (
    Prior,
    Sticks,
    VariationalLinear,
    make_variational,
    total_kl,
)

FULL = {"gaussian": True, "sticks": True}


def made(prior, columns=6, inner=4):
    torch.manual_seed(1)
    sticks = Sticks(columns, prior) if prior.sticks else None
    return VariationalLinear(nn.Linear(inner, columns), prior, sticks)


@pytest.mark.parametrize("rate", [1.0, 10.0])
def test_the_posterior_starts_at_the_stated_values_at_every_rate(rate):
    prior = Prior(**FULL, rate=rate, sigma=0.02)
    layer = made(prior)

    torch.testing.assert_close(layer.sigma(), torch.full((6, 4), 0.02))
    a, b = layer.sticks.shape()
    softplus = nn.functional.softplus
    torch.testing.assert_close(a, softplus(torch.full((6,), 6.0)))
    torch.testing.assert_close(b, softplus(torch.full((6,), 2.0)))
    assert layer.sticks.alpha == 6
    logits = rate * layer.logits
    assert logits.abs().max() <= 0.1
    assert logits.std() > 0.02
    assert layer.temperature == 1


@pytest.mark.parametrize(
    ("truncation", "alpha", "count", "used"),
    [(None, None, 6, 6.0), (4, None, 4, 4.0), (9, None, 6, 6.0), (4, 2.5, 4, 2.5)],
)
def test_truncation_and_alpha(truncation, alpha, count, used):
    sticks = Sticks(6, Prior(**FULL, truncation=truncation, alpha=alpha))

    assert (sticks.count, sticks.alpha) == (count, used)
    assert sticks.sample_log_pi().shape == (count,)


def test_columns_beyond_the_truncation_are_of_no_use():
    layer = made(Prior(**FULL, truncation=4))

    utility = layer.utility()

    assert utility[4:].abs().max() == 0
    assert utility[:4].min() > 0.4
    layer.train()
    assert layer.weight[4:].abs().max() == 0


def test_expected_and_variance_are_those_of_many_samples():
    layer = made(Prior(**FULL, sigma=0.3))
    with torch.no_grad():
        layer.logits.normal_()
    q = torch.sigmoid(layer.logits)
    draws = 40_000
    torch.manual_seed(0)
    weights = layer.mean + layer.sigma() * torch.randn(draws, 6, 4)
    samples = Bernoulli(q).sample((draws,)) * weights

    mean, variance = samples.mean(0), samples.var(0)

    spread = (variance / draws).sqrt()
    assert ((layer.expected() - mean).abs() <= 5 * spread).all()
    torch.testing.assert_close(layer.variance(), variance, rtol=0.1, atol=0.01)


def test_without_posteriors_the_matrix_is_a_value():
    layer = made(Prior(gaussian=False, sticks=False)).train()

    assert torch.equal(layer.weight, layer.mean)
    assert layer.sigma().sum() == 0
    assert bool((layer.utility() == 1).all())
    assert float(layer.kl(None)) == 0


def test_in_training_the_weight_is_a_sample_and_else_the_mean():
    layer = made(Prior(gaussian=True, sticks=False, sigma=0.5)).train()

    drawn = torch.stack([layer.weight for _ in range(4000)])

    torch.testing.assert_close(drawn.mean(0), layer.mean, rtol=0, atol=0.06)
    torch.testing.assert_close(drawn.std(0), layer.sigma(), rtol=0.1, atol=0)
    assert torch.equal(layer.eval().weight, layer.expected())


def test_the_divergence_of_weights_and_utilities_is_that_of_torch():
    layer = made(Prior(**FULL, sigma=0.3))
    log_pi = torch.tensor([-0.1, -0.3, -0.5, -0.8, -1.3, -2.0])

    gaussian = kl_divergence(Normal(layer.mean, layer.sigma()), Normal(0.0, 1.0))
    prior = Bernoulli(log_pi.exp()[:, None].expand(6, 4))
    utilities = kl_divergence(Bernoulli(logits=layer.logits), prior)

    found = float(layer.kl(log_pi).detach())

    assert found == pytest.approx(
        float((gaussian.sum() + utilities.sum()).detach()), rel=1e-4
    )


def test_two_halves_of_a_matrix_share_their_sticks_and_count_them_once():
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input = nn.ModuleDict({g: nn.Linear(3, 5) for g in "zr"})
            self.hidden = nn.ModuleDict({g: nn.Linear(5, 5) for g in "zr"})

    net = nn.ModuleDict({"cell": Gate()})
    names = [f"cell.{half}.{gate}" for half in ("input", "hidden") for gate in "zr"]

    layers = make_variational(net, names, Prior(**FULL))

    assert [net.get_submodule(n) for n in names] == layers
    assert layers[0].sticks is layers[2].sticks
    assert layers[1].sticks is layers[3].sticks
    assert layers[0].sticks is not layers[1].sticks
    torch.manual_seed(5)
    found = float(total_kl(layers).detach())
    torch.manual_seed(5)
    expected = 0.0
    for first, second in ((0, 2), (1, 3)):
        sample = layers[first].sticks.sample_log_pi()
        expected += float(layers[first].sticks.kl().detach())
        for layer in (layers[first], layers[second]):
            expected += float(layer.kl(sample).detach())
    assert found == pytest.approx(expected, rel=1e-6)
    assert math.isfinite(found)
