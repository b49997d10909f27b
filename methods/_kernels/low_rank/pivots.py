"""Pivoted factors: a rank-k matrix kept as k of its own rows (PIFA, ICML 2025)."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from harness.core import NotFinite
from harness.toolkit.saved_model import layer, replace
from methods._kernels.low_rank.factors import Group, check_finite, matrix
from methods._kernels.low_rank.installed import empty
from methods._kernels.low_rank.layers import Projection
from methods._kernels.picked import picked

LARGEST = 1.5  # of the coefficients by which rows are mixed


@layer("pivoted")
class Pivoted(nn.Module):
    """A linear layer of rank k that stores k of its own rows and mixes the others.

    All rows of a matrix of rank k are combinations of k of them. These rows and the
    coefficients of the others are ``k (in + out - k)`` numbers, ``k^2`` fewer than two
    thin factors have, and the layer does as many multiply-adds fewer (Zhao et al. 2025,
    PMLR 267:77926). The position of each output is stored too and counts as a weight.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        rank: Number of rows in the shared projection.
        rest: Number of outputs that are not rows of the projection.
        bias: Whether a bias is added to the output.
    """

    order: Tensor

    def __init__(
        self, in_features: int, out_features: int, *, rank: int, rest: int, bias: bool
    ) -> None:
        super().__init__()
        self.right = Projection(in_features, rank)
        with warnings.catch_warnings():  # where all outputs are rows, nothing is mixed
            warnings.simplefilter("ignore", UserWarning)
            self.mix = nn.Linear(rank, rest, bias=False)
        # The position of each output among the rows followed by the mixed outputs.
        self.register_buffer("order", torch.zeros(out_features, dtype=torch.int32))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., in_features)`` to ``(..., out_features)``."""
        rows = self.right(x)
        y = picked(torch.cat([rows, self.mix(rows)], -1), self.order)
        return y if self.bias is None else y + self.bias

    def weights(self) -> dict[str, Tensor]:
        """The positions count as parameters: without them the layer is not defined."""
        own: dict[str, Tensor] = {"order": self.order}
        return own if self.bias is None else {**own, "bias": self.bias}

    def spec(self) -> dict[str, Any]:
        """Keyword arguments that rebuild the layer."""
        rank, in_features = self.right.weight.shape
        return {
            "in_features": in_features,
            "out_features": len(self.order),
            "rank": rank,
            "rest": self.mix.out_features,
            "bias": self.bias is not None,
        }


def pivoted_cost(out_features: int, in_features: int, rank: int) -> int:
    """``rank (in + out - rank) + out``: what is stored, positions of outputs included.

    >>> pivoted_cost(6, 4, 2)
    22
    """
    return rank * (out_features + in_features - rank) + out_features


