"""Evenly spaced values for weights: scales, zero points, and codes packed into bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

Bits = Literal[8, 4, 3, 2]
# ``narrow``: as many values below zero as above; ``full``: one more below zero;
# ``asymmetric``: from the smallest to the largest weight, with a zero point.
Levels = Literal["narrow", "full", "asymmetric"]


@dataclass(frozen=True, slots=True)
class Grid:
    """The values ``scale * (code - zero)``; a group of weights shares one row of them.

    Args:
        scale: Shape ``(groups,)``, float32 or float64; larger than 0.
        zero: The code of the value 0, shape ``(groups,)``, whole numbers from 0 to
            ``2^bits - 1``; None if the code 0 has the value 0.
        low: Smallest integer code of the grid.
        high: Largest integer code of the grid.
    """

    scale: Tensor
    zero: Tensor | None
    low: int
    high: int

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return (self.high - self.low).bit_length()

    def codes(self, weights: Tensor) -> Tensor:
        """The codes of the nearest values.

        Args:
            weights: Shape ``(groups,)``, or ``(groups, n)``.

        Returns:
            Whole numbers from ``low`` to ``high``, in the dtype of ``weights``.
        """
        codes = (weights / self._like(self.scale, weights)).round()
        if self.zero is not None:
            codes = codes + self._like(self.zero, weights)
        return codes.clamp(self.low, self.high)

    def nearest(self, weights: Tensor) -> Tensor:
        """The nearest values, of the shape and dtype of ``weights``."""
        codes = self.codes(weights)
        if self.zero is not None:
            codes = codes - self._like(self.zero, weights)
        return codes * self._like(self.scale, weights)

    def _like(self, value: Tensor, weights: Tensor) -> Tensor:
        return value if weights.ndim == value.ndim else value[..., None]


def fit_grid(groups: Tensor, bits: int, levels: Levels, dtype: torch.dtype) -> Grid:
    """The grid that covers the weights of each group.

    With b the number of bits: ``narrow`` has the scale ``max |w| / (2^(b-1) - 1)`` and
    codes up to ``2^(b-1) - 1`` on both sides; ``full`` has ``2 max |w| / (2^b - 1)``
    and codes from ``-2^(b-1)``; ``asymmetric`` has ``(max - min) / (2^b - 1)`` with 0
    always between min and max, and the zero point ``round(-min / scale)``.

    Args:
        groups: Weights, shape ``(..., n)``, float32 or float64.
        bits: Bits of a code, 2 to 8.
        levels: Which values the codes stand for.
        dtype: The dtype in which scales are stored; they are rounded up to it, since a
            smaller scale would clip large weights.

    Returns:
        One grid for each group. A group of zeros has the scale 1.
    """
    if levels == "asymmetric":
        low, high = 0, 2**bits - 1
        # The range includes 0: a weight of zero (a pruned one, or padding) stays zero.
        smallest = groups.amin(-1).clamp_max(0)
        span = (groups.amax(-1).clamp_min(0) - smallest) / high
    else:
        high = 2 ** (bits - 1) - 1
        low = -high if levels == "narrow" else -high - 1
        # `full` has one code more below zero. With its scale the weight `max` lies half
        # a step above the last code and `-max` half a step above the first: no weight
        # is off by more than half a step.
        span = groups.abs().amax(-1) / (high if levels == "narrow" else high + 0.5)
    # Rounded to the stored dtype before codes are computed, so that codes and stored
    # scales belong together.
    scale = not_below(span, dtype).to(groups.dtype)
    scale = scale.where(scale > 0, 1.0)
    zero = None
    if levels == "asymmetric":
        zero = (-smallest / scale).round().clamp(low, high)
    return Grid(scale, zero, low, high)


def in_groups(weight: Tensor, size: int) -> Tensor:
    """Cut rows into groups; the last group of a row is filled up with zeros.

    Args:
        weight: Weight matrix, shape ``(out, in)``.
        size: Number of neighbouring weights of a row that share a scale.

    Returns:
        Shape ``(out, groups, size)``. The zeros change no grid, since every grid
        covers the value 0.
    """
    return pad(weight, (0, -weight.shape[1] % size)).view(len(weight), -1, size)


def not_below(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The smallest number of a dtype that is not below each of ``values``."""
    cast = values.to(dtype)
    above = torch.nextafter(cast, torch.full_like(cast, torch.inf))
    return cast.where(cast.to(values.dtype) >= values, above)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Write whole numbers in ``bits`` bits each, without gaps, lowest bit first.

    Args:
        codes: Shape ``(rows, n)``, int8 or uint8; each fits into ``bits`` bits, with or
            without a sign.
        bits: Bits per code, 1 to 8.

    Returns:
        Int8, shape ``(rows, ceil(n bits / 8))``; each row starts with a new byte.

    >>> pack(torch.tensor([[1, -2, 3]], dtype=torch.int8), 4).tolist()
    [[-31, 3]]
    """
    whole = codes.view(torch.uint8)
    if bits == 8:
        return whole.view(torch.int8)
    # Write out single bits, then collect eight of them in a byte: a code of 3 bits may
    # lie across two bytes.
    each = torch.arange(bits, dtype=torch.uint8, device=codes.device)
    flat = (whole[..., None].bitwise_right_shift(each) & 1).flatten(1)  # (rows, n bits)
    places = torch.arange(8, dtype=torch.uint8, device=codes.device)
    # (rows, bytes, 8)
    eights = pad(flat, (0, -flat.shape[1] % 8)).unflatten(1, (-1, 8))
    packed = eights.bitwise_left_shift(places).sum(-1, dtype=torch.uint8)
    return packed.view(torch.int8)


def unpack(packed: Tensor, bits: int, count: int, *, signed: bool) -> Tensor:
    """Read what ``pack`` wrote.

    Args:
        packed: Int8, shape ``(rows, bytes)``.
        bits: Bits of each number, 1 to 8, as given to ``pack``.
        count: Numbers in a row, which the bytes alone do not say.
        signed: Whether the highest bit of a number is its sign.

    Returns:
        Shape ``(rows, count)``, int8 if signed, else uint8.
    """
    whole = packed.contiguous().view(torch.uint8)
    if bits < 8:
        places = torch.arange(8, dtype=torch.uint8, device=packed.device)
        flat = (whole[..., None].bitwise_right_shift(places) & 1).flatten(1)  # all bits
        each = torch.arange(bits, dtype=torch.uint8, device=packed.device)
        # Without the bits that fill up the last byte: (rows, count, bits).
        numbers = flat[:, : count * bits].unflatten(1, (count, bits))
        whole = numbers.bitwise_left_shift(each).sum(-1, dtype=torch.uint8)
    if not signed:
        return whole.contiguous()
    # Shifting left first puts the sign into the highest bit.
    shift = 8 - bits
    high = whole.bitwise_left_shift(torch.full_like(whole, shift)).view(torch.int8)
    return high.bitwise_right_shift(torch.full_like(high, shift)).contiguous()
