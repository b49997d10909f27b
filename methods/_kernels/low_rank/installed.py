"""Low-rank factors as layers of a network, in place of its matrices."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from harness.toolkit.saved_model import replace as put
from methods._kernels.low_rank.factors import (
    HALF,
    Group,
    balanced,
    check_finite,
    matrix,
)
from methods._kernels.low_rank.layers import LowRank, Projection

M = TypeVar("M", bound=nn.Module)


def install(net: nn.Module, group: Group, left: Tensor, right: Tensor) -> None:
    """Replace the members by low-rank layers that share one input factor.

    Args:
        net: Network whose modules are replaced in place.
        group: Matrices that share a factor.
        left: Shape ``(sum of out, rank)``, any floating dtype.
        right: Shape ``(rank, in)``, as ``left``; the layers store both in the dtype of
            the members.
    """
    old = [net.get_submodule(name) for name in group.names]
    weight = matrix(old[0])
    if weight.dtype in HALF:
        left, right = balanced(left, right)
    for factor in (left, right):  # in the layers' dtype, where float16 may overflow
        check_finite(factor.to(weight.dtype), f"a factor of {group.label}")
    # Members of several blocks read different inputs: nothing to compute once.
    users = len(old) if group.once else 1
    rank, inner = right.shape
    projection = empty(Projection, weight, in_features=inner, rank=rank, users=users)
    _set(projection.weight, right)
    parts = torch.split(left, [matrix(m).shape[0] for m in old])
    for name, module, part in zip(group.names, old, parts, strict=True):
        bias: Any = module.bias
        thin = empty(
            LowRank,
            weight,
            in_features=inner,
            out_features=len(part),
            rank=rank,
            bias=bias is not None,
        )
        thin.right = projection
        _set(thin.left.weight, part)
        if bias is not None:
            _set(thin.left.bias, bias)
        put(net, name, thin)


def empty(cls: type[M], like: Tensor, **spec: Any) -> M:
    """A module with memory but no values, of the device and dtype of ``like``.

    Args:
        cls: The module's class; its initial values are not computed.
        like: A floating-point tensor that gives device and dtype.
        **spec: Keyword arguments of the constructor.

    Returns:
        The module, uninitialised.
    """
    # A constructor draws initial values, which takes longer than the copy that follows.
    with torch.device("meta"):
        made = cls(**spec)
    return made.to(like.dtype).to_empty(device=like.device)


def _set(parameter: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(value)
