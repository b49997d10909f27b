"""Sparse variational dropout: its KL term, its noise, and what becomes zero."""

import math

import pytest
import torch
from torch import nn

from harness.core import Context
from harness.models.digits_convnet import DigitsConvnet
from harness.models.mlp import MLP
from harness.registry import find
from harness.toolkit.training import Recipe, predict
from methods.variational_dropout import (
    Bound,
    Noisy,
    NoisyLayer,
    VariationalDropout,
    divergence,
)
from tasks.digits import Digits

SHAPE = {"classes": 10, "input": [1, 8, 8]}


def context(plugin=None) -> Context:
    return Context(
        model=(plugin or MLP(hidden=(40,))).build(SHAPE, 0),
        seed=0,
        device=torch.device("cpu"),
        data=Digits().data(),
    )


@pytest.mark.parametrize("log_alpha", [-4.0, -1.0, 0.0, 2.0])
def test_the_kl_term_is_that_of_a_log_uniform_prior(log_alpha):
    # KL = -log(alpha) / 2 + E log |1 + sqrt(alpha) e| + constant (Kingma et al. 2015,
    # arXiv:1506.02557, equation 11), e standard normal; the constant makes both zero
    # at an alpha so large that the prior is reached. E by numerical integration.
    e = torch.linspace(-12, 12, 2_000_001, dtype=torch.float64)
    density = torch.exp(-(e**2) / 2) / math.sqrt(2 * math.pi)

    def exact(log_a: float) -> float:
        inside = (1 + math.exp(log_a / 2) * e).abs().clamp_min(1e-12).log()
        return -log_a / 2 + torch.trapezoid(density * inside, e).item()

    want = exact(log_alpha) - exact(30.0)
    got = divergence(torch.tensor(log_alpha, dtype=torch.float64)).item()
    assert got == pytest.approx(want, abs=0.02)


def test_outputs_have_the_mean_and_variance_of_the_weights_distribution():
    torch.manual_seed(0)
    layer = nn.Linear(3, 1)
    layer.weight.data = torch.tensor([[0.5, -1.0, 2.0]])
    noisy = NoisyLayer(layer, math.log(0.01), threshold=3.0)
    x = torch.tensor([[1.0, 2.0, 3.0]])
    drawn = noisy(x.expand(200_000, 3))
    # mean w x + b, variance 0.01 * (1 + 4 + 9); standard error 0.0008 and 0.0004.
    assert drawn.mean().item() == pytest.approx(layer(x).item(), abs=0.004)
    assert drawn.var().item() == pytest.approx(0.14, abs=0.002)
    assert torch.equal(noisy.eval()(x), layer(x))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_floor_of_the_variance(half):
    noisy = NoisyLayer(nn.Linear(3, 2), math.log(0.01), threshold=3.0)
    with torch.autocast("cpu", dtype=half):
        noisy(torch.zeros(4, 3)).sum().backward()
    # A variance of 0, whose root has no gradient, would give NaN.
    assert torch.equal(noisy.log_variance.grad, torch.zeros(2, 3))


def test_a_mean_under_its_noise_counts_as_zero():
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 1e-3]])
    noisy = NoisyLayer(layer, math.log(1e-4), threshold=3.0).eval()
    # log alpha: log 1e-4 = -9.2, and log (1e-4 / 1e-6) = 4.6 > 3.
    assert noisy.log_alpha().tolist()[0] == pytest.approx([-8.0, 4.605], abs=1e-3)
    assert noisy(torch.tensor([[1.0, 1.0]])).item() == 1.0


def test_the_kl_term_rises_between_its_epochs():
    goal = Bound(examples=10, ramp=(5, 20))
    shares = []
    for epoch in (0, 5, 11, 20, 30):
        goal.before_epoch(nn.Identity(), epoch)
        shares.append(goal.share)
    assert shares == [0, 0, 0.4, 1, 1]


def test_the_noisiest_weights_become_zero_and_no_others():
    ctx = context()
    net = ctx.dense()
    alphas = {n: torch.randn_like(net.get_submodule(n).weight) for n in ("fc1", "head")}
    small = VariationalDropout().compress(Noisy(net=net, log_alpha=alphas), 0.7, ctx)
    edge = torch.cat([a.flatten() for a in alphas.values()]).quantile(0.3)
    for name, alpha in alphas.items():
        zero = small.get_submodule(name).weight == 0
        assert (alpha[~zero] <= edge + 1e-3).all()
        assert (alpha[zero] >= edge - 1e-3).all()
    assert (net.fc1.weight != 0).all()  # what was fitted is whole


@pytest.mark.parametrize("plugin", [MLP(hidden=(40,)), DigitsConvnet()])
def test_training_finds_weights_that_can_go(plugin):
    ctx = context(plugin)
    recipe = Recipe(epochs=25, optimizer="adam", lr=5e-3, batch_size=50)
    if isinstance(plugin, DigitsConvnet):
        recipe = Recipe(epochs=2, optimizer="adam", lr=5e-3, batch_size=50)
    method = VariationalDropout(train=recipe, kl_start=1, kl_full=5)
    fitted = method.fit(ctx.model, ctx)
    assert all(not isinstance(m, NoisyLayer) for m in fitted.net.modules())
    logits = predict(method.compress(fitted, 0.5, ctx), ctx.data.test)
    right = (logits.argmax(1) == ctx.data.test.labels).double().mean().item()
    if isinstance(plugin, MLP):
        assert right > 0.93
        share = [m.value for m in ctx.recorded if m.metric == "zeros_at_threshold"]
        assert share[0] > 0.2
    assert logits.shape == (360, 10)


def test_a_warm_up_that_ends_before_it_begins_is_refused():
    with pytest.raises(Exception, match="kl_full is 3; it must be after kl_start 5"):
        find("method", "variational_dropout").build({"kl_full": 3})
