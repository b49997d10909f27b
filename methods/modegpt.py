"""MoDeGPT: fewer neurons, and heads with fewer channels (arXiv:2408.09632)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.core import Context, Model, Unsupported
from harness.registry import method
from methods._kernels import heads, reduced
from methods._kernels.influence import block_influence
from methods._kernels.low_rank.factors import check_finite
from methods._kernels.value_output import (
    ValueOutput,
    keep_value_output,
    value_output,
)


@dataclass(frozen=True, slots=True)
class Block:
    """What one block keeps first.

    Args:
        influence: One minus the mean cosine of the hidden states before and behind it.
        channels: Squared scores of the channels of query and key, shape
            ``(key_heads, head_dim)``.
        values: The directions of value and output.
        leverage: Ridge leverage scores of the neurons, shape ``(neurons,)``.
    """

    influence: float
    channels: Tensor
    values: ValueOutput
    leverage: Tensor


@method(
    "modegpt",
    ratio_of="weights",
    needs={"linears", "calibration", "units"},
    kinds={"causal_lm"},
    tolerance=0.05,
)
class MoDeGpt:
    """Decomposes pairs of matrices together, so that the width between them shrinks.

    Each block has three pairs, and with calibration inputs x each has its own
    decomposition, in closed form:

    - up (and gate) with down, by Nystrom: with ``C = mean(z z^T)`` over the inputs z of
      the down projection D, the neurons J with the highest ridge leverage scores
      ``[C (C + ridge I)^-1]_ii`` stay, and ``D_J = D C_:J C_JJ^-1``, which is the least
      squares fit of the outputs of D;
    - query with key, by CR: of each head the channels i stay with the largest
      ``E[q_i^2] E[k_i^2]``, in pairs where rotary positions turn two together;
    - value with output, by SVD: the directions of their product that keep its output
      on x best.

    Block l removes the share ``phi_l = L ratio softmax(-s / temperature)_l``, with L
    blocks and s_l the influence of the block (one minus the mean cosine of the hidden
    states before and behind it): a block that changes little loses more. Nothing is
    trained. By default the temperature is 0.15, a block loses at most 0.8 (the others
    lose the rest), and the ridge is 0.01.

    The paper is arXiv:2408.09632. No code of its authors is known; the defaults are
    those of an independent implementation (cbacary/MoDeGPT at 2a76ae8). Differences
    from it: with grouped-query attention, value and output are decomposed together over
    all query heads of a group, where it decomposes the value alone; the neurons take up
    what the rounding to whole channels leaves of a block's budget; the bias of a value
    becomes part of the bias of the output, which is exact.

    The MLP becomes narrower dense matrices. The matrices of the attention become
    smaller too, with zeros in the place of the removed channels: they still take part
    in the attention and in its cache.

    Args:
        temperature: How evenly the blocks are compressed; a high one gives all the
            same ratio.
        most: The largest share that a block loses, in (0, 1).
        ridge: Added to the diagonal of C for the scores, in the unit of ``z^2``.
    """

    temperature: float = 0.15
    most: float = 0.8
    ridge: float = 0.01

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: If one is out of its range.
        """
        if self.temperature <= 0 or self.ridge <= 0:
            raise ValueError(
                f"temperature {self.temperature} and ridge {self.ridge}: give numbers "
                "above 0"
            )
        if not 0 < self.most < 1:
            raise ValueError(f"most {self.most} is not between 0 and 1")

    def fit(self, model: Model, ctx: Context) -> list[Block]:
        """Scores and directions of every block, in the network's order."""
        parts, calibration = heads.parts_of(model), ctx.calibration()
        # One pass through the blocks serves both statistics.
        with reduced.watched(model, parts) as moments:
            influence = block_influence(model, calibration.tokens)
        found = []
        for one, score in zip(parts, influence.tolist(), strict=True):
            query, key = (moments[one.names[r]].squares() for r in ("query", "key"))
            gram = calibration.gram(one.names["value"])
            inner = calibration.gram(one.names["down"]).double()
            check_finite(inner, f"the statistics of the input of {one.names['down']}")
            values = value_output(model.net, one, gram)
            channels = heads.pair_scores(one, query, key)
            found.append(Block(score, channels, values, leverage(inner, self.ridge)))
        return found

    def compress(self, fitted: list[Block], ratio: float, ctx: Context) -> nn.Module:
        """A network with narrower matrices.

        Args:
            fitted: The statistics of every block, from ``fit``; not changed.
            ratio: The share of the block weights to remove, in [0, 1).
            ctx: Gives a copy of the dense network and the calibration statistics.

        Returns:
            A network of the same architecture, with thinner matrices in every block.

        Raises:
            Unsupported: If the ratio leaves a block without a neuron, or is beyond
                ``most``.
        """
        net = ctx.dense()
        if ratio == 0:
            return net
        influence = torch.tensor([b.influence for b in fitted], dtype=torch.float64)
        shares = removed(influence, ratio, self.temperature, self.most)
        calibration = ctx.calibration()
        for one, block, share in zip(
            heads.parts_of(ctx.model), fitted, shares, strict=True
        ):
            # What the block may store in the end; the attention is cut first, to whole
            # channels, and the neurons take what is left.
            budget = int(reduced.stored(net, one) - share * reduced.weights(net, one))
            _attention(net, one, block, share)
            gram = calibration.gram(one.names["down"])
            reduced.keep_neurons(net, one, block.leverage, budget, gram)
        return net


