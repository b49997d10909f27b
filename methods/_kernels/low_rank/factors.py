"""Low-rank kernels: groups of matrices, and their exact factors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from harness.core import Model, NotFinite, Unsupported
from harness.toolkit.host_memory import keep
from harness.toolkit.roles import LINEARS
from methods._kernels.low_rank.ranks import rank_for
from methods._kernels.low_rank.spectra import psd_roots, roots, spectrum

HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Group:
    """Matrices that share one input factor.

    Args:
        names: Module paths, in the network's order.
        once: Whether all members read the same input tensor, so that the product with
            the shared factor is computed once. False for members of several blocks,
            whose inputs differ.
    """

    names: tuple[str, ...]
    once: bool = True

    @property
    def label(self) -> str:
        """The group in a message: its first member and the number of the others."""
        more = len(self.names) - 1
        return self.names[0] + (f" and {more} more" if more else "")


@dataclass(frozen=True, slots=True)
class Factors:
    """The singular directions of a weight, strongest first; each rank is a slice.

    Args:
        left: Shape ``(out, r)``, on the CPU; float32, or float64 for a float64 weight.
        right: Shape ``(r, in)``, as ``left``; None where it is ``left.T @ weight``.
        energy: The squared error that dropping each direction adds, shape ``(r,)``,
            float64.
    """

    left: Tensor
    right: Tensor | None
    energy: Tensor

    def truncate(self, rank: int, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The two thin factors of the best approximation of ``rank``.

        Args:
            rank: Number of singular directions to keep.
            weight: The weight that was factorised, shape ``(out, in)``, any dtype.

        Returns:
            ``left`` of shape ``(out, rank)`` and ``right`` of ``(rank, in)`` on the
            weight's device, in float32 or float64: a layer of a half-precision network
            rounds them once, when it stores them.
        """
        left = self.left[:, :rank].to(weight.device)
        # The left directions are orthonormal: the best right factor is the projection
        # of the weight itself, in its full precision, and need not be stored.
        if self.right is None:
            return left, left.T @ weight.to(left.dtype)
        return left, self.right[:rank].to(weight.device)

    def error(self, rank: int) -> float:
        """The error that remains at ``rank``, in the norm that was minimised."""
        return float(self.energy[rank:].sum().clamp_min(0).sqrt())


def linears(model: Model, roles: Iterable[str] = LINEARS) -> dict[str, nn.Module]:
    """The matrices to compress, by module path.

    Args:
        model: Its role table says which module is which.
        roles: Roles of the matrices; all linear roles of a block by default.

    Returns:
        Path -> module, in the network's order.

    Raises:
        Unsupported: If there are none, if one is not a plain matrix, or if two paths
            share one weight, which two factorisations would untie.
    """
    wanted = set(roles)
    found = {
        name: module
        # A module with two paths is found twice, so that it is refused as shared below.
        for name, module in model.net.named_modules(remove_duplicate=False)
        if model.role(name) in wanted
    }
    if not found:
        raise Unsupported(
            f"{model.name} has no matrix with a role among {', '.join(sorted(wanted))}"
        )
    for name, module in found.items():
        if not isinstance(getattr(module, "weight", None), nn.Parameter):
            raise Unsupported(
                f"{name} is a {type(module).__name__}, not a plain matrix: put the "
                "method that needs plain matrices first in the chain"
            )
    refuse_tied(found)
    return found


def refuse_tied(modules: Mapping[str, nn.Module]) -> None:
    """Raises Unsupported if two modules share one weight; treating it would untie them.

    Args:
        modules: Path -> module with a weight.

    Raises:
        Unsupported: If two paths have one weight; names both.
    """
    # Tied weights have one parameter: its identity shows which modules share it.
    owners: dict[int, str] = {}
    for name, module in modules.items():
        if (first := owners.setdefault(id(module.weight), name)) != name:
            raise Unsupported(
                f"{name} and {first} share one weight; treating it would untie them"
            )


