"""Low-rank kernels: groups of matrices, rank arithmetic, exact factors, layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from harness.core import Model, NotFinite, Unsupported
from harness.toolkit.roles import LINEARS
from harness.toolkit.saved_model import replace
from methods._kernels.low_rank.layers import LowRank, Projection

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Group:
    """Matrices that share one input factor.

    Args:
        names: Module paths, in order.
        once: Whether the members read the same input at the same time, so that the
            shared product is computed once (not so for members of several blocks).
    """

    names: tuple[str, ...]
    once: bool = True

    @property
    def label(self) -> str:
        """For messages: the first member, and how many follow."""
        more = len(self.names) - 1
        return self.names[0] + (f" and {more} more" if more else "")


@dataclass(frozen=True, slots=True)
class Factors:
    """The singular directions of a weight, strongest first; every rank is a slice.

    Args:
        left: Shape ``(out, r)``.
        right: Shape ``(r, in)``; None where it is ``left.T @ weight``.
        energy: What dropping each direction adds to the squared error, shape ``(r,)``.
    """

    left: Tensor
    right: Tensor | None
    energy: Tensor

    def truncate(self, rank: int, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The two thin factors of the best approximation of ``rank``.

        Args:
            rank: Directions to keep.
            weight: What was factorised, shape ``(out, in)``.

        Returns:
            ``left`` of shape ``(out, rank)`` and ``right`` of ``(rank, in)``.
        """
        left = self.left[:, :rank].to(weight.device)
        if self.right is None:
            return left, left.T @ weight
        return left, self.right[:rank].to(weight.device)

    def error(self, rank: int) -> float:
        """Root of the squared error that is left at ``rank``."""
        return float(self.energy[rank:].sum().clamp_min(0).sqrt())


def linears(model: Model, roles: Iterable[str] = LINEARS) -> dict[str, nn.Module]:
    """The matrices to compress, by module path.

    Args:
        model: With a role table.
        roles: Which of them.

    Returns:
        Path -> module, in the network's order.

    Raises:
        Unsupported: If there are none, if one is not a plain matrix, or if two paths
            share one weight, which two factorisations would untie.
    """
    wanted = set(roles)
    found = {
        name: module
        for name, module in model.net.named_modules(remove_duplicate=False)
        if model.role(name) in wanted
    }
    if not found:
        raise Unsupported(
            f"{model.name} has no matrix with a role among {', '.join(sorted(wanted))}"
        )
    owners: dict[int, str] = {}
    for name, module in found.items():
        if not isinstance(getattr(module, "weight", None), nn.Parameter):
            raise Unsupported(
                f"{name} is a {type(module).__name__}, not a plain matrix: put the "
                "low-rank method first in the chain"
            )
        if (first := owners.setdefault(id(module.weight), name)) != name:
            raise Unsupported(
                f"{name} and {first} share one weight; factorising it would untie them"
            )
    return found


