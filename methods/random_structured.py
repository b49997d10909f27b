"""Random attention groups and neurons removed: the baseline of structured pruning."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from harness.core import Context
from harness.registry import method
from methods._kernels import units


@method(
    "random_structured",
    ratio_of="weights",
    needs={"linears", "units"},
    kinds={"causal_lm"},
    stochastic=True,
    tolerance=0.01,
)
class RandomStructured:
    """Removes attention groups and MLP neurons that a random generator chooses.

    A group is a key-value head with its query heads; a neuron is an input channel of
    the down projection with the rows of gate and up that compute it. All of them are
    put in a random order, and the first ones leave until the share ``ratio`` of the
    block weights is gone; each attention and each MLP keeps one. The network gets
    smaller dense matrices.

    A method that chooses units by a score has to beat this one.
    """

    def compress(self, fitted: Any, ratio: float, ctx: Context) -> nn.Module:
        """A network with narrower matrices.

        Args:
            fitted: None; the method has no ``fit``.
            ratio: The share of the block weights to remove, in [0, 1).
            ctx: Gives the dense network and the random order.

        Returns:
            A network with fewer heads and neurons.

        Raises:
            Unsupported: If the model has other blocks, or the ratio leaves no unit.
        """
        net = ctx.dense()
        if ratio == 0:
            return net
        found = units.units_of(ctx.model)
        order = ctx.stream("order")
        scores = [torch.rand(one.count, generator=order) for one in found]
        kept = units.choose(ctx.model, found, scores, ratio)
        for one, stay in zip(found, kept, strict=True):
            if len(stay) < one.count:
                units.narrow(net, one, stay)
        return net
