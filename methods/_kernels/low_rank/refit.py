"""Left factors fitted again, in closed form, to the inputs that they really get."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness.core import Context
from harness.toolkit.calibration import collect
from methods._kernels.low_rank.factors import Group, linears, matrix
from methods._kernels.low_rank.layers import LowRank
from methods._kernels.prefix import Inputs, behind_prefix, gram_of

Solver = Literal["exact", "released"]


def refit(weight: Tensor, right: Tensor, gram: Tensor) -> Tensor:
    """The left factor that is best for inputs with a given Gram matrix.

    It minimises ``||(W - L R) G^(1/2)||`` over L: ``L = W G R^T (R G R^T)^-1``.

    Args:
        weight: W, shape ``(out, in)``.
        right: R, shape ``(rank, in)``; it stays as it is.
        gram: G, shape ``(in, in)``, up to a scale.

    Returns:
        L, shape ``(out, rank)``, in the dtype of ``right``; solved in float64.
        Directions of R that no input reaches get weight zero.
    """
    thin, gram = right.double(), gram.double().to(right.device)
    cross = thin @ gram  # (rank, in)
    # Equal scales first, so that the cut-off below is about directions, not units.
    scale = (cross * thin).sum(1).clamp_min(torch.finfo(torch.float64).tiny).rsqrt()
    # of D R G R^T D
    values, vectors = torch.linalg.eigh(scale[:, None] * (cross @ thin.T) * scale)
    # A pseudo-inverse: with a singular G some combinations of the rows of R see no
    # input.
    keep = values > values[-1] * len(values) * torch.finfo(torch.float64).eps
    inverse = (vectors[:, keep] / values[keep]) @ vectors[:, keep].T  # (rank, rank)
    # W G R^T D (D R G R^T D)^-1 D: the scales D cancel out.
    left = weight.double() @ cross.T * scale @ inverse * scale
    return left.to(right.dtype)


def refit_released(
    weight: Tensor, left: Tensor, right: Tensor, inputs: Tensor
) -> Tensor:
    """The left factor as the released code of SVD-LLM solves for it.

    The released code calls ``torch.linalg.lstsq`` in float32 on the inputs themselves.
    Its default on a CPU (LAPACK's gelsy) ignores every direction below ``eps * tokens``
    of the largest, about 1e-3 for 8,192 tokens, although these directions are far above
    the rounding error. On a GPU the same call ignores none.

    Args:
        weight: W, shape ``(out, in)``.
        left: The left factor before the refit, shape ``(out, rank)``. The norms of its
            columns bring the directions to the scale of the singular values, where the
            released code solves; which directions are ignored depends on it.
        right: R, shape ``(rank, in)``; it stays as it is.
        inputs: Inputs of the layer, shape ``(tokens, in)``.

    Returns:
        Shape ``(out, rank)``, in the dtype of ``right``.
    """
    scale = left.float().norm(dim=0)  # (rank,)
    x = inputs.float()
    thin = x @ right.float().T * scale  # (tokens, rank)
    solution = torch.linalg.lstsq(thin, x @ weight.float().T).solution  # (rank, out)
    return (solution.T * scale).to(right.dtype)


def update(
    net: nn.Module,
    ctx: Context,
    groups: Iterable[Group],
    *,
    inputs: Inputs,
    windows: int | None = None,
    solver: Solver = "exact",
) -> None:
    """Refit every left factor, block after block, to inputs of the compressed prefix.

    Args:
        net: Compressed; changed in place.
        ctx: Gives the dense model and the calibration windows.
        groups: The groups whose members are low-rank layers of ``net``.
        inputs: The block that computes the inputs of a matrix from the output of the
            compressed blocks before it: the ``dense`` block (the released code of
            SVD-LLM) or the ``compressed`` one.
        windows: Number of calibration windows to read, from the first; None for all.
        solver: ``exact`` solves in float64; ``released`` as ``refit_released``.
    """
    modules = linears(ctx.model)
    members = {name for group in groups for name in group.names}
    reads: Any = collect if solver == "exact" else _recorded
    running = behind_prefix(
        net, ctx, members, inputs=inputs, reads=reads, windows=windows
    )
    for name, seen in running:
        thin = net.get_submodule(name)
        assert isinstance(thin, LowRank)
        right = thin.right.weight.detach()
        weight = matrix(modules[name]).to(right.device)
        if solver == "exact":
            left = refit(weight, right, gram_of(seen, name))
        else:
            old = thin.left.weight.detach()
            left = refit_released(weight, old, right, torch.cat(seen[name]))
        with torch.no_grad():
            thin.left.weight.copy_(left)


def pooled_update(net: nn.Module, ctx: Context, groups: Iterable[Group]) -> None:
    """Refit the left factors of each group to one Gram matrix, summed over its members.

    The inputs are those of the compressed network before any refit, as in
    ``do_update_model`` of the released code of Basis Sharing.

    Args:
        net: Compressed; changed in place.
        ctx: Gives the dense model and the calibration windows.
        groups: The groups whose members are low-rank layers of ``net``.
    """
    modules = linears(ctx.model)
    groups = list(groups)
    owner = {name: group for group in groups for name in group.names}
    pools: dict[Group, Tensor] = {}
    for name, seen in behind_prefix(net, ctx, owner, inputs="compressed"):
        gram = gram_of(seen, name)
        # A sum of means over the tokens of each member, as in the decomposition.
        pools[owner[name]] = pools.get(owner[name], torch.zeros_like(gram)) + gram
    for group in groups:
        for name in group.names:
            thin = net.get_submodule(name)
            assert isinstance(thin, LowRank)
            right = thin.right.weight.detach()
            weight = matrix(modules[name]).to(right.device)
            left = refit(weight, right, pools[group])
            with torch.no_grad():
                thin.left.weight.copy_(left)


@contextmanager
def _recorded(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """Keep the inputs of ``modules``; matrices of one site share the tensors."""
    seen: dict[str, list[Tensor]] = {name: [] for name in modules}

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda module, args: seen[name].append(args[0].detach().flatten(0, -2))

    handles = [m.register_forward_pre_hook(hook(n)) for n, m in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
