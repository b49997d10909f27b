"""The layer of networks with rounded weights, and the matrices that it replaces."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from harness.core import Context, Unsupported
from harness.toolkit.saved_model import layer
from methods._kernels.integer_grid import Grid, pack, unpack
from methods._kernels.low_rank.factors import check_finite, matrix

_EXTRAS = ("zeros", "order", "divisors")


@layer("rounded")
class Rounded(nn.Module):
    """A linear layer whose weights are ``scale * (code - zero)``.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        bits: Bits of a code in the file, 2 to 8.
        group_size: Number of weights in a row that share a scale.
        bias: Whether a bias is added to the output.
        extras: What the file holds beside codes and scales: ``zeros``, the zero point
            of each group, in ``bits`` bits (without it the code 0 has the value 0);
            ``order``, the order of columns in which groups hold neighbours;
            ``divisors``, a number for each column by which it is divided.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    order: Tensor | None
    divisors: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bits: int,
        group_size: int,
        bias: bool,
        extras: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bits, self.group_size = bits, group_size
        groups = -(-in_features // group_size)  # the last one may be smaller
        # 2 bytes are enough for the number of a column, up to 32,767.
        short = torch.int16 if in_features < 2**15 else torch.int32
        made = {
            "zeros": torch.zeros(out_features, groups, dtype=torch.uint8),
            "order": torch.arange(in_features, dtype=short),
            "divisors": torch.ones(in_features),
        }
        # With a zero point codes run from 0 to 2^bits - 1, without one they have a
        # sign.
        kind = torch.uint8 if "zeros" in extras else torch.int8
        codes = torch.zeros(out_features, in_features, dtype=kind)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", torch.ones(out_features, groups))
        for name, value in made.items():
            self.register_buffer(name, value if name in extras else None)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @property
    def weight(self) -> Tensor:
        """The rounded weight, shape ``(out, in)``, in the dtype of the scales."""
        # One scale for each weight, cut to the width where the last group is smaller.
        # The weight is computed in every pass and never kept: only codes stay in
        # memory.
        scales = self.scales.repeat_interleave(self.group_size, 1)
        made = self._centred().to(scales.dtype) * scales[:, : self.in_features]
        if self.order is not None:  # column i of the codes is column order[i]
            made = torch.empty_like(made).index_copy_(1, self.order.long(), made)
        return made if self.divisors is None else made / self.divisors

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., in_features)`` to ``(..., out_features)``."""
        return linear(x, self.weight, self.bias)

    def weights(self) -> dict[str, Tensor]:
        """Tensors that count as parameters; scales count in the bytes of the file."""
        # Without the zero point a weight of zero counts as zero.
        own = {"codes": self._centred()}
        return own if self.bias is None else {**own, "bias": self.bias}

    def spec(self) -> dict[str, Any]:
        """Keyword arguments that rebuild the layer."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bits": self.bits,
            "group_size": self.group_size,
            "bias": self.bias is not None,
            "extras": [name for name in _EXTRAS if getattr(self, name) is not None],
        }

    def pack(self) -> dict[str, Tensor]:
        """The tensors of the file; codes and zero points take ``bits`` bits each."""
        # In memory a code takes a byte, in the file `bits` bits.
        packed = {"codes": pack(self.codes, self.bits), "scales": self.scales}
        if self.zeros is not None:  # all in one row: no gap at the end of each
            packed["zeros"] = pack(self.zeros.reshape(1, -1), self.bits)
        for name in ("order", "divisors", "bias"):
            value = getattr(self, name)
            if value is not None:
                packed[name] = value
        return packed

    def unpack(self, tensors: dict[str, Tensor]) -> None:
        """Restore the layer from the tensors of ``pack``."""
        codes, signed = tensors["codes"], self.zeros is None
        self.codes = unpack(codes, self.bits, self.in_features, signed=signed)
        self.scales = tensors["scales"]
        if self.zeros is not None:
            count = self.scales.numel()
            zeros = unpack(tensors["zeros"], self.bits, count, signed=False)
            self.zeros = zeros.view(self.scales.shape)
        if self.order is not None:
            self.order = tensors["order"]
        if self.divisors is not None:
            self.divisors = tensors["divisors"]
        if self.bias is not None:
            self.bias = nn.Parameter(tensors["bias"])

    def _centred(self) -> Tensor:
        """The codes without the zero points, shape ``(out, in)``."""
        if self.zeros is None:
            return self.codes
        zeros = self.zeros.repeat_interleave(self.group_size, 1)[:, : self.in_features]
        # From -255 to 255 at 8 bits, which no type of 8 bits holds.
        return self.codes.to(torch.int16) - zeros


