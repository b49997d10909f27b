"""Stick-breaking densities and divergences against Monte Carlo and known moments."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Bernoulli, Beta, Kumaraswamy, kl_divergence

from methods._kernels.variational import stick_breaking
from methods._kernels.variational.posterior import (
    Prior,
    Sticks,
    VariationalLinear,
    total_kl,
)

SAMPLES = 400_000


def uniform(n, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, generator=rng, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("a", "alpha"), [(0.5, 0.5), (1.0, 1.0), (7.0, 7.0)])
def test_samples_with_b_1_have_the_moments_of_the_beta(a, alpha):
    # Kumaraswamy(a, 1) is Beta(a, 1): mean a / (a+1), variance a / ((a+1)^2 (a+2)).
    x = uniform(SAMPLES)
    u = stick_breaking.sample_log_sticks(column(a), column(1.0), x).exp()
    beta = Beta(alpha, 1.0)
    assert u.mean().item() == pytest.approx(beta.mean.item(), abs=0.002)
    assert u.var().item() == pytest.approx(beta.variance.item(), rel=0.01)


def test_samples_have_the_moments_of_the_kumaraswamy():
    u = stick_breaking.sample_log_sticks(
        column(3.0), column(2.13), uniform(SAMPLES)
    ).exp()
    known = Kumaraswamy(3.0, 2.13)
    assert u.mean().item() == pytest.approx(known.mean.item(), abs=0.002)
    assert u.var().item() == pytest.approx(known.variance.item(), rel=0.01)


@pytest.mark.parametrize(
    ("a", "b", "alpha"), [(2.0, 3.0, 1.0), (128.0, 2.13, 128.0), (0.7, 0.6, 5.0)]
)
def test_the_sticks_divergence_equals_monte_carlo(a, b, alpha):
    log_u = stick_breaking.sample_log_sticks(column(a), column(b), uniform(SAMPLES))
    # ln q - ln p, both densities written out.
    log_q = (
        math.log(a * b)
        + (a - 1) * log_u
        + (b - 1) * stick_breaking.log1mexp(-a * log_u)
    )
    log_p = math.log(alpha) + (alpha - 1) * log_u
    expected = (log_q - log_p).mean().item()
    exact = stick_breaking.kl_sticks(column(a), column(b), alpha).item()
    assert exact == pytest.approx(expected, abs=0.01, rel=0.01)


def test_a_posterior_equal_to_the_prior_diverges_by_nothing():
    exact = stick_breaking.kl_sticks(column(4.0), column(1.0), 4.0)
    assert exact.item() == pytest.approx(0, abs=1e-12)


@given(st.floats(0.05, 500), st.floats(0.05, 50), st.floats(0.05, 500))
@settings(deadline=None)
def test_the_sticks_divergence_is_never_negative(a, b, alpha):
    assert stick_breaking.kl_sticks(column(a), column(b), alpha).item() > -1e-6


@given(st.floats(-30, 30), st.floats(1e-4, 30))
@settings(deadline=None)
def test_the_utilities_divergence_is_the_whole_of_it(logit, surprise):
    prior = Bernoulli(probs=column(math.exp(-surprise)))
    posterior = Bernoulli(logits=column(logit))
    expected = kl_divergence(posterior, prior).item()
    exact = stick_breaking.kl_utilities(column(logit), column(-surprise)).item()
    assert exact == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_the_gaussian_divergence_is_torchs():
    mean, sigma = column(0.3, -2.0), column(0.1, 1.5)
    normal = torch.distributions.Normal
    expected = kl_divergence(normal(mean, sigma), normal(0.0, 1.0))
    assert torch.allclose(stick_breaking.kl_gaussian(mean, sigma), expected)


def test_a_thousand_sticks_do_not_underflow():
    # In single precision the product of 1,000 halves is 0; its logarithm is exact.
    log_sticks = torch.full((1000,), 0.5).log()
    assert log_sticks.exp().cumprod(0)[-1] == 0
    log_pi = stick_breaking.log_pi(log_sticks)
    assert log_pi[-1].item() == pytest.approx(-1000 * math.log(2), rel=1e-5)
    logits = torch.zeros(1000, requires_grad=True)
    divergence = stick_breaking.kl_utilities(logits, log_pi)
    divergence.sum().backward()
    # q = 1/2: half of -ln pi, minus the entropy ln 2, and (1 - pi) is 1.
    expected = 0.5 * 1000 * math.log(2) - math.log(2)
    assert divergence[-1].item() == pytest.approx(expected, rel=1e-5)
    assert logits.grad.isfinite().all()


def test_gradients_are_right():
    a, b = column(0.5, 30.0).requires_grad_(), column(0.7, 4.0).requires_grad_()
    x = column(0.2, 0.9)
    logits = column(-3.0, 4.0).requires_grad_()
    mean, sigma = column(0.4, -1.0).requires_grad_(), column(0.2, 2.0).requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda a, b: stick_breaking.kl_sticks(a, b, 2.0), (a, b))
    assert check(lambda a, b: stick_breaking.sample_log_sticks(a, b, x), (a, b))
    assert check(lambda q, u: stick_breaking.kl_utilities(q, -u), (logits, a))
    assert check(lambda q: stick_breaking.relaxed_utilities(q, 0.7, x), (logits,))
    assert check(stick_breaking.kl_gaussian, (mean, sigma))


def test_cold_indicators_are_bernoulli():
    logits = column(0.8).expand(SAMPLES)
    z = stick_breaking.relaxed_utilities(logits, 0.01, uniform(SAMPLES))
    assert ((z > 0.01) & (z < 0.99)).double().mean() < 0.03
    assert z.mean().item() == pytest.approx(
        torch.sigmoid(column(0.8)).item(), abs=0.003
    )


def layer(gaussian=True, sticks=True, **prior):
    chosen = Prior(gaussian=gaussian, sticks=sticks, **prior)
    shared = Sticks(3, chosen) if sticks else None
    torch.manual_seed(0)
    return VariationalLinear(nn.Linear(2, 3), chosen, shared)


def test_mean_and_variance_are_those_of_the_samples():
    made = layer(sigma=0.4)
    made.temperature = 1e-3  # cold: utilities are 0 or 1
    draws = torch.stack([made.weight.detach() for _ in range(5_000)])
    made.eval()
    assert torch.allclose(draws.mean(0), made.weight, atol=0.04)
    assert torch.allclose(draws.var(0), made.variance(), rtol=0.12)


def test_the_elbo_s_divergence_by_hand():
    # Two layers share one matrix's sticks: the sticks count once, the weights of
    # both halves count, and the utilities' prior is that of their column.
    prior = Prior(gaussian=True, sticks=True, alpha=2.0, sigma=0.5)
    sticks = Sticks(3, prior)
    halves = [VariationalLinear(nn.Linear(n, 3), prior, sticks) for n in (2, 4)]
    torch.manual_seed(7)
    total = total_kl(halves).item()
    torch.manual_seed(7)
    a, b = sticks.shape()
    x = stick_breaking.uniform_like(a)
    pi = (1 - x ** (1 / b)) ** (1 / a)
    by_hand = stick_breaking.kl_sticks(a, b, 2.0).sum()
    for half in halves:
        normal = torch.distributions.Normal
        weights = normal(half.mean, torch.full_like(half.mean, 0.5))
        by_hand = by_hand + kl_divergence(weights, normal(0.0, 1.0)).sum()
        for k in range(3):
            q = Bernoulli(logits=half.logits[k])
            p = Bernoulli(probs=pi[: k + 1].prod().expand_as(half.logits[k]))
            by_hand = by_hand + kl_divergence(q, p).sum()
    assert total == pytest.approx(by_hand.item(), rel=1e-4)


def test_columns_beyond_the_truncation_level_have_no_utility():
    made = layer(truncation=2)
    assert made.utility()[2].tolist() == [0.0, 0.0]
    assert (made.utility()[:2] > 0.4).all()
    assert made.weight[2].tolist() == [0.0, 0.0]
    assert total_kl([made]).isfinite()


def test_the_posterior_s_rate_changes_the_steps_not_the_start():
    slow, fast = layer(), layer(rate=10.0)
    assert torch.allclose(slow.sigma(), fast.sigma())
    for made in (slow, fast):
        optimizer = torch.optim.Adam(made.parameters(), lr=1e-3)
        total_kl([made]).backward()
        optimizer.step()
    start = layer().sigma()
    ratio = (fast.sigma() - start) / (slow.sigma() - start)
    assert ratio.mean().item() == pytest.approx(10, rel=0.05)


def test_without_utilities_or_gaussians_a_part_is_left_out():
    assert layer(sticks=False).utility().eq(1).all()
    assert layer(gaussian=False).sigma().eq(0).all()
