"""Random filters removed: the baseline of filter pruning."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from harness.core import Context
from harness.registry import method
from harness.toolkit.training import Recipe
from methods._kernels.filters import surgery


@method(
    "random_filter", ratio_of="parameters", needs={"training_data", "convs"},
    tolerance=0.1, kinds={"classifier"}, stochastic=True,
)  # fmt: skip
class RandomFilter:
    """Every layer loses the same share of its filters, chosen at random.

    A method that chooses filters by a score has to beat this one at equal training.

    Args:
        finetune: Training afterwards; None for none.
    """

    finetune: Recipe | None = None

    def compress(self, fitted: Any, ratio: float, ctx: Context) -> nn.Module:
        """A narrower network.

        Args:
            fitted: None; the method has no ``fit``.
            ratio: The share of the parameters to remove, in [0, 1).
            ctx: Gives the dense network, the random order and the data.

        Returns:
            The narrower network, in ``eval`` mode.
        """
        net = ctx.dense()
        if ratio == 0:
            return net
        drawn = ctx.stream("random_filter")
        scores = {
            g.name: torch.rand(g.size, generator=drawn)
            for g in surgery.groups(ctx.model, net)
        }
        ranked = surgery.uniform(scores)
        return surgery.narrow(
            net, ranked, ratio, ctx, recipe=self.finetune, name="random_filter"
        )
