"""The two steps of methods that truncate every group: decompose, and install."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor, nn

from harness.core import Context, Model
from methods._kernels.low_rank.factors import (
    Factors,
    Group,
    checked_rank,
    factorize_group,
    kept,
    linears,
    stacked,
)
from methods._kernels.low_rank.installed import install


def factorize_groups(
    model: Model,
    groups: Iterable[Group],
    gram: Callable[[Group], Tensor | None] = lambda group: None,
) -> dict[Group, Factors]:
    """The factors of every group, decomposed once for all ratios.

    Args:
        model: The model that has the matrices.
        groups: The matrices that are decomposed together.
        gram: Group -> statistics of its input, shape ``(in, in)`` or ``(in,)``; None
            for the identity.

    Returns:
        Group -> factors.
    """
    modules = linears(model)
    fitted = {}
    for group in groups:
        made = factorize_group(modules, group, gram(group))
        fitted[group] = kept(model, made)
    return fitted


def truncate_groups(
    fitted: Mapping[Group, Factors],
    ratio: float,
    ctx: Context,
    *,
    full: int | None = None,
) -> nn.Module:
    """A copy of the dense network with every group at the rank that the ratio leaves.

    Args:
        fitted: From ``factorize_groups``; not changed.
        ratio: The share of the groups' weights to remove; 0 returns the dense network.
        ctx: Gives the dense network.
        full: Number of members in a full group; smaller groups of members from several
            blocks get the rank of a full group. None computes each group's own rank.

    Returns:
        The compressed network.
    """
    if ratio == 0:  # factors of equal size would still lose the tail of the spectrum
        return ctx.dense()
    modules = linears(ctx.model)
    ranks = {g: checked_rank(modules, g, ratio, members=full) for g in fitted}
    return truncate_to(fitted, ranks, ctx)


def truncate_to(
    fitted: Mapping[Group, Factors], ranks: Mapping[Group, int], ctx: Context
) -> nn.Module:
    """A copy of the dense network with every group at its own rank.

    Args:
        fitted: From ``factorize_groups``; not changed.
        ranks: The rank of each group; a group that is missing stays dense.
        ctx: Gives the dense network.

    Returns:
        The compressed network.
    """
    net = ctx.dense()
    modules = linears(ctx.model)
    for group, rank in ranks.items():
        install(net, group, *fitted[group].truncate(rank, stacked(modules, group)))
    return net
