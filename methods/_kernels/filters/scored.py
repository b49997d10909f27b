"""What methods share that score filters on images, cut them, and fine-tune."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from harness.core import Context, Model
from harness.toolkit.training import Recipe
from methods._kernels.filters import surgery


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores are means over batches of training images.

    Args:
        batches: Batches that the scores are means over.
        batch_size: Number of images per batch.
        steps: Number of cuts, each of the same number of parameters; before each one
            the filters that are left are scored again.
        between: Training between two cuts; None for none.
        finetune: Training after the last cut; None for none.
        normalise: ``layer`` divides the scores of each layer by their Euclidean norm,
            so that layers can be ranked together; ``none`` does not.
        floor: Share of each layer's dense filters that stays.
    """

    batches: int = 10
    batch_size: int = 100
    steps: int = 1
    between: Recipe | None = None
    finetune: Recipe | None = None
    normalise: Literal["none", "layer"] = "none"
    floor: float = 0.0

    stream: ClassVar[str]  # names the random streams and the checkpoint
    layerwise: ClassVar[bool] = False  # whether every layer loses the same share

    def __post_init__(self) -> None:
        """Refuse scores over nothing.

        Raises:
            ValueError: If ``batches`` or ``batch_size`` is not positive.
        """
        if self.batches < 1 or self.batch_size < 1:
            raise ValueError(
                f"batches is {self.batches} and batch_size {self.batch_size}; both are "
                "at least 1"
            )
        if self.steps < 1 or not 0 <= self.floor < 1:
            raise ValueError(
                f"steps is {self.steps} and floor {self.floor}; at least 1, and in "
                "[0, 1)"
            )

    def score(
        self,
        net: nn.Module,
        found: list[surgery.Group],
        images: Tensor,
        labels: Tensor,
    ) -> dict[str, Tensor]:
        """The scores of all filters on one batch, each of shape ``(filters,)``."""
        raise NotImplementedError

    def fit(self, model: Model, ctx: Context) -> dict[str, Tensor]:
        """The mean scores of all filters of the dense network, by convolution."""
        return self._scores(ctx.dense(), ctx)

    def _scores(self, net: nn.Module, ctx: Context) -> dict[str, Tensor]:
        net = net.to(ctx.device).eval()
        found = surgery.groups(ctx.model, net)
        totals = {g.name: torch.zeros(g.size) for g in found}
        count = 0
        for images, labels in surgery.batches(
            ctx, self.stream, self.batches, self.batch_size
        ):
            count += 1
            for name, score in self.score(net, found, images, labels).items():
                totals[name] += score.cpu()
        scores = {name: total / count for name, total in totals.items()}
        if self.normalise == "layer":
            # Scores of all zeros stay zeros.
            scores = {n: s / s.norm().clamp_min(1e-30) for n, s in scores.items()}
        return scores

    def compress(
        self, fitted: dict[str, Tensor], ratio: float, ctx: Context
    ) -> nn.Module:
        """A narrower network."""
        if ratio == 0:
            return ctx.dense()
        net, scores = ctx.dense(), fitted
        # A share of the dense widths, which the cuts before do not lower.
        floor = {
            g.name: math.ceil(self.floor * g.size)
            for g in surgery.groups(ctx.model, ctx.model.net)
        }
        epoch = 0
        for step in range(1, self.steps + 1):
            # The dense network's scores come from `fit`, once for all ratios.
            if step > 1:
                surgery.retrain(
                    net, self.between, ctx, name=f"{self.stream}-{step}", epoch=epoch
                )
                epoch += self.between.epochs if self.between else 0
                scores = self._scores(net, ctx)
            # The budget of this step: the same number of parameters leaves with each
            # cut.
            ranked = surgery.uniform(scores) if self.layerwise else scores
            budget = surgery.budget_of(ctx.model, ratio * step / self.steps)
            net = surgery.prune_to(ctx.model, net, ranked, budget, floor=floor)
        surgery.retrain(net, self.finetune, ctx, name=self.stream, epoch=epoch)
        surgery.record_widths(ctx.model, net, ctx)
        return net