def matrix(module: nn.Module) -> Tensor:
    """The weight as ``(out, in)``; GPT-2 keeps its matrices transposed."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    transposed = type(module).__name__ == "Conv1D"
    return weight.detach().T if transposed else weight.detach()


def stacked(modules: Mapping[str, nn.Module], group: Group) -> Tensor:
    """The members' weights on top of each other, shape ``(sum of out, in)``.

    Args:
        modules: Path -> module.
        group: Whose members.

    Returns:
        The stacked weight.

    Raises:
        NotFinite: If it holds NaN or an infinity; names the layer.
    """
    weight = torch.cat([matrix(modules[name]) for name in group.names])
    check_finite(weight, f"the weight of {group.label}")
    return weight


def check_finite(value: Tensor, what: str) -> None:
    """Raise NotFinite, naming ``what``, unless every entry is a number."""
    if not value.is_meta and not bool(torch.isfinite(value).all()):
        raise NotFinite(f"{what} is not finite")


def kept(weights: int, ratio: float) -> int:
    """How many of ``weights`` may stay, exactly: 0.9 removed of 10 leaves 1, not 0.

    >>> kept(10, 0.9), kept(4096 * 4096, 0.2)
    (1, 13421772)
    """
    return int((1 - Fraction(repr(ratio))) * weights)


def rank_for(out_features: int, in_features: int, ratio: float) -> int:
    """The largest rank whose two factors hold at most ``1 - ratio`` of the weights.

    Args:
        out_features: Of the whole group.
        in_features: Of the shared input.
        ratio: The share removed.

    Returns:
        ``floor((1 - ratio) out in / (out + in))``, as in appendix A.1 of
        arXiv:2410.03765.

    >>> rank_for(2 * 4096, 4096, 0.2)
    2184
    """
    return kept(out_features * in_features, ratio) // (out_features + in_features)


def checked_rank(
    modules: Mapping[str, nn.Module],
    group: Group,
    ratio: float,
    *,
    members: int | None = None,
) -> int:
    """The rank of a group at a ratio.

    Args:
        modules: Path -> module.
        group: Of matrices that have one input width.
        ratio: The share removed.
        members: Take the rank of so many matrices like the first; None for the group's.

    Returns:
        From 1 to the full rank.

    Raises:
        Unsupported: If the ratio leaves nothing of the group.
    """
    shapes = [matrix(modules[name]).shape for name in group.names]
    out, inner = sum(s[0] for s in shapes), shapes[0][1]
    rank = rank_for(out, inner, ratio)
    if members is not None and not group.once:
        rank = rank_for(members * shapes[0][0], inner, ratio)
    if rank < 1:
        raise Unsupported(
            f"ratio {ratio} leaves rank 0 for {group.label} ({out} x {inner}): "
            f"it can lose {1 - (out + inner) / (out * inner):.3f} at most"
        )
    return min(rank, out, inner)


def pair_cost(out_features: int, in_features: int, rank: int) -> int:
    """Weights of two thin factors.

    >>> pair_cost(6, 4, 2)
    20
    """
    return rank * (out_features + in_features)


def factorize(
    weight: Tensor, gram: Tensor | None = None, curvature: Tensor | None = None
) -> Factors:
    """Singular directions of a weight under the statistics of its input, exactly.

    Truncated to rank k they minimise ``||(W - W') G^(1/2)||``, the error of the outputs
    over the inputs whose Gram matrix is G (whitening of arXiv:2403.07378). With
    ``out <= in`` the left directions are eigenvectors of ``W G W^T``, and the best
    approximation is their projection of W, so that G is never inverted: a singular G is
    exact. Else the smaller problem ``G^(1/2) W^T W G^(1/2)`` is solved.

    Args:
        weight: Shape ``(out, in)``.
        gram: Shape ``(in, in)``, or ``(in,)`` for a diagonal; None for the identity.
        curvature: What errors of the output cost: with ``out <= in`` a matrix H of
            shape ``(out, out)``, else ``W^T H W`` of shape ``(in, in)``; None weighs
            all outputs the same.

    Returns:
        The factors in the dtype of ``weight``; the decomposition runs in float64.

    Raises:
        NotFinite: If the statistics are not finite.
        Unsupported: If they are all zero, so that every factor is as good.
    """
    dtype = weight.dtype if weight.dtype == torch.float64 else torch.float32
    weight = weight.double()
    gram = _checked(gram, "the input", weight)
    curvature = _checked(curvature, "the gradient at the output", weight)
    if weight.shape[0] <= weight.shape[1]:
        return _from_outputs(weight, gram, curvature, dtype)
    root, inverse = _roots(gram, weight)
    if curvature is None:
        curvature = weight.T @ weight
    inner = curvature if root is None else _times(_times(curvature, root).T, root)
    energy, directions = _spectrum(inner)
    left = weight @ directions if root is None else _times(weight, root) @ directions
    return _factors(left, _times(directions.T, inverse), energy, dtype)


def _factors(
    left: Tensor, right: Tensor | None, energy: Tensor, dtype: torch.dtype
) -> Factors:
    """Factors in host memory: those of a whole network are as large as the network."""
    thin = None if right is None else right.to(dtype).cpu()
    return Factors(left.to(dtype).cpu(), thin, energy.cpu())


def factorize_group(
    modules: Mapping[str, nn.Module],
    group: Group,
    gram: Tensor | None = None,
    curvature: Tensor | None = None,
) -> Factors:
    """``factorize`` the stacked weight of a group; what it raises names the group."""
    try:
        return factorize(stacked(modules, group), gram, curvature)
    except (NotFinite, Unsupported) as why:
        raise type(why)(f"{group.label}: {why}") from why


def _checked(metric: Tensor | None, what: str, like: Tensor) -> Tensor | None:
    if metric is None:
        return None
    check_finite(metric, f"the statistics of {what}")
    if not bool(metric.any()):
        raise Unsupported(
            f"the statistics of {what} are all zero: calibrate on another text"
        )
    return metric.double().to(like.device)


def _from_outputs(
    weight: Tensor, gram: Tensor | None, curvature: Tensor | None, dtype: torch.dtype
) -> Factors:
    """Factors from the second moment of the outputs, ``W G W^T``."""
    outputs = _times(weight, gram) @ weight.T
    if curvature is None:
        energy, left = _spectrum(outputs)
        return _factors(left, None, energy, dtype)
    root, inverse = _roots(curvature, weight)
    assert root is not None
    assert inverse is not None
    energy, directions = _spectrum(root @ outputs @ root)
    right = directions.T @ root @ weight
    return _factors(inverse @ directions, right, energy, dtype)


def install(net: nn.Module, group: Group, left: Tensor, right: Tensor) -> None:
    """Put low-rank layers with one shared input factor in the place of the members.

    Args:
        net: Changed in place.
        group: The members.
        left: Shape ``(sum of out, rank)``.
        right: Shape ``(rank, in)``.
    """
    for factor in (left, right):
        check_finite(factor, f"a factor of {group.label}")
    old = [net.get_submodule(name) for name in group.names]
    weight = matrix(old[0])
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
        replace(net, name, thin)


def empty(cls: type[M], like: Tensor, **spec: Any) -> M:
    """A module with memory but no values, of the device and dtype of ``like``.

    Args:
        cls: The module's class; no time is lost on initial values.
        like: A floating-point tensor.
        **spec: Arguments of the constructor.

    Returns:
        The module.
    """
    with torch.device("meta"):
        made = cls(**spec)
    return made.to(like.dtype).to_empty(device=like.device)


def _set(parameter: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(value)


def _times(weight: Tensor, metric: Tensor | None) -> Tensor:
    """``weight @ metric``, where a vector is a diagonal and None the identity."""
    if metric is None:
        return weight
    return weight * metric if metric.ndim == 1 else weight @ metric


def _spectrum(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, largest first and not below zero, with their vectors in columns."""
    values, vectors = torch.linalg.eigh((symmetric + symmetric.T) / 2)
    return values.flip(0).clamp_min(0), vectors.flip(1)


def _roots(gram: Tensor | None, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """``G^(1/2)`` and its inverse; directions without energy get the smallest there is.

    Raising them to rounding level leaves the error on G itself as it is.
    """
    if gram is None:
        return None, None
    tiny = torch.finfo(like.dtype).eps * gram.shape[0]
    if gram.ndim == 1:
        root = gram.clamp_min(float(gram.max()) * tiny).sqrt()
        return root, 1 / root
    values, vectors = _spectrum(gram)
    scale = values.clamp_min(float(values[0]) * tiny).sqrt()
    return (vectors * scale) @ vectors.T, (vectors / scale) @ vectors.T