def rounded_layer(
    module: nn.Module,
    codes: Tensor,
    grid: Grid,
    *,
    group_size: int,
    order: Tensor | None = None,
    divisors: Tensor | None = None,
) -> Rounded:
    """The layer that takes the place of a linear one.

    Args:
        module: The linear layer, or GPT-2's transposed one; gives the bias and dtype.
        codes: Whole numbers, shape ``(out, in)``.
        grid: Scales and zero points of shape ``(out, groups)``.
        group_size: Number of weights of a row that share a scale.
        order: The column of the weight that each column of codes stands for, shape
            ``(in,)``; None if they are the same.
        divisors: Numbers by which the columns of the weight are divided, shape
            ``(in,)``; None for none.

    Returns:
        The layer, in the dtype of the module and on its device.
    """
    weight, bias = matrix(module), getattr(module, "bias", None)
    out, inner = weight.shape
    given = [value is not None for value in (grid.zero, order, divisors)]
    made = Rounded(
        inner,
        out,
        bits=grid.bits,
        group_size=group_size,
        bias=bias is not None,
        extras=[name for name, value in zip(_EXTRAS, given, strict=True) if value],
    ).to(weight.device)
    made.codes = codes.to(made.codes.dtype).contiguous()
    made.scales = grid.scale.to(weight.dtype)
    if grid.zero is not None:
        made.zeros = grid.zero.to(torch.uint8)
    if order is not None and made.order is not None:
        made.order = order.to(made.order)
    if divisors is not None:
        made.divisors = divisors.to(weight.dtype)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone())
    return made


def removed_bits(bits: int, dtype: str) -> float:
    """The share of the bits of a weight that rounding removes, scales not counted.

    >>> removed_bits(8, "float32"), removed_bits(4, "bfloat16")
    (0.75, 0.75)
    """
    return 1 - bits / (32 if dtype == "float32" else 16)


def matrices(ctx: Context, net: nn.Module) -> dict[str, nn.Module]:
    """The linear layers at or below modules with a role, thin factors included.

    Args:
        ctx: Gives the table of roles.
        net: A network of the architecture of the context's model.

    Returns:
        Module path -> layer. A factor that several layers share is there once, under
        its first name.

    Raises:
        Unsupported: If there are none.
        NotFinite: If a weight is NaN or infinite; names the layer.
    """
    found: dict[str, nn.Module] = {}
    for path, owner in ctx.model.with_net(net).modules():
        for name, module in owner.named_modules():
            plain = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
            # All rows of a pivoted layer may be pivots: nothing is left to mix.
            if plain and matrix(module).numel():
                found[f"{path}.{name}" if name else path] = module
    if not found:
        raise Unsupported(
            f"{ctx.model.name} has no matrix to treat: choose a model with linear "
            "layers that have a role"
        )
    # By identity: a factor that several layers share is rounded once and stays shared.
    first: dict[int, str] = {}
    found = {n: m for n, m in found.items() if first.setdefault(id(m), n) == n}
    for name, module in found.items():
        check_finite(matrix(module), f"the weight of {name}")
    return found


def check_group_size(size: int | None) -> None:
    """Check the option ``group_size`` of a method.

    Args:
        size: Weights of a group; None for a whole row.

    Raises:
        ValueError: If it is below 1.
    """
    if size is not None and size < 1:
        raise ValueError(
            f"group_size {size} is below 1: write the number of weights that share a "
            "scale, or null for a whole row"
        )
