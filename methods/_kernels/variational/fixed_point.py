"""Matrices in fixed point, row by row; rows whose errors cost most get most bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.toolkit.saved_model import layer

FLOAT_BITS = 32
HEADER_BITS = 16  # of a row: its number of bits and its exponent
SPARSE = 0x80  # flag in the number of bits: a bitmap says which weights are not zero
_WIDTHS = (0, *range(2, FLOAT_BITS + 1))  # one bit would hold 0 and -1 only
_MEASURED = 16  # wider rows lose a quarter of the loss with each bit


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How each row of a matrix is stored.

    Args:
        bits: Of each weight of a row, shape ``(rows,)``; 0 drops the row.
        exponents: Values are integers times ``2 ** -exponent``, shape ``(rows,)``.
    """

    bits: Tensor
    exponents: Tensor


@layer("fixed_point")
class FixedPoint(nn.Module):
    """A linear layer whose file holds integers of 2 to 32 bits.

    In memory it multiplies by their float32 values, which are exactly what comes back
    from the file.

    Args:
        in_features: Number of input features.
        out_features: Number of output features.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        shape = (out_features, in_features)
        self.register_buffer("weight", torch.zeros(shape), persistent=False)
        self.register_buffer("bias", torch.zeros(out_features))
        self.plan = Plan(
            bits=torch.zeros(out_features, dtype=torch.int64),
            exponents=torch.zeros(out_features, dtype=torch.int64),
        )

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, plan: Plan) -> FixedPoint:
        """The layer nearest to these weights under a plan.

        Args:
            weight: Weight matrix, shape ``(out, in)``.
            bias: Shape ``(out,)``; stays float32.
            plan: Bits and exponent of each of the ``out`` rows.

        Returns:
            The layer, whose float32 weights are exactly those of its file.
        """
        made = cls(weight.shape[1], weight.shape[0])
        made.plan = plan
        # Integers, (out, in).
        codes = _codes(weight.double(), plan.bits[:, None], plan.exponents[:, None])
        made.weight = _values(codes, plan).to(weight.dtype)
        made.bias = bias.detach().clone()
        return made

    def forward(self, x: Tensor) -> Tensor:
        """``x`` times the matrix, plus the bias."""
        return functional.linear(x, self.weight, self.bias)

    def spec(self) -> dict[str, Any]:
        """Keyword arguments that rebuild the layer."""
        return {"in_features": self.in_features, "out_features": self.out_features}

    def weights(self) -> dict[str, Tensor]:
        """What counts as parameters."""
        return {"weight": self.weight, "bias": self.bias}

    def pack(self) -> dict[str, Tensor]:
        """Packed integers, the rows' widths and exponents, and the bias."""
        weight, bits = self.weight.double().cpu(), self.plan.bits
        codes = _codes(weight, bits[:, None], self.plan.exponents[:, None]).numpy()
        stream, widths = [], []
        for row, width in zip(codes, bits.tolist(), strict=True):
            kept = row != 0
            # A bitmap costs one bit a weight and saves `width` bits for each zero.
            sparse = len(row) + int(kept.sum()) * width < len(row) * width
            if sparse:
                stream.append(kept.astype(np.uint8))
            stored = row[kept] if sparse else row
            # The lowest bit first; `>>` keeps the sign, so that these are the bits of
            # the two's complement.
            places = (stored[:, None] >> np.arange(width)) & 1
            stream.append(places.astype(np.uint8).ravel())
            widths.append(width | (SPARSE if sparse else 0))
        return {
            "codes": torch.from_numpy(np.packbits(np.concatenate(stream))),
            "widths": torch.tensor(widths, dtype=torch.uint8),
            "exponents": self.plan.exponents.to(torch.int8),
            "bias": self.bias,
        }

    def unpack(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what ``pack`` gave.

        Args:
            tensors: By the names of ``pack``.
        """
        stream = np.unpackbits(tensors["codes"].numpy())
        rows, at = [], 0
        for stored in tensors["widths"].tolist():
            width, kept = stored & ~SPARSE, np.ones(self.in_features, dtype=bool)
            if stored & SPARSE:
                kept = stream[at : at + self.in_features].astype(bool)
                at += self.in_features
            row = np.zeros(self.in_features, dtype=np.int64)
            if width:
                end = at + int(kept.sum()) * width
                places = stream[at:end].reshape(-1, width).astype(np.int64)
                row[kept] = (places << np.arange(width)).sum(1)
                # The highest bit counts -2^(width - 1) and was added as +2^(width - 1).
                row[kept] -= places[:, -1] << width  # two's complement
                at = end
            rows.append(torch.from_numpy(row))
        widths = tensors["widths"].long() & ~SPARSE
        self.plan = Plan(bits=widths, exponents=tensors["exponents"].long())
        self.bias = tensors["bias"]
        self.weight = _values(torch.stack(rows), self.plan).to(self.bias.dtype)


def stored_bits(net: nn.Module) -> int:
    """Bits of all fixed-point matrices of a network as packed, biases apart."""
    return sum(
        8 * value.numel()
        for module in net.modules()
        if isinstance(module, FixedPoint)
        for name, value in module.pack().items()
        if name != "bias"
    )


def plan(
    weights: Sequence[Tensor], variances: Sequence[Tensor], budget: int
) -> list[Plan]:
    """Spend a budget of bits on the rows of several matrices.

    An error ``e`` of a weight whose posterior variance is ``v`` costs ``e^2 / 2v``
    nats if the posterior is right; bits go where they save most of it. Rows that the
    data did not pin down get few bits, or none.

    Args:
        weights: Matrices of shape ``(rows, columns)``.
        variances: Their posterior variances, above 0; all equal for plain rounding.
        budget: Bits for everything that is stored, headers included.

    Returns:
        A plan for each matrix.

    Raises:
        ValueError: If the budget does not even hold the headers.
    """
    tables = [
        _table(w.double(), v.double()) for w, v in zip(weights, variances, strict=True)
    ]
    costs = torch.cat([t.cost for t in tables])
    # The last byte of each packed matrix may hold up to seven idle bits.
    free = budget - HEADER_BITS * len(costs) - 7 * len(tables)
    if free < 0:
        raise ValueError(
            f"{budget} bits do not hold the headers of {len(costs)} rows of "
            f"{HEADER_BITS} bits each"
        )
    chosen = _spend(costs, torch.cat([t.loss for t in tables]), free)
    plans, start = [], 0
    widths = torch.tensor(_WIDTHS)
    for table in tables:
        mine = chosen[start : start + len(table.cost)]
        start += len(mine)
        exponents = table.exponent.gather(1, mine[:, None])[:, 0]
        plans.append(Plan(bits=widths[mine], exponents=exponents))
    return plans


@dataclass(frozen=True, slots=True)
class _Table:
    """For each row and width its bits, loss and best exponent: ``(rows, widths)``."""

    cost: Tensor
    loss: Tensor
    exponent: Tensor


def _table(weight: Tensor, variance: Tensor) -> _Table:
    rows, columns = weight.shape
    sensitivity = 1 / (2 * variance)  # nats per squared error
    peak = weight.abs().amax(1)
    whole = torch.floor(-torch.log2(peak.clamp_min(2.0**-60)))
    zero = torch.zeros(rows, dtype=torch.int64)
    cost = [zero]
    # No bits: the row becomes zero.
    loss = [(sensitivity * weight.square()).sum(1)]
    exponent = [zero]
    for bits in _WIDTHS[1:]:
        # From no weight clipped to the largest clipped to an eighth.
        tried = [
            (whole + bits - 2 + extra).clamp(-128, 127).long()
            for extra in (range(4) if bits <= _MEASURED else (0,))
        ]
        errors = [
            (sensitivity * (weight - _rounded(weight, bits, e)).square()).sum(1)
            for e in tried
        ]
        best = torch.stack(errors).argmin(0)
        exponent.append(torch.stack(tried).gather(0, best[None])[0])
        least = torch.stack(errors).amin(0)
        # One bit more halves the step, and the mean square of the error falls to a
        # quarter.
        loss.append(least if bits <= _MEASURED else loss[-1] / 4)
        cost.append(_cost(weight, bits, exponent[-1], columns))
    return _Table(torch.stack(cost, 1), torch.stack(loss, 1), torch.stack(exponent, 1))


def _cost(weight: Tensor, bits: int, exponent: Tensor, columns: int) -> Tensor:
    widths = torch.full_like(exponent, bits)[:, None]
    kept = (_codes(weight, widths, exponent[:, None]) != 0).sum(1)
    # The cheaper of the two forms of `pack`, dense or with a bitmap.
    return torch.minimum(torch.full_like(kept, columns * bits), columns + kept * bits)


def _spend(cost: Tensor, loss: Tensor, budget: int) -> Tensor:
    """The width of each row, as an index; a Lagrange multiplier, then what is left."""
    cost = cost.double()

    def choose(price: float) -> Tensor:
        # The Lagrangian of each row, on its own: (rows,).
        return (loss + price * cost).argmin(1)

    low, high = -300.0, 300.0  # of log2(price)
    for _ in range(64):
        middle = (low + high) / 2
        spent = cost.gather(1, choose(2.0**middle)[:, None]).sum()
        low, high = (low, middle) if spent <= budget else (middle, high)
    chosen = choose(2.0**high)
    left = budget - int(cost.gather(1, chosen[:, None]).sum())
    # What is left buys at most one change for each row: the width that gains the most
    # nats per bit, the best rows first.
    more = cost - cost.gather(1, chosen[:, None])
    gain = loss.gather(1, chosen[:, None]) - loss
    worth = torch.where((more > 0) & (gain > 0), gain / more.clamp_min(1), 0.0)
    best, which = worth.max(1)
    for row in best.argsort(descending=True).tolist():
        step = int(more[row, which[row]])
        if best[row] > 0 and step <= left:
            chosen[row] = which[row]
            left -= step
    return chosen


def _codes(weight: Tensor, bits: Tensor, exponents: Tensor) -> Tensor:
    """Nearest integers in two's complement of that many bits; 0 for no bits."""
    # b bits hold the integers from -2^(b - 1) to 2^(b - 1) - 1.
    top = torch.where(bits > 0, 2 ** (bits - 1).clamp_min(0) - 1, 0)
    bottom = torch.where(bits > 0, -top - 1, 0)
    scaled = torch.floor(torch.ldexp(weight, exponents) + 0.5)
    return torch.minimum(torch.maximum(scaled.long(), bottom), top)


def _values(codes: Tensor, plan: Plan) -> Tensor:
    return torch.ldexp(codes.double(), -plan.exponents[:, None])


def _rounded(weight: Tensor, bits: int, exponent: Tensor) -> Tensor:
    widths = torch.full_like(exponent, bits)
    codes = _codes(weight, widths[:, None], exponent[:, None])
    return torch.ldexp(codes.double(), -exponent[:, None])


def unit_round_off_bits(variance: Tensor) -> Tensor:
    """Significand bits that a posterior variance leaves worth storing.

    The number of ``t`` in 1 ... 23 with ``2 v < 2^-t`` (Louizos et al. 2017,
    arXiv:1705.08665, and the code of its tutorial).

    Args:
        variance: Of each weight, at least 0.

    Returns:
        Whole numbers from 0 to 23, same shape.

    >>> unit_round_off_bits(torch.tensor([1.0, 0.2, 0.1, 0.0])).tolist()
    [0, 1, 2, 23]
    """
    t = torch.arange(1, 24, dtype=torch.float64)
    return (2 * variance.double()[..., None] < 2**-t).sum(-1)
