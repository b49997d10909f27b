"""Two factors of which all but the longer part of one is stored in 8 bits."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from harness.toolkit.saved_model import layer
from methods._kernels.low_rank.factors import matrix


@cache
def dynamic_values() -> Tensor:
    """The 256 values of the dynamic 8-bit data type (arXiv:2110.02861), sorted.

    For each decade from 1e-6 to 1, the interval from a tenth of it to the whole is cut
    into 1, 2, 4, ... 64 equal parts, and the middle of each part is a value, with both
    signs; 0 and 1 are the other two.

    Returns:
        Float32, shape ``(256,)``, from about -0.993 to 1.
    """
    found = [torch.tensor([0.0, 1.0], dtype=torch.float64)]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1, dtype=torch.float64)
        middles = 10.0 ** (i - 6) * (edges[:-1] + edges[1:]) / 2
        found += [middles, -middles]
    return torch.cat(found).sort().values.float()


def nearest_codes(values: Tensor) -> Tensor:
    """The number of the dynamic value next to each of ``values`` in [-1, 1].

    Args:
        values: Any shape.

    Returns:
        uint8, of the same shape.
    """
    known = dynamic_values().to(values.device)
    middles = (known[1:] + known[:-1]) / 2
    return torch.bucketize(values.float().contiguous(), middles).to(torch.uint8)


def bits_per_rank(out: int, inner: int, bits: int) -> int:
    """Bits that each rank of a remapped matrix takes in a file.

    Args:
        out: Outputs of the matrix.
        inner: Inputs of the matrix.
        bits: Bits of a number of the network.

    Returns:
        8 bits for ``min(out, in)`` numbers of either factor, ``bits`` for the other
        numbers of the longer one and for two scales.

    >>> bits_per_rank(4096, 4096, 16) / (16 * 4096)  # about one rank of a whole matrix
    1.00048828125
    """
    short, long = sorted((out, inner))
    return 2 * 8 * short + bits * (long - short) + 2 * bits


@layer("remapped")
class Remapped(nn.Module):
    """A linear layer stored as two factors, ``y = L (R x)``, mostly in 8 bits.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        rank: Width between the two factors.
        bias: Whether a bias is added to the output.
    """

    left_codes: Tensor
    right_codes: Tensor
    bias: nn.Parameter | None

    def __init__(
        self, in_features: int, out_features: int, rank: int, *, bias: bool
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        short = min(in_features, out_features)
        for side in ("left", "right"):
            codes = torch.zeros(rank, short, dtype=torch.uint8)
            self.register_buffer(f"{side}_codes", codes)
            self.register_buffer(f"{side}_scale", torch.ones(rank))
        # The part of the longer factor that is beyond the length of the shorter one.
        self.rest = nn.Parameter(
            torch.zeros(rank, max(in_features, out_features) - short)
        )
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def factors(self) -> tuple[Tensor, Tensor]:
        """L of shape ``(out, rank)`` and R of shape ``(rank, in)``, in the dtype."""
        left, right = self._values("left"), self._values("right")
        if self.out_features > self.in_features:
            left = torch.cat([left, self.rest], 1)
        else:
            right = torch.cat([right, self.rest], 1)
        return left.T, right

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., in_features)`` to ``(..., out_features)``."""
        left, right = self.factors()
        return linear(linear(x, right), left, self.bias)

    def weights(self) -> dict[str, Tensor]:
        """Tensors that count as parameters; scales count in the bytes of the file."""
        own = {"left": self.left_codes, "right": self.right_codes, "rest": self.rest}
        return own if self.bias is None else {**own, "bias": self.bias}

    def spec(self) -> dict[str, Any]:
        """Keyword arguments that rebuild the layer."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "rank": self.rank,
            "bias": self.bias is not None,
        }

    def _values(self, side: str) -> Tensor:
        codes, scale = getattr(self, f"{side}_codes"), getattr(self, f"{side}_scale")
        known = dynamic_values().to(device=codes.device, dtype=scale.dtype)
        made: Tensor = known[codes.long()] * scale[:, None]
        return made


def remapped_layer(module: nn.Module, left: Tensor, right: Tensor) -> Remapped:
    """The layer that takes the place of a linear one.

    The product is decomposed first, so that the shorter factor has the singular vectors
    and the longer one the vectors times the singular values.

    Args:
        module: The linear layer, or GPT-2's transposed one; gives bias and dtype.
        left: Shape ``(out, rank)`` with orthonormal columns.
        right: Shape ``(rank, in)``.

    Returns:
        The layer, in the dtype of the module and on its device.
    """
    weight, bias = matrix(module), getattr(module, "bias", None)
    out, inner = weight.shape
    turn, values, vectors = torch.linalg.svd(right, full_matrices=False)
    tall, wide = (left @ turn).T, vectors  # (rank, out), (rank, in)
    if out >= inner:
        tall = tall * values[:, None]
    else:
        wide = wide * values[:, None]
    made = Remapped(inner, out, len(values), bias=bias is not None)
    made = made.to(device=weight.device, dtype=weight.dtype)
    short = min(out, inner)
    with torch.no_grad():
        for side, rows in (("left", tall), ("right", wide)):
            part = rows[:, :short]
            scale = part.abs().amax(1).to(weight.dtype)
            used = scale.to(part.dtype).where(scale > 0, 1.0)[:, None]
            setattr(made, f"{side}_scale", scale)
            setattr(made, f"{side}_codes", nearest_codes((part / used).clamp(-1, 1)))
        made.rest.copy_((tall if out > inner else wide)[:, short:])
        if bias is not None and made.bias is not None:
            made.bias.copy_(bias)
    return made