def matrix(module: nn.Module) -> Tensor:
    """The weight as ``(out, in)``; GPT-2 keeps its matrices transposed."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    transposed = type(module).__name__ == "Conv1D"
    return weight.detach().T if transposed else weight.detach()


def stacked(modules: Mapping[str, nn.Module], group: Group) -> Tensor:
    """The members' weights on top of each other, shape ``(sum of out, in)``.

    Args:
        modules: Module path -> linear module.
        group: Names the members, which have one input width.

    Returns:
        The stacked weight, in the dtype of the members.

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


def checked_rank(
    modules: Mapping[str, nn.Module],
    group: Group,
    ratio: float,
    *,
    members: int | None = None,
) -> int:
    """The rank of a group at a ratio.

    Args:
        modules: Module path -> linear module.
        group: Matrices that have one input width.
        ratio: The share of weights to remove, in [0, 1).
        members: Compute the rank for this number of matrices shaped like the first
            member; None uses the members that the group has.

    Returns:
        A rank from 1 to the full rank.

    Raises:
        Unsupported: If the ratio leaves nothing of the group.
    """
    shapes = [matrix(modules[name]).shape for name in group.names]
    out, inner = sum(s[0] for s in shapes), shapes[0][1]
    # floor((1 - ratio) out in / (out + in)), with the outputs of all members.
    rank = rank_for(out, inner, ratio)
    # A smaller last group of blocks may get the rank of a full one.
    if members is not None and not group.once:
        rank = rank_for(members * shapes[0][0], inner, ratio)
    if rank < 1:
        raise Unsupported(
            f"ratio {ratio} leaves rank 0 for {group.label} ({out} x {inner}): "
            f"it can lose {1 - (out + inner) / (out * inner):.3f} at most"
        )
    return min(rank, out, inner)


def factorize(
    weight: Tensor, gram: Tensor | None = None, curvature: Tensor | None = None
) -> Factors:
    """Singular directions of a weight W under the statistics of its input, exactly.

    Truncated to rank k they minimise the Frobenius norm ``||(W - W') G^(1/2)||``, the
    error of the outputs over the inputs whose Gram matrix is G (the whitening of
    arXiv:2403.07378). With ``out <= in`` the left directions are the eigenvectors of
    ``W G W^T``, and the best approximation is the projection of W onto them: G is never
    inverted, so that a singular G is handled exactly. With ``out > in`` the smaller
    problem ``S^T W^T W S`` is solved, with a root ``G = S S^T``.

    Args:
        weight: Weight matrix, shape ``(out, in)``.
        gram: Shape ``(in, in)``, or ``(in,)`` for a diagonal; None for the identity.
        curvature: The cost of errors at the output: with ``out <= in`` a matrix H of
            shape ``(out, out)``, else ``W^T H W`` of shape ``(in, in)``; None gives
            all outputs the same weight.

    Returns:
        The factors in float32 (float64 for a float64 weight). The decomposition runs in
        float64 for every dtype of ``weight``.

    Raises:
        NotFinite: If the statistics are not finite.
        Unsupported: If they are all zero, so that all factors are equally good.
    """
    dtype = weight.dtype if weight.dtype == torch.float64 else torch.float32
    # The Gram form squares the singular values, so that float32 would lose the small.
    weight = weight.double()
    gram = _checked(gram, "the input", weight)
    curvature = _checked(curvature, "the gradient at the output", weight)
    # Of the two symmetric eigenproblems, solve the one with min(out, in) rows.
    if weight.shape[0] <= weight.shape[1]:
        return _from_outputs(weight, gram, curvature, dtype)
    # out > in. With `G = S S^T` and the SVD `W S = U Sigma V^T`, the matrix
    # `S^T W^T W S` has the eigenvectors V and the eigenvalues Sigma^2. With a
    # curvature, `W^T H W` takes the place of `W^T W`.
    root, inverse = roots(gram, weight)
    if curvature is None:
        curvature = weight.T @ weight
    inner = curvature if root is None else _times(_times(curvature, root).T, root)
    energy, directions = spectrum(inner)
    # L = W S V, which is U Sigma, and R = V^T S^-1.
    left = _times(weight, root) @ directions
    return _factors(left, _times(directions.T, inverse), energy, dtype)


