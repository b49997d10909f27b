"""A3: narrower heads and MLPs for the least error of scores and outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.core import Context, Model
from harness.registry import method
from harness.toolkit.blockwise import stream
from methods._kernels import heads, reduced
from methods._kernels.low_rank.factors import check_finite, matrix
from methods._kernels.low_rank.spectra import psd_roots
from methods._kernels.value_output import (
    ValueOutput,
    keep_value_output,
    value_output,
)


@dataclass(frozen=True, slots=True)
class Block:
    """What one block keeps first.

    Args:
        query: Second moments of its queries, shape ``(heads, head_dim, head_dim)``.
        key: Second moments of its keys, shape ``(key_heads, head_dim, head_dim)``.
        values: The directions of value and output.
        neurons: Scores of the neurons, shape ``(neurons,)``.
    """

    query: Tensor
    key: Tensor
    values: ValueOutput
    neurons: Tensor


@method(
    "a3",
    ratio_of="weights",
    needs={"linears", "calibration", "units"},
    kinds={"causal_lm"},
    tolerance=0.05,
)
class A3:
    """Shrinks the width inside attention and MLP, for the least error of their results.

    Each block has three parts, and each loses the share ``ratio`` of its inner width in
    closed form, with calibration inputs x:

    - query and key, for the scores ``q^T k`` before the softmax: with
      ``M_q = mean(q q^T)`` and ``M_k = mean(k k^T)`` of a head and the SVD
      ``M_q^(1/2) M_k^(1/2) = U S V^T``, the best scores of width r are
      ``q'^T k'`` with ``q' = S_r^(1/2) U_r^T M_q^(-1/2) q`` and
      ``k' = S_r^(1/2) V_r^T M_k^(-1/2) k``. Rotary positions turn channels in pairs
      between the two, and several query heads may share a key: then whole channels are
      kept instead, those of the largest ``mean(q_i^2) mean(k_i^2)``, in pairs;
    - value and output: the SVD of their product under the inputs of the value, over all
      query heads that share a value;
    - MLP: the neurons i with the largest ``mean(z_i^2) ||D_:i||^2``, for inputs z of
      the down projection D.

    Nothing is trained, and all blocks lose the same share. The neurons take up what the
    rounding to whole channels leaves of a block's budget.

    The paper is arXiv:2505.12942. This is a reconstruction from its abstract and from
    the description of the released code (DeepWok/a3): that queries and keys with rotary
    positions or in groups lose whole channels, and that grouped values are decomposed
    together, is from there; the code itself was not available to compare with. Scores
    of queries and keys at different positions count as independent. ``refit`` is ours.

    The matrices of the attention become smaller, with zeros in the place of removed
    channels: they still take part in the attention and in its cache, which the paper
    makes smaller too.

    Args:
        refit: Whether the down projection is fitted by least squares to the neurons
            that stay, as in ``modegpt``.
    """

    refit: bool = False

    def fit(self, model: Model, ctx: Context) -> list[Block]:
        """Moments, scores and directions of every block, in the network's order."""
        parts, calibration = heads.parts_of(model), ctx.calibration()
        running = stream(model, calibration.tokens)
        # The hooks see the outputs of the query and key matrices, which are the queries
        # and keys before rotary positions turn them.
        with reduced.watched(model, parts) as moments:
            for index, (_, block) in enumerate(running):
                running.advance(index, block)
        found = []
        for one in parts:
            query, key = (moments[one.names[r]].mean() for r in ("query", "key"))
            check_finite(query, f"the outputs of {one.names['query']}")
            check_finite(key, f"the outputs of {one.names['key']}")
            values = value_output(model.net, one, calibration.gram(one.names["value"]))
            # mean(z_i^2)
            energy = calibration.gram(one.names["down"]).double().diagonal()
            down = matrix(model.net.get_submodule(one.names["down"])).double().cpu()
            # mean(z_i^2) ||D_:i||^2: the squared error of the outputs without neuron i,
            # (neurons,).
            neurons = energy * down.square().sum(0)
            check_finite(neurons, f"the scores of the neurons of {one.path}")
            found.append(Block(query, key, values, neurons))
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
            Unsupported: If the ratio leaves a block without a neuron.
        """
        net = ctx.dense()
        if ratio == 0:
            return net
        calibration = ctx.calibration()
        for one, block in zip(heads.parts_of(ctx.model), fitted, strict=True):
            # What the whole block may store in the end. The attention is cut first, to
            # whole channels; the neurons then fill up the budget.
            budget = int(reduced.stored(net, one) - ratio * reduced.weights(net, one))
            width = one.width(ratio)
            if one.paired or one.readers > 1:  # channels of a head are not mixed
                scores = heads.pair_scores(
                    one,
                    block.query.diagonal(dim1=1, dim2=2).flatten(),
                    block.key.diagonal(dim1=1, dim2=2).flatten(),
                )
                heads.keep_best_query_key(net, one, scores, width)
            elif width < one.head_dim:
                maps = score_maps(block.query, block.key, max(1, width))
                heads.turn_query_key(net, one, *maps)
            if width < one.head_dim:
                keep_value_output(net, one, block.values, max(1, width))
            gram = calibration.gram(one.names["down"]) if self.refit else None
            reduced.keep_neurons(net, one, block.neurons, budget, gram)
        return net


def score_maps(query: Tensor, key: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The maps of queries and keys to ``rank`` channels with the closest scores.

    They minimise ``mean((q^T k - q'^T k')^2)`` over independent q and k: the squared
    Frobenius norm of ``M_q^(1/2) (I - A^T B) M_k^(1/2)``, with q' = A q and k' = B k.

    Args:
        query: Second moments of the queries, ``(heads, head_dim, head_dim)``, float64.
        key: Second moments of the keys, of the same shape.
        rank: Number of channels that are left.

    Returns:
        A and B, each ``(heads, rank, head_dim)``.
    """
    maps: tuple[list[Tensor], list[Tensor]] = ([], [])
    for q, k in zip(query, key, strict=True):
        (root_q, inverse_q), (root_k, inverse_k) = map(psd_roots, (q, k))
        # U, S, V^T: (d, d), (d,), (d, d)
        left, values, right = torch.linalg.svd(root_q @ root_k)
        scale = values[:rank].sqrt()[:, None]
        # A = S_r^(1/2) U_r^T M_q^(-1/2) and B = S_r^(1/2) V_r^T M_k^(-1/2). Half of S
        # goes to either side, which keeps queries and keys of one size.
        maps[0].append(scale * left[:, :rank].T @ inverse_q)
        maps[1].append(scale * right[:rank] @ inverse_k)
    return torch.stack(maps[0]), torch.stack(maps[1])