def pivots(left: Tensor) -> tuple[Tensor, Tensor]:
    """Choose rows of a tall factor, and express all its rows as mixtures of them.

    The blocked LU decomposition with partial pivoting, ``P L = [T_1; T_2] U`` with T_1
    unit triangular, takes the first rows of ``P L``. The others are
    ``C = T_2 T_1^-1`` times these, also where L has dependent columns, since U is not
    inverted. Then a chosen row and another one change places as long as a coefficient
    of C is larger than ``LARGEST``; each exchange multiplies the volume of the chosen
    rows by this coefficient (Goreinov et al. 2010, doi:10.1142/9789812836021_0015).
    Small coefficients keep rounding errors small.

    Args:
        left: Shape ``(out, rank)`` with ``rank <= out``, any floating dtype.

    Returns:
        Indices of the chosen rows, int64, shape ``(rank,)``, on the CPU, and
        coefficients of shape ``(out, rank)`` in float64 on the device of ``left``, with
        ``left = coefficients @ left[rows]``.

    Raises:
        NotFinite: If a coefficient before the exchanges is too large for float64.
    """
    out, rank = left.shape
    # `_ex`, which takes a singular U.
    packed, exchanged, _ = torch.linalg.lu_factor_ex(left.double())
    order = list(range(out))
    for first, second in enumerate((exchanged - 1).cpu().tolist()):
        order[first], order[second] = order[second], order[first]
    # Both functions give matrices stored by column: by row, and fast to go through, are
    # their transposes. Some matrices double the coefficients with each column.
    mix = torch.linalg.solve_triangular(
        packed[:rank], packed[rank:], upper=False, left=False, unitriangular=True
    ).T.contiguous()  # (rank, out - rank)
    while mix.numel():
        low, high = torch.stack(mix.aminmax()).cpu().tolist()
        if not math.isfinite(low) or not math.isfinite(high):
            raise NotFinite("the coefficients of the rows of a factor are not finite")
        value = high if high >= -low else low
        if abs(value) <= LARGEST:
            break
        place = int(mix.argmax() if value > 0 else mix.argmin())
        column, row = divmod(place, mix.shape[1])
        order[column], order[rank + row] = order[rank + row], order[column]
        # A change of one row of the basis changes all coefficients by a matrix of
        # rank 1.
        tall, wide = mix[column].clone(), mix[:, row].clone()
        tall[row] += 1
        wide[column] -= 1
        mix.T.addr_(tall, wide, alpha=-1 / value)
    places = torch.tensor(order)
    terms = mix.new_zeros(rank, out)
    terms[range(rank), places[:rank].to(mix.device)] = 1
    terms.index_copy_(1, places[rank:].to(mix.device), mix)
    return places[:rank], terms.T


def install_pivoted(net: nn.Module, group: Group, left: Tensor, right: Tensor) -> None:
    """Replace the members by pivoted layers with one shared projection.

    Args:
        net: Network whose modules are replaced in place.
        group: The members, which read the same input.
        left: Shape ``(sum of out, rank)``, any floating dtype.
        right: Shape ``(rank, in)``, as ``left``; the layers store their rows and
            coefficients in the dtype of the members.
    """
    for factor in (left, right):
        check_finite(factor, f"a factor of {group.label}")
    rows, terms = pivots(left)
    old = [net.get_submodule(name) for name in group.names]
    weight = matrix(old[0])
    rank, inner = right.shape
    projection = empty(Projection, weight, in_features=inner, rank=rank, users=len(old))
    # Rows of the product L R itself: the (rank, rank) part of L that belongs to them
    # need not be stored.
    chosen = (left[rows].double() @ right.double()).to(weight.dtype)  # (rank, in)
    check_finite(chosen, f"a factor of {group.label}")
    with torch.no_grad():
        projection.weight.copy_(chosen)
    # For each output its position among the chosen rows; -1 where it is mixed from
    # them.
    place = torch.full((len(left),), -1, dtype=torch.int32)
    place[rows] = torch.arange(rank, dtype=torch.int32)
    outs = [matrix(module).shape[0] for module in old]
    parts = zip(torch.split(place, outs), torch.split(terms, outs), strict=True)
    for name, module, (where, part) in zip(group.names, old, parts, strict=True):
        # `Pivoted` concatenates all chosen rows and its own mixed outputs, and picks
        # from them: a chosen row of this member is at its position among the rows, the
        # i-th mixed output at rank + i.
        mixed = where < 0
        bias: Any = module.bias
        made = empty(
            Pivoted,
            weight,
            in_features=inner,
            out_features=len(where),
            rank=rank,
            rest=int(mixed.sum()),
            bias=bias is not None,
        )
        made.right = projection
        order = where.clone()
        order[mixed] = rank + torch.arange(int(mixed.sum()), dtype=torch.int32)
        with torch.no_grad():
            made.mix.weight.copy_(part[mixed])
            made.order.copy_(order)
            if made.bias is not None:
                made.bias.copy_(bias)
        replace(net, name, made)
