"""Methods that give every group of matrices the same ratio."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor, nn

from harness.core import Context, Model
from methods._kernels.low_rank.factors import (
    Factors,
    Group,
    checked_rank,
    factorize_group,
    install,
    linears,
    stacked,
)


def factorize_groups(
    model: Model,
    groups: Iterable[Group],
    gram: Callable[[Group], Tensor | None] = lambda group: None,
) -> dict[Group, Factors]:
    """Factors of every group, each decomposed once for all ratios.

    Args:
        model: Whose matrices.
        groups: Which of them belong together.
        gram: The statistics of a group's input, as ``factorize`` takes them.

    Returns:
        Group -> factors.

    """
    modules = linears(model)
    fitted = {}
    for group in groups:
        fitted[group] = factorize_group(modules, group, gram(group))
    return fitted


def truncate_groups(
    fitted: Mapping[Group, Factors],
    ratio: float,
    ctx: Context,
    *,
    full: int | None = None,
) -> nn.Module:
    """A copy of the dense network with every group at the rank its ratio leaves.

    Args:
        fitted: From ``factorize_groups``; left as it is.
        ratio: The share of the groups' weights to remove; 0 changes nothing.
        ctx: Of the bundle.
        full: Members of a full group, whose rank smaller ones of several get too.

    Returns:
        The compressed network.
    """
    net = ctx.dense()
    if ratio == 0:  # factors of equal size would still lose the tail of the spectrum
        return net
    modules = linears(ctx.model)
    for group, factors in fitted.items():
        rank = checked_rank(modules, group, ratio, members=full)
        install(net, group, *factors.truncate(rank, stacked(modules, group)))
    return net
