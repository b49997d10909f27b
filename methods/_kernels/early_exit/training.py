"""Training networks with exits."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.core import Context, Measurement, Model, Unsupported
from harness.toolkit.training import Objective, Recipe, quiet_seed, train
from methods._kernels.early_exit.network import (
    Costs,
    ExitNet,
    Rule,
    costs_of,
    with_exits,
)
from methods._kernels.early_exit.thresholds import (
    Candidate,
    Validation,
    coordinate_search,
    refined,
    released_search,
)

Search = Literal["coordinate", "released"]

_TIMED = 100  # images, one at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A network with trained exits, and the thresholds to choose from.

    Args:
        net: The trained network with its exits.
        costs: MACs of each segment and head.
        candidates: Thresholds that the search found.
        validation: Tries other thresholds on the validation split.
    """

    net: ExitNet
    costs: Costs
    candidates: list[Candidate]
    validation: Validation


@dataclass(frozen=True, kw_only=True)
class EarlyExit:
    """What the early-exit methods share.

    The ratio asks for a share of MACs to save on average; of all thresholds that save
    at least that on the validation split, those of the highest accuracy are taken.

    Args:
        train: Joint training of network and heads.
        start: From ``scratch`` (torch's own initial weights) or the ``dense`` network.
        pool: Side of the average pooling in front of each linear head.
        search: How thresholds are found; see ``coordinate_search`` and
            ``released_search``.
    """

    train: Recipe = field(default_factory=lambda: Recipe(lr=0.02, weight_decay=5e-4))
    start: Literal["scratch", "dense"] = "scratch"
    pool: int = 1
    search: Search = "coordinate"

    rule: ClassVar[Rule]
    conv: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse heads that see nothing.

        Raises:
            ValueError: If ``pool`` is not positive.
        """
        if self.pool < 1:
            raise ValueError(f"pool is {self.pool}; it must be at least 1")

    def exit_rule(self) -> Rule:
        """When a sample leaves."""
        return self.rule

    def loss_at(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the softmax at one exit, the mean of a batch, in nats."""
        return functional.cross_entropy(logits, labels)

    def weights(self, exits: int) -> list[float]:
        """Weight of each exit's loss, and last of the network's own.

        >>> EarlyExit().weights(2)
        [0.3333333333333333, 0.5, 1.0]
        """
        return [1 / (exits - place + 1) for place in range(exits)] + [1.0]

    def fit(self, model: Model, ctx: Context) -> Trained:
        """Train network and heads, and search thresholds, once for all ratios."""
        plain = ctx.dense().to(ctx.device)
        with quiet_seed(ctx, "exits"):
            if self.start == "scratch":
                _reset(plain)
            net = with_exits(
                model, plain, ctx.data.classes, rule=self.exit_rule(),
                pool=self.pool, conv=self.conv,
            )  # fmt: skip
        goal = Joint(name="exits", method=self, weights=self.weights(len(net.exits)))
        train(net, self.train, ctx, objective=goal)
        costs = costs_of(net, model)
        split = ctx.data.validation
        seen = Validation(
            self.exit_rule(), every_logit(net, split), split.labels.cpu(), costs
        )
        searches = {"coordinate": coordinate_search, "released": released_search}
        return Trained(
            net=net,
            costs=costs,
            candidates=searches[self.search](seen),
            validation=seen,
        )

    def compress(self, fitted: Trained, ratio: float, ctx: Context) -> nn.Module:
        """The network with the thresholds for ``ratio``; 0 is the dense network."""
        if ratio == 0:
            return ctx.dense()
        # The candidates do not depend on the ratio: one training and one search serve
        # all.
        enough = [c for c in fitted.candidates if c.saved >= ratio]
        if not enough:
            most = max(c.saved for c in fitted.candidates)
            raise Unsupported(
                f"ratio {ratio} cannot be saved: leaving at the first exit saves "
                f"{most:.3f} of the MACs"
            )
        # Of equal accuracy, the one that saves the least: nearest to the ratio.
        chosen = max(enough, key=lambda c: (c.accuracy, -c.saved))
        if self.search == "coordinate":
            chosen = refined(fitted.validation, chosen, ratio)
        net = copy.deepcopy(fitted.net).eval()
        net.thresholds, net.costs = list(chosen.thresholds), fitted.costs
        # Rounded to remove the noise of `1 - (1 - x)`: `saved` is 1 - average / plain.
        net.average = round(fitted.costs.plain * (1 - chosen.saved), 6)
        ctx.record(
            Measurement(metric="achieved_ratio", value=chosen.saved),
            Measurement(metric="validation_accuracy_with_exits", value=chosen.accuracy),
            *(
                Measurement(metric=f"threshold_{place}", value=value)
                for place, value in enumerate(chosen.thresholds, 1)
            ),
            *_latencies(net, ctx),
        )
        return net


@dataclass(kw_only=True)
class Joint(Objective):
    """Weighted sum of the losses of all exits and of the network's own.

    Args:
        method: Gives the loss of an exit.
        weights: One for each exit, and for the end of the network.
    """

    method: EarlyExit
    weights: list[float]

    def loss(self, net: nn.Module, batch: Any) -> Tensor:
        """The joint loss of one batch."""
        assert isinstance(net, ExitNet)
        images, labels = batch
        *early, final = net.all_logits(images)
        total = self.weights[-1] * functional.cross_entropy(final, labels)
        # `strict=False`: the last weight is that of the network's own loss.
        for weight, logits in zip(self.weights, early, strict=False):
            total = total + weight * self.method.loss_at(logits, labels)
        return total


def _reset(net: nn.Module) -> None:
    for module in net.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()


@torch.inference_mode()
def every_logit(net: ExitNet, examples: Any) -> list[Tensor]:
    """Logits of every exit for every example.

    Args:
        net: Network with exits, in ``eval`` mode.
        examples: One split of the images and labels.

    Returns:
        For each exit and, last, the network: ``(n, classes)`` on the CPU.
    """
    device = next(net.parameters()).device
    parts = []
    for start in range(0, len(examples), 1000):
        index = torch.arange(start, min(start + 1000, len(examples)))
        images, _ = examples.batch(index)
        parts.append([x.cpu() for x in net.all_logits(images.to(device))])
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def _latencies(net: ExitNet, ctx: Context) -> list[Measurement]:
    """Median seconds of one image, with exits and through the whole plain network."""
    images, _ = ctx.data.validation.batch(
        # A smaller split is read more than once.
        torch.arange(_TIMED) % len(ctx.data.validation)
    )
    images = images.to(ctx.device)
    found = []
    for metric, timed in (("latency", net), ("latency_plain", net.stack)):
        times = []
        with torch.inference_mode():
            for image in images.split(1):
                begin = time.perf_counter()
                timed(image).cpu()  # waits for the device
                times.append(time.perf_counter() - begin)
        # The median, which a single disturbed run does not move.
        middle = sorted(times)[len(times) // 2]
        found.append(
            Measurement(metric=metric, value=middle, unit="s", goal="min", n=len(times))
        )
    return found
