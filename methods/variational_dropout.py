"""Sparse variational dropout: noisy weights become zero (arXiv:1701.05369)."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.core import Context, Measurement, Model, Unsupported
from harness.registry import method
from harness.toolkit.saved_model import replace
from harness.toolkit.training import Objective, Recipe, quiet_seed, train
from methods._kernels.masks import apply, keep_largest, record_zeros, refuse_empty

_K1, _K2, _K3 = 0.63576, 1.87320, 1.48695  # of the KL's approximation, section 4.2
_LARGEST = 8.0  # of |log alpha|


@dataclass(frozen=True, slots=True, kw_only=True)
class Noisy:
    """A network after variational training.

    Args:
        net: With ordinary layers that hold the means.
        log_alpha: Noise to signal of each weight, by layer.
    """

    net: nn.Module
    log_alpha: dict[str, Tensor]


@method(
    "variational_dropout", ratio_of="zeros", needs={"training_data"}, tolerance=0.001,
    kinds={"classifier"}, stochastic=True,
)  # fmt: skip
class VariationalDropout:
    """Learn a dropout rate for each weight; the noisiest weights become zero.

    Each weight is a normal random variable with mean theta and variance
    ``alpha theta^2``. The training minimises ``CE + share / N sum KL(alpha)`` over
    means and variances, with N training images and KL the divergence from the
    log-uniform prior (equation 14 of the paper), whose ``share`` rises from 0 at epoch
    5 to 1 at epoch 20. A large alpha means that the weight may be anything: it becomes
    zero. The others keep their mean. The paper is arXiv:1701.05369.

    The paper zeroes weights with a log alpha above ``threshold``, which fixes the
    sparsity; here the ratio fixes it, and the noisiest go first. The sparsity of the
    threshold is recorded as ``zeros_at_threshold``.

    Args:
        train: Training of means and variances; the paper has Adam at 1e-3 for 100
            epochs, then linearly to 0 at 200.
        start: From the ``dense`` network or from ``scratch``.
        log_variance: Initial log of the variances (-10 for the paper's LeNets).
        threshold: On log alpha; above it a weight is left out of the mean in training.
        kl_start: Epoch at which the KL term begins to rise.
        kl_full: Epoch at which it counts fully.
    """

    train: Recipe = field(
        default_factory=lambda: Recipe(
            epochs=200, optimizer="adam", lr=1e-3, schedule="linear", hold=0.5
        )
    )
    start: Literal["dense", "scratch"] = "scratch"
    log_variance: float = -10.0
    threshold: float = 3.0
    kl_start: int = 5
    kl_full: int = 20

    def __post_init__(self) -> None:
        """Refuse a warm-up that ends before it begins.

        Raises:
            ValueError: If ``kl_full`` is not after ``kl_start``.
        """
        if self.kl_full <= self.kl_start:
            raise ValueError(
                f"kl_full is {self.kl_full}; it must be after kl_start {self.kl_start}"
            )

    def fit(self, model: Model, ctx: Context) -> Noisy:
        """The variational training, once for all ratios."""
        net = ctx.dense().to(ctx.device)
        if self.start == "scratch":
            with quiet_seed(ctx, "variational"):
                for module in net.modules():
                    reset = getattr(module, "reset_parameters", None)
                    if callable(reset):
                        reset()
        names = [
            n for n, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)
        ]
        if not names:
            raise Unsupported(f"{model.name} has no linear or convolution to sparsify")
        for name in names:
            inner: Any = net.get_submodule(name)
            noisy = NoisyLayer(inner, self.log_variance, self.threshold).to(ctx.device)
            net = replace(net, name, noisy)
        goal = Bound(
            name="variational",
            label_smoothing=self.train.label_smoothing,
            examples=len(ctx.data.train),
            ramp=(self.kl_start, self.kl_full),
        )
        train(net, self.train, ctx, objective=goal)
        log_alpha = {}
        for name in names:
            trained: Any = net.get_submodule(name)
            log_alpha[name] = trained.log_alpha().detach().cpu()
            net = replace(net, name, trained.layer)
        whole = torch.cat([a.flatten() for a in log_alpha.values()])
        share = (whole > self.threshold).double().mean().item()
        ctx.record(Measurement(metric="zeros_at_threshold", value=share))
        return Noisy(net=net, log_alpha=log_alpha)

    def compress(self, fitted: Noisy, ratio: float, ctx: Context) -> nn.Module:
        """The means, with zeros in place of the noisiest."""
        if ratio == 0:
            return ctx.dense()
        # `keep_largest` drops the lowest: those with the largest alpha.
        scores = {name: -alpha for name, alpha in fitted.log_alpha.items()}
        masks = keep_largest(scores, ratio, "global")
        refuse_empty(masks, ratio)
        net = copy.deepcopy(fitted.net)
        apply(net, masks)
        record_zeros(net, masks, ctx)
        return net


class NoisyLayer(nn.Module):
    """A linear layer or convolution whose weights are normal random variables.

    Args:
        layer: Layer with the means of the weights.
        log_variance: Initial log of every variance.
        threshold: On log alpha; above it a mean counts as zero.
    """

    def __init__(
        self, layer: nn.Linear | nn.Conv2d, log_variance: float, threshold: float
    ) -> None:
        super().__init__()
        self.layer, self.threshold = layer, threshold
        start = torch.full_like(layer.weight, log_variance)
        self.log_variance = nn.Parameter(start)

    def log_alpha(self) -> Tensor:
        """Log of variance over squared mean, in [-8, 8], in the weight's shape."""
        # Keeps the logarithm finite at a weight of zero.
        square = self.layer.weight.square() + 1e-16
        return (self.log_variance - square.log()).clamp(-_LARGEST, _LARGEST)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs, drawn from their distribution in training, else their mean."""
        log_alpha = self.log_alpha()
        weight = self.layer.weight.masked_fill(log_alpha > self.threshold, 0)
        mean = self._apply_weight(inputs, weight, self.layer.bias)
        if not self.training:
            return mean
        # The local reparametrisation: a sum of independent normal numbers is normal, so
        # that outputs are drawn and not weights. The variances are alpha w^2, and add
        # up with the squares of the inputs. 1e-8 keeps the gradient of the root finite;
        # in half precision it would be lost beside them.
        spread = log_alpha.exp() * self.layer.weight.square()
        with torch.autocast(inputs.device.type, enabled=False):
            squares = inputs.float().square()
            variance = self._apply_weight(squares, spread, None) + 1e-8
        return mean + variance.sqrt() * torch.randn_like(mean)

    def _apply_weight(
        self, inputs: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        if isinstance(self.layer, nn.Conv2d):
            return self.layer._conv_forward(inputs, weight, bias)
        return functional.linear(inputs, weight, bias)


def divergence(log_alpha: Tensor) -> Tensor:
    """KL divergence of each weight's posterior from the log-uniform prior.

    Molchanov et al. 2017, equation 14, up to a constant that makes it 0 where alpha
    is infinite; within 0.01 of the exact value.

    Args:
        log_alpha: Logarithm of alpha of each weight, any shape.

    Returns:
        The same shape, at least 0 but for rounding.
    """
    sigmoid = torch.sigmoid(_K2 + _K3 * log_alpha)
    # softplus(-log alpha) = log(1 + 1 / alpha)
    return _K1 - _K1 * sigmoid + 0.5 * functional.softplus(-log_alpha)


@dataclass(kw_only=True)
class Bound(Objective):
    """Cross-entropy plus the KL divergence for each training example.

    Args:
        examples: Number N of training examples, by which the divergence is divided.
        ramp: Epochs between which the KL term rises from 0 to 1.
    """

    examples: int
    ramp: tuple[int, int]
    share: float = 0.0

    def before_epoch(self, net: nn.Module, epoch: int) -> None:
        """Set how much the KL term counts."""
        start, full = self.ramp
        self.share = min(1.0, max(0.0, (epoch - start) / (full - start)))

    def loss(self, net: nn.Module, batch: Any) -> Tensor:
        """The negative lower bound of one batch, per example."""
        cost = super().loss(net, batch)
        for module in net.modules():
            if isinstance(module, NoisyLayer) and self.share:
                total = divergence(module.log_alpha()).sum()
                # The bound is a sum over all examples minus one divergence: for each
                # example a share of 1 / N of it.
                cost = cost + self.share / self.examples * total
        return cost
