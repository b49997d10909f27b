"""ShortGPT: drops the blocks that change the hidden states least (arXiv:2403.03853)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness.core import Context, Measurement, Model, Unsupported
from harness.registry import method
from harness.toolkit.blockwise import stream
from harness.toolkit.saved_model import layer, replace
from methods._kernels.influence import block_influence


@layer("dropped_block")
class DroppedBlock(nn.Module):
    """Stands where a block was and passes the hidden states on.

    Args:
        in_tuple: Whether the block gave them as the first of a tuple (BLOOM, Falcon).
    """

    def __init__(self, *, in_tuple: bool = False) -> None:
        super().__init__()
        self.in_tuple = in_tuple

    def forward(
        self, hidden_states: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor | tuple[Tensor]:
        """The hidden states as they came, whatever else a block is called with."""
        return (hidden_states,) if self.in_tuple else hidden_states

    def spec(self) -> dict[str, Any]:
        """Keyword arguments that rebuild it."""
        return {"in_tuple": self.in_tuple}


@method(
    "shortgpt",
    ratio_of="weights",
    needs={"linears", "calibration"},
    kinds={"causal_lm"},
    tolerance=0.05,
)
class ShortGpt:
    """Drops whole blocks of a language model, those of least influence.

    The influence of block i is ``BI_i = 1 - E[x_i . x_i+1 / (||x_i|| ||x_i+1||)]``, one
    minus the mean cosine between the hidden states that enter and that leave it, over
    all tokens of the calibration text. The ``ceil(ratio L)`` blocks of least influence
    of L leave, so that at least the share ``ratio`` of the block weights is gone.
    Nothing is trained. The first block always stays: the key-value cache counts the
    tokens that it has seen.

    The paper is arXiv:2403.03853. It states numbers of blocks; a ratio between two of
    them is rounded up. The influence of the last block is taken before the final norm.

    Args:
        score: ``influence`` is BI. ``random`` draws the blocks; ``last`` takes the last
            ones, two baselines of the paper's kind.
    """

    score: Literal["influence", "random", "last"] = "influence"

    def fit(self, model: Model, ctx: Context) -> Tensor:
        """The influence of each block: float64, shape ``(L,)``."""
        return block_influence(model, ctx.calibration().tokens)

    def compress(self, fitted: Tensor, ratio: float, ctx: Context) -> nn.Module:
        """A network with fewer blocks.

        Args:
            fitted: The influence of each block.
            ratio: The share of the block weights to remove, in [0, 1).
            ctx: Gives the dense network; records ``dropped``: the influence of each
                dropped block, with its number as the step.

        Returns:
            A network that passes the states on where a block was dropped.

        Raises:
            Unsupported: If the ratio leaves no block.
        """
        net = ctx.dense()
        if ratio == 0:
            return net
        total = len(fitted)
        # A product such as 30 * 0.1 = 3.0000000000000004 must not drop a fourth block.
        count = math.ceil(ratio * total - 1e-9)
        if count >= total:
            raise Unsupported(
                f"ratio {ratio} leaves none of the {total} blocks; the highest ratio "
                f"is {(total - 1) / total:.4f}"
            )
        # Two tokens are enough to see which blocks return a tuple.
        running = stream(ctx.model, ctx.calibration().tokens[:1, :2])
        for index in self._chosen(fitted, count, ctx):
            block = DroppedBlock(in_tuple=running.in_tuple[index])
            replace(net, f"{running.path}.{index}", block)
            influence = float(fitted[index])
            ctx.record(Measurement(metric="dropped", value=influence, step=index))
        return net

    def _chosen(self, fitted: Tensor, count: int, ctx: Context) -> list[int]:
        """Indices of the blocks to drop, in order; never the first."""
        rest = len(fitted) - 1
        if self.score == "random":
            order = torch.randperm(rest, generator=ctx.stream("blocks"))
        elif self.score == "last":
            order = torch.arange(rest).flip(0)
        else:
            order = fitted[1:].argsort(stable=True)
        return sorted((order[:count] + 1).tolist())