def _factors(
    left: Tensor, right: Tensor | None, energy: Tensor, dtype: torch.dtype
) -> Factors:
    """The factors, in host memory: all of a network's are as large as the network."""
    thin = None if right is None else right.to(dtype).cpu()
    return Factors(left.to(dtype).cpu(), thin, energy.cpu())


def factorize_group(
    modules: Mapping[str, nn.Module],
    group: Group,
    gram: Tensor | None = None,
    curvature: Tensor | None = None,
) -> Factors:
    """``factorize`` the stacked weight of a group; errors name the group."""
    try:
        return factorize(stacked(modules, group), gram, curvature)
    except (NotFinite, Unsupported) as why:
        raise type(why)(f"{group.label}: {why}") from why


def kept(model: Model, factors: Factors) -> Factors:
    """The factors, in files where the network is: those of all matrices are as large.

    Args:
        model: The model whose matrix was factorised.
        factors: Factors in memory, from ``factorize``.

    Returns:
        Factors with equal values, in files or in memory.
    """
    right = factors.right
    return replace(
        factors,
        left=keep(model.net, factors.left),
        right=None if right is None else keep(model.net, right),
    )


def _checked(metric: Tensor | None, what: str, like: Tensor) -> Tensor | None:
    if metric is None:
        return None
    metric = metric.to(like.device).double()
    # One pass: NaN and infinities remain in a sum, which is zero only if all is zero.
    size = metric.abs().sum()
    check_finite(size, f"the statistics of {what}")
    if not float(size):
        raise Unsupported(
            f"the statistics of {what} are all zero: calibrate on another text"
        )
    return metric


def _from_outputs(
    weight: Tensor, gram: Tensor | None, curvature: Tensor | None, dtype: torch.dtype
) -> Factors:
    """Factors from the second moment of the outputs, ``W G W^T``."""
    # out <= in. W G W^T has the eigenvectors U and the eigenvalues Sigma^2.
    outputs = _times(weight, gram) @ weight.T
    if curvature is None:
        energy, left = spectrum(outputs)
        return _factors(left, None, energy, dtype)
    # The same in the metric H of the output: U are the eigenvectors of
    # `H^(1/2) W G W^T H^(1/2)`, and L = H^(-1/2) U, R = U^T H^(1/2) W.
    root, inverse = psd_roots(curvature)
    energy, directions = spectrum(root @ outputs @ root)
    right = directions.T @ root @ weight
    return _factors(inverse @ directions, right, energy, dtype)


def balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product, with both factors of each direction at a similar magnitude.

    The decomposition may put a scale of 1e4 into one factor and 1e-6 into the other,
    beyond the range of float16. The scales are powers of two, so that only the range
    changes and not a digit.

    Args:
        left: Left factor, shape ``(out, rank)``.
        right: Right factor, shape ``(rank, in)``.

    Returns:
        Both factors, scaled.

    >>> left, right = balanced(torch.tensor([[4096.0]]), torch.tensor([[2.0**-10]]))
    >>> float(left), float(right)
    (2.0, 2.0)
    """
    tall, wide = left.abs().amax(0), right.abs().amax(1)  # (rank,)
    usable = (tall > 0) & (wide > 0)
    # With s = sqrt(wide / tall) both factors of a direction have the largest entry
    # sqrt(wide tall). Directions that are all zero keep the scale 1.
    shift = ((wide / tall).where(usable, 1.0).log2() / 2).round()
    scale = torch.ldexp(torch.ones_like(shift), shift)
    return left * scale, right / scale[:, None]


def _times(weight: Tensor, metric: Tensor | None) -> Tensor:
    """``weight @ metric``, where a vector is a diagonal and None the identity."""
    if metric is None:
        return weight
    return weight * metric if metric.ndim == 1 else weight @ metric
