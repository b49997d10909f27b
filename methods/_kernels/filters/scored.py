"""What methods share that score filters on images once, cut them, and fine-tune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from harness.core import Context, Model
from harness.toolkit.training import Recipe
from methods._kernels.filters import surgery


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores are means over batches of training images; every ratio ranks the same.

    Args:
        batches: Batches that the scores are means over.
        batch_size: Number of images per batch.
        finetune: Training afterwards; None for none.
    """

    batches: int = 10
    batch_size: int = 100
    finetune: Recipe | None = None

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
        """The mean scores of all filters, by convolution."""
        net = ctx.dense().to(ctx.device).eval()
        found = surgery.groups(model, net)
        totals = {g.name: torch.zeros(g.size) for g in found}
        count = 0
        for images, labels in surgery.batches(
            ctx, self.stream, self.batches, self.batch_size
        ):
            count += 1
            for name, score in self.score(net, found, images, labels).items():
                totals[name] += score.cpu()
        return {name: total / count for name, total in totals.items()}

    def compress(
        self, fitted: dict[str, Tensor], ratio: float, ctx: Context
    ) -> nn.Module:
        """A narrower network."""
        if ratio == 0:
            return ctx.dense()
        scores = surgery.uniform(fitted) if self.layerwise else fitted
        return surgery.narrow(
            ctx.dense(), scores, ratio, ctx, recipe=self.finetune, name=self.stream
        )
