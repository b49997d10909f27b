"""LLM-Pruner: structured pruning by first-order importance (arXiv:2305.11627)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from harness.core import Context, Model, NotFinite, Unsupported
from harness.registry import method
from methods._kernels import units
from methods._kernels.low_rank.curvature import backward, differentiable, likelihood


@method(
    "llm_pruner",
    ratio_of="weights",
    needs={"linears", "calibration", "units"},
    kinds={"causal_lm"},
    tolerance=0.01,
)
class LlmPruner:
    """Removes coupled channels whose loss changes least to first order.

    A unit is everything that has to leave together: an MLP neuron (its rows of gate and
    up, its column of down), or a key-value head with its query heads and their columns
    of the output projection. With the gradient ``g = dL / dw`` of the language-model
    loss, removing a weight changes the loss by about ``|w g|``. The importance of a
    unit is the sum over its weights (``element``), or the absolute sum of ``w g`` over
    each row or column, added up (``vector``). The units of an attention or an MLP are
    ranked alone, and each treated block loses the same share of both, up to one unit,
    so that the share ``ratio`` of all block weights is gone. The first and last blocks
    stay whole, since the paper finds that they matter most. Nothing is trained
    afterwards.

    The paper is arXiv:2305.11627. Its table on LLaMA-7B keeps the first 4 and the last
    2 of 32 blocks. The gradient is the mean over ``samples`` calibration windows, at
    the dense weights. Left out: the second-order terms (``element 2``), and the
    training of adapters on Alpaca. With key-value groups, the released code
    (horseee/LLM-Pruner at 128a07d) adds up query heads that do not share a key; here a
    unit has the query heads that read its key-value head.

    Args:
        importance: ``element`` sums ``|w g|`` over all weights of a unit; ``vector``
            takes the absolute sum of ``w g`` along each row or column first.
        samples: Calibration windows that the gradient is a mean over.
        keep_first: Number of blocks at the input that stay whole.
        keep_last: Number of blocks at the output that stay whole.
    """

    importance: Literal["element", "vector"] = "element"
    samples: int = 10
    keep_first: int = 4
    keep_last: int = 2

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If one is out of range.
        """
        if self.samples < 1 or min(self.keep_first, self.keep_last) < 0:
            raise ValueError(
                f"samples is {self.samples}, keep_first {self.keep_first}, keep_last "
                f"{self.keep_last}: samples is at least 1, the others at least 0"
            )

    def fit(self, model: Model, ctx: Context) -> dict[str, Tensor]:
        """The importance of the units of each treated reader, float64 ``(count,)``."""
        found = self._treated(model)
        net = differentiable(ctx).requires_grad_(False)
        for one in found:
            for name in (one.reader, *one.writers):
                net.get_submodule(name).weight.requires_grad_(True)
        tokens = ctx.calibration().tokens[: self.samples]
        # Gradients add up over the windows. Their mean differs by a factor, which
        # changes no ranking.
        for _ in backward(net, tokens, likelihood):
            pass
        made = {one.reader: self._importance(net, one) for one in found}
        for name, scores in made.items():
            if not bool(scores.isfinite().all()):
                raise NotFinite(f"the gradient of {name} is not finite")
        return made

    def compress(
        self, fitted: dict[str, Tensor], ratio: float, ctx: Context
    ) -> nn.Module:
        """A network with narrower matrices in the treated blocks.

        Args:
            fitted: The statistics of every block, from ``fit``; not changed.
            ratio: The share of the block weights to remove, in [0, 1).
            ctx: Gives a copy of the dense network.

        Returns:
            A network with fewer heads and neurons in the treated blocks.

        Raises:
            Unsupported: If the treated blocks do not hold so many weights.
        """
        net = ctx.dense()
        if ratio == 0:
            return net
        found = self._treated(ctx.model)
        # What share of its kind is gone once a unit has left: all lose the same.
        places = [
            (fitted[one.reader].argsort(stable=True).argsort() + 1.0) / one.count
            for one in found
        ]
        for one, stay in zip(
            found, units.choose(ctx.model, found, places, ratio), strict=True
        ):
            if len(stay) < one.count:
                units.narrow(net, one, stay)
        return net

    def _treated(self, model: Model) -> list[units.Units]:
        found = units.units_of(model)  # two entries a block
        last = len(found) - 2 * self.keep_last
        # Attention and MLP of each block, in order: two entries to skip for each block.
        treated = found[2 * self.keep_first : last]
        if not treated:
            raise Unsupported(
                f"{model.name} has {len(found) // 2} blocks, and keep_first "
                f"{self.keep_first} with keep_last {self.keep_last} leaves none to "
                "prune: lower them"
            )
        return treated

    def _importance(self, net: nn.Module, one: units.Units) -> Tensor:
        total = torch.zeros(one.count, dtype=torch.float64)
        for name in (one.reader, *one.writers):
            weight = net.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            assert weight.grad is not None
            change = weight.detach().double() * weight.grad.double()
            # One line for each channel of the unit: columns of the reader, else rows.
            lines = change.T if name == one.reader else change
            whole = lines.abs().sum(1) if self.importance == "element" else lines.sum(1)
            # (count, lines of a unit): several lines are the channels of the unit's
            # heads.
            total += whole.abs().view(one.count, -1).sum(1).cpu()
        return total
