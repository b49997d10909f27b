"""Left factors fitted again in closed form to the inputs they really get."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from harness.core import Context
from harness.toolkit.blockwise import stream
from harness.toolkit.calibration import Statistics, collect
from methods._kernels.low_rank.factors import Group, linears, matrix
from methods._kernels.low_rank.layers import LowRank


def refit(weight: Tensor, right: Tensor, gram: Tensor) -> Tensor:
    """The left factor that is best for inputs with a given Gram matrix.

    It minimises ``||(W - L R) G^(1/2)||`` over L: ``L = W G R^T (R G R^T)^-1``.

    Args:
        weight: Shape ``(out, in)``.
        right: Shape ``(rank, in)``, kept.
        gram: Shape ``(in, in)``.

    Returns:
        Shape ``(out, rank)``, in the dtype of ``right``; solved in float64, where
        directions that no input reaches get weight zero.
    """
    thin, gram = right.double(), gram.double().to(right.device)
    cross = thin @ gram  # (rank, in)
    # Equal scales first, so that the cut-off below is about directions, not units.
    scale = (cross * thin).sum(1).clamp_min(torch.finfo(torch.float64).tiny).rsqrt()
    values, vectors = torch.linalg.eigh(scale[:, None] * (cross @ thin.T) * scale)
    keep = values > values[-1] * len(values) * torch.finfo(torch.float64).eps
    inverse = (vectors[:, keep] / values[keep]) @ vectors[:, keep].T
    left = weight.double() @ cross.T * scale @ inverse * scale
    return left.to(right.dtype)


def update(
    net: nn.Module,
    ctx: Context,
    groups: Iterable[Group],
    *,
    inputs: Literal["dense", "compressed"],
) -> None:
    """Refit every left factor, block after block, to inputs of the compressed prefix.

    Args:
        net: Compressed; changed in place.
        ctx: Of the bundle.
        groups: The groups whose members are low-rank layers of ``net``.
        inputs: Whether a matrix reads what the dense block makes of the compressed
            prefix (the released code of SVD-LLM), or what the compressed block does.
    """
    modules = linears(ctx.model)
    members = {name for group in groups for name in group.names}
    for name, statistics in _prefix(net, ctx, members, inputs):
        thin = net.get_submodule(name)
        assert isinstance(thin, LowRank)
        gram = _gram(statistics, name)
        left = refit(matrix(modules[name]), thin.right.weight.detach(), gram)
        with torch.no_grad():
            thin.left.weight.copy_(left)


def pooled_update(net: nn.Module, ctx: Context, groups: Iterable[Group]) -> None:
    """Refit the left factors of each group to one Gram matrix, summed over its members.

    The inputs are those of the compressed network before any refit, as in
    ``do_update_model`` of the released code of Basis Sharing.

    Args:
        net: Compressed; changed in place.
        ctx: Of the bundle.
        groups: The groups whose members are low-rank layers of ``net``.
    """
    modules = linears(ctx.model)
    groups = list(groups)
    owner = {name: group for group in groups for name in group.names}
    pools: dict[Group, Tensor] = {}
    for name, statistics in _prefix(net, ctx, set(owner), "compressed"):
        gram = _gram(statistics, name)
        pools[owner[name]] = pools.get(owner[name], torch.zeros_like(gram)) + gram
    for group in groups:
        for name in group.names:
            thin = net.get_submodule(name)
            assert isinstance(thin, LowRank)
            left = refit(
                matrix(modules[name]), thin.right.weight.detach(), pools[group]
            )
            with torch.no_grad():
                thin.left.weight.copy_(left)


def _gram(statistics: Statistics, name: str) -> Tensor:
    site = statistics.sites[name]
    return statistics.gram[site] / statistics.tokens[site]


def _prefix(
    net: nn.Module, ctx: Context, members: set[str], inputs: str
) -> Iterator[tuple[str, Statistics]]:
    """Each member with the statistics of its block, once its prefix is compressed."""
    running = stream(ctx.model.with_net(net), ctx.calibration().tokens)
    source = ctx.model.net if inputs == "dense" else net
    for index, (path, block) in enumerate(running):
        names = [n for n in sorted(members) if n.startswith(f"{path}.")]
        reading = {name: source.get_submodule(name) for name in names}
        kept = list(running.states)
        with collect(reading) as statistics:
            running.advance(index, source.get_submodule(path))
        running.states = kept
        for name in names:
            yield name, statistics
        running.advance(index, block)
