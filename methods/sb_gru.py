"""Stick-breaking GRU: train a posterior over a matrix, store it in few bits."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness.core import Context, Measurement, Model, Unsupported
from harness.options import build
from harness.registry import method
from harness.toolkit.recipe import Recipe
from harness.toolkit.saved_model import replace
from harness.toolkit.seq2seq_training import Translating, train_translation
from harness.toolkit.training import quiet_seed
from methods._kernels.variational.fixed_point import (
    FLOAT_BITS,
    FixedPoint,
    plan,
    stored_bits,
    unit_round_off_bits,
)
from methods._kernels.variational.posterior import (
    Prior,
    VariationalLinear,
    make_variational,
    total_kl,
)

_LEAST_VARIANCE = 1e-12  # what rounding in float32 would leave anyway


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """What training leaves of one treated matrix.

    Args:
        mean: Posterior mean of each weight times its utility, shape ``(out, in)``.
        variance: Posterior variance of this product, of the same shape.
        utility: Posterior probability that each weight is of use, of the same shape.
    """

    mean: Tensor
    variance: Tensor
    utility: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """A trained network, ready to be compressed at any ratio.

    Args:
        net: With plain linear layers in the place of the treated ones.
        matrices: Name of a treated layer -> its posterior, which all ratios share.
    """

    net: nn.Module
    matrices: Mapping[str, Matrix]


@method(
    "sb_gru",
    ratio_of="bits",
    needs={"training_data", "recurrent"},
    kinds={"seq2seq"},
    stochastic=True,
    version=3,
)
class SbGru:
    """Variational training of the model's treated matrices (arXiv:2102.06143).

    The four systems of the paper's Table 1 are the four values of ``variant``.
    ``ratio`` is the share of the bits of the treated matrices to remove, of 32 a
    weight; 0.25 leaves float32's own 24 bits, so that it is the network as trained,
    and 0.9375 leaves 2, the paper's factor of 16. What is left is spent row by row
    where the posterior variance says that it matters, and packed.

    The defaults suit trainings of ten epochs or so, in which a posterior that learns at
    the means' rate gets nowhere; the paper's 150,000 steps want ``warmup: 0`` and
    ``posterior_rate: 1``.

    Args:
        variant: ``plain`` compresses the dense network, untrained; ``gaussian`` trains
            a normal posterior of each weight, ``sticks`` utility indicators with a
            stick-breaking prior, ``full`` both.
        start: Train from fresh weights, as the paper, or from the dense network's.
        cutoff: Weights whose utility is less probable become 0; 0 keeps all.
        kl_weight: Of the divergence from the prior; 1 is the evidence lower bound.
        warmup: Epochs over which that weight rises from 0.
        alpha: Of the prior Beta(alpha, 1); None for the number of sticks.
        truncation: Columns beyond this many have no utility; None for all.
        temperature: Of the relaxed indicators at the start.
        coldest: Where the temperature stops falling.
        cooling: Share of the training's epochs after which it is there; it falls
            exponentially. 0 starts at the coldest.
        sigma: Standard deviation that the posteriors start from.
        posterior_rate: How much faster than the means the posterior's other numbers
            learn.
        rows: Give each row its own bits; false for the plain choice, equal variances.
        recipe: Fields to change in the recipe of the dense network; None changes none.
    """

    variant: Literal["plain", "gaussian", "sticks", "full"] = "full"
    start: Literal["scratch", "dense"] = "scratch"
    cutoff: float = 0.01
    kl_weight: float = 1.0
    warmup: float = 3.0
    alpha: float | None = None
    truncation: int | None = None
    temperature: float = 1.0
    coldest: float = 0.5
    cooling: float = 0.5
    sigma: float = 0.0067
    posterior_rate: float = 10.0
    rows: bool = True
    recipe: dict[str, Any] | Recipe | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be trained or stored.

        Raises:
            ValueError: With every option that is out of range.
        """
        rules = {
            "cutoff": (0 <= self.cutoff < 1, "in [0, 1)"),
            "kl_weight": (self.kl_weight >= 0, "at least 0"),
            "warmup": (self.warmup >= 0, "at least 0"),
            "alpha": (self.alpha is None or self.alpha > 0, "above 0"),
            "truncation": (self.truncation is None or self.truncation > 0, "above 0"),
            "temperature": (self.temperature > 0, "above 0"),
            "coldest": (0 < self.coldest <= self.temperature, "in (0, temperature]"),
            "cooling": (0 <= self.cooling <= 1, "in [0, 1]"),
            "sigma": (self.sigma > 0, "above 0"),
            "posterior_rate": (self.posterior_rate > 0, "above 0"),
        }
        wrong = [
            f"{name} is {getattr(self, name)!r}; it must be {allowed}"
            for name, (fine, allowed) in rules.items()
            if not fine
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
        # Builds the recipe once, so that a wrong field is reported before anything
        # runs.
        self.recipe_for(Recipe())

    def recipe_for(self, dense: Recipe) -> Recipe:
        """The recipe of the training, from the recipe of the dense network."""
        if isinstance(self.recipe, Recipe):
            return self.recipe
        made: Recipe = build("option", "recipe", Recipe, self.recipe or {}, dense)
        return made

    def fit(self, model: Model, ctx: Context) -> Posterior:
        """Train the posterior; the one expensive step, shared by all ratios."""
        names = treated(model)
        net = ctx.dense()
        if self.variant == "plain":
            return Posterior(net=net, matrices=_settle(net, names))
        assert isinstance(net.recipe, Recipe)
        recipe = self.recipe_for(net.recipe)
        # Also around `make_variational`: utilities start from random numbers.
        with quiet_seed(ctx, "sb_gru/initial weights"):
            if self.start == "scratch":
                net.reset_parameters()  # type: ignore[operator]
            layers = make_variational(net, names, self._prior())
        own = {"method": self, "layers": layers, "epochs": recipe.epochs}
        train_translation(net, recipe, ctx, Variational, **own)
        posterior = Posterior(net=net, matrices=_settle(net, names))
        ctx.record(*_report(posterior.matrices.values(), self.cutoff))
        return posterior

    def compress(self, fitted: Posterior, ratio: float, ctx: Context) -> nn.Module:
        """The trained network with its treated matrices in fixed point.

        Args:
            fitted: Posterior of the weights, from ``fit``.
            ratio: Share of the treated matrices' bits to remove; 0 gives the dense
                network, with which everything is compared.
            ctx: Receives the bits per weight.

        Returns:
            The network with integers of 2 to 32 bits in its treated matrices.

        Raises:
            Unsupported: If so few bits are left that not even the rows can be named.
        """
        if ratio == 0:
            return ctx.dense()
        net = copy.deepcopy(fitted.net)
        matrices = fitted.matrices
        means = {
            # Zeros are cheap: the bitmap of a row stores one in a single bit.
            name: torch.where(m.utility >= self.cutoff, m.mean, 0.0)
            for name, m in matrices.items()
        }
        variances = [
            # An error e of a weight costs e^2 / 2 v: with equal variances v every error
            # costs the same. At v = 0 the cost would not be finite.
            (m.variance if self.rows else torch.ones_like(m.mean)).clamp_min(
                _LEAST_VARIANCE
            )
            for m in matrices.values()
        ]
        whole = FLOAT_BITS * sum(m.mean.numel() for m in matrices.values())
        try:
            plans = plan(
                list(means.values()), variances, math.floor(whole * (1 - ratio))
            )
        except ValueError as why:
            raise Unsupported(f"ratio {ratio} of {ctx.model.name}: {why}") from why
        for (name, mean), its_plan in zip(means.items(), plans, strict=True):
            bias = net.get_submodule(name).bias
            assert isinstance(bias, Tensor)
            replace(net, name, FixedPoint.of(mean, bias, its_plan))
        ctx.record(*_sizes(stored_bits(net), whole))
        return net

    def _prior(self) -> Prior:
        return Prior(
            gaussian=self.variant in ("gaussian", "full"),
            sticks=self.variant in ("sticks", "full"),
            alpha=self.alpha,
            truncation=self.truncation,
            sigma=self.sigma,
            rate=self.posterior_rate,
        )


@dataclass(kw_only=True)
class Variational(Translating):
    """The negative evidence lower bound per target word.

    Args:
        method: The method's options with its schedules.
        layers: The matrices that have a posterior.
        epochs: Number of epochs of the whole training.
        name: Name of the checkpoint files.
        epoch: Number of the running epoch.
    """

    method: SbGru
    layers: list[VariationalLinear]
    epochs: int
    name: str = "sb_gru"
    epoch: int = field(default=0, init=False)

    def loss(self, net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Loss of the batch, and its share of the divergence from the prior."""
        # The lower bound is a sum over all target words minus one divergence. The loss
        # of a batch is a mean over its words, to which 1 / words of the divergence
        # belongs.
        divergence = total_kl(self.layers) / self.buckets.pairs.target_words
        return super().loss(net, batch) + self.weight() * divergence

    def weight(self) -> float:
        """What the divergence counts in this epoch."""
        warmup = self.method.warmup
        share = 1.0 if not warmup else min(1.0, self.epoch / warmup)
        return self.method.kl_weight * share

    def before_epoch(self, net: nn.Module, epoch: int) -> None:
        """Deal the batches; cool the indicators."""
        super().before_epoch(net, epoch)
        self.epoch = epoch
        for layer in self.layers:
            layer.temperature = self.temperature()

    def temperature(self) -> float:
        """Of the relaxed indicators in this epoch.

        Of the epochs E it falls over the first c E, c being the method's ``cooling``:
        ``T_e = T_0 (T_c / T_0)^(e / (c E))``, then it stays at the coldest ``T_c``. A
        rate a step instead would leave a short training at its start.
        """
        first, coldest = self.method.temperature, self.method.coldest
        length = self.method.cooling * self.epochs
        share = min(1.0, self.epoch / length) if length else 1.0
        return first * (coldest / first) ** share

    def validate(self, net: nn.Module, data: Any) -> dict[str, Measurement]:
        """The loss of the mean weights on the dev pairs, and the divergence."""
        points = super().validate(net, data)
        with torch.no_grad():
            value = float(total_kl(self.layers)) / self.buckets.pairs.target_words
        points["divergence"] = Measurement(
            metric="divergence", value=value, goal="none"
        )
        return points


def treated(model: Model) -> list[str]:
    """Names of the matrices that the model marks as ``linear``.

    Args:
        model: A GRU sequence-to-sequence model.

    Returns:
        Names, in order.

    Raises:
        Unsupported: If there is none.
    """
    names = [n for n, m in model.modules("linear") if type(m) is nn.Linear]
    if not names:
        raise Unsupported(f"{model.name} marks no matrix as `linear`")
    return names


@torch.no_grad()
def _settle(net: nn.Module, names: Iterable[str]) -> dict[str, Matrix]:
    """Put the posterior means in place, as plain layers, and give the rest back."""
    matrices = {}
    for name in names:
        layer = net.get_submodule(name)
        if isinstance(layer, nn.Linear):
            # `plain` has no posterior: equal variances, and every weight of use.
            one = torch.ones_like(layer.weight)
            matrices[name] = _matrix(layer.weight, one, one)
            continue
        assert isinstance(layer, VariationalLinear)
        matrices[name] = _matrix(layer.expected(), layer.variance(), layer.utility())
        rows, columns = layer.mean.shape
        plain = nn.Linear(columns, rows)
        plain.weight.copy_(layer.expected())
        plain.bias.copy_(layer.bias)
        replace(net, name, plain.to(layer.mean.device))
    return matrices


def _matrix(mean: Tensor, variance: Tensor, utility: Tensor) -> Matrix:
    """On the CPU, where bits are dealt out and packed."""
    return Matrix(
        mean=mean.detach().cpu(), variance=variance.cpu(), utility=utility.cpu()
    )


def _report(matrices: Iterable[Matrix], cutoff: float) -> list[Measurement]:
    """What the posterior says of itself: weights in use, and bits worth storing."""
    utilities = torch.cat([m.utility.flatten() for m in matrices])
    kept = utilities >= cutoff
    variances = torch.cat([m.variance.flatten() for m in matrices])[kept]
    # Only of weights that stay; one that is zeroed needs no digits.
    significand = (
        unit_round_off_bits(variances).double().mean() if len(variances) else 0
    )
    return [
        Measurement(
            metric="utilities_kept",
            value=float(kept.double().mean()),
            goal="none",
            n=len(kept),
        ),
        Measurement(
            metric="posterior_significand_bits", value=float(significand), goal="none"
        ),
    ]


def _sizes(bits: int, whole: int) -> list[Measurement]:
    return [
        Measurement(metric="achieved_ratio", value=1 - bits / whole, n=whole),
        Measurement(
            metric="treated_bits_per_weight",
            value=FLOAT_BITS * bits / whole,
            unit="bit",
            goal="min",
            n=whole // FLOAT_BITS,
        ),
    ]