def removed(influence: Tensor, ratio: float, temperature: float, most: float) -> Any:
    """The share that each block loses, with a given mean.

    Args:
        influence: Of each block, shape ``(L,)``.
        ratio: The mean of the shares.
        temperature: Of the softmax over the negative influences.
        most: No share is above it; the other blocks lose what is missing.

    Returns:
        The share of each block, L numbers from 0 to ``most``.

    Raises:
        Unsupported: If the mean is above ``most``.

    >>> [round(s, 3) for s in removed(torch.tensor([0.0, 0.0, 9.0]), 0.4, 1.0, 0.5)]
    [0.5, 0.5, 0.2]
    """
    if ratio > most:
        raise Unsupported(
            f"ratio {ratio} is above {most}, the most that a block may lose: lower the "
            "ratio or raise the option `most`"
        )
    weights = (-influence.double() / temperature).softmax(0)  # mean 1 / L
    shares, free = torch.zeros_like(weights), torch.ones_like(weights, dtype=torch.bool)
    left = ratio * len(weights)
    # L ratio softmax(...), unless a share is above `most`: such blocks are fixed at
    # `most`, and the rest is divided among the others in proportion. Each round fixes
    # at least one block.
    while bool(free.any()):
        # Weights of free blocks may all round to zero, and then count as equal.
        part = weights[free].clamp_min(torch.finfo(torch.float64).tiny)
        shares[free] = left * part / part.sum()
        over = free & (shares > most)
        if not bool(over.any()):
            break
        shares[over] = most
        left -= most * int(over.sum())
        free &= ~over
    return shares.tolist()


def leverage(moment: Tensor, ridge: float) -> Tensor:
    """Ridge leverage scores: the diagonal of ``C (C + ridge I)^-1``.

    >>> leverage(torch.diag(torch.tensor([3.0, 1.0])), 1.0).tolist()
    [0.75, 0.5]
    """
    added = moment + ridge * torch.eye(len(moment), dtype=moment.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(added))
    # C (C + r I)^-1 = I - r (C + r I)^-1
    return 1 - ridge * inverse.diagonal()


def _attention(net: nn.Module, parts: heads.Parts, block: Block, share: float) -> None:
    width = parts.width(share)
    heads.keep_best_query_key(net, parts, block.channels, width)
    if width < parts.head_dim:
        keep_value_output(net, parts, block.values, max(1, width))
