"""Rounding of weights to 8 or 4 bits, by row or group (RTN in arXiv:2210.17323)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from harness.core import Context, Unsupported
from harness.registry import method
from harness.toolkit.saved_model import layer, replace
from methods._kernels.low_rank.factors import check_finite, matrix


@layer("rounded")
class Rounded(nn.Module):
    """A linear layer whose weights are integers times a scale.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        bits: 8 or 4 bits per weight; the file packs two 4-bit integers into a byte.
        group_size: Number of weights in a row that share a scale.
        bias: Whether a bias is added to the output.
    """

    codes: Tensor
    scales: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bits: int,
        group_size: int,
        bias: bool,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bits, self.group_size = bits, group_size
        groups = -(-in_features // group_size)
        self.register_buffer(
            "codes", torch.zeros(out_features, in_features, dtype=torch.int8)
        )
        self.register_buffer("scales", torch.ones(out_features, groups))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @property
    def weight(self) -> Tensor:
        """The rounded weight, shape ``(out, in)``, in the dtype of the scales."""
        scales = self.scales.repeat_interleave(self.group_size, 1)
        return self.codes.to(scales.dtype) * scales[:, : self.in_features]

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., in_features)`` to ``(..., out_features)``."""
        return linear(x, self.weight, self.bias)

    def weights(self) -> dict[str, Tensor]:
        """Tensors that count as parameters; scales count in the bytes of the file."""
        own = {"codes": self.codes}
        return own if self.bias is None else {**own, "bias": self.bias}

    def spec(self) -> dict[str, Any]:
        """Keyword arguments that rebuild the layer."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bits": self.bits,
            "group_size": self.group_size,
            "bias": self.bias is not None,
        }

    def pack(self) -> dict[str, Tensor]:
        """The tensors of the file; 4-bit numbers two to a byte."""
        codes = self.codes
        if self.bits == 4:
            low, high = pad(codes, (0, codes.shape[1] % 2)).unfold(1, 2, 2).unbind(-1)
            codes = (low & 15) | (high << 4)
        return {**self.weights(), "scales": self.scales, "codes": codes}

    def unpack(self, tensors: dict[str, Tensor]) -> None:
        """Restore the layer from the tensors of ``pack``."""
        codes = tensors["codes"]
        if self.bits == 4:  # shifting left first restores the sign
            both = torch.stack([(codes << 4) >> 4, codes >> 4], -1)
            codes = both.flatten(1)[:, : self.in_features]
        self.codes, self.scales = codes.contiguous(), tensors["scales"]
        if self.bias is not None:
            self.bias = nn.Parameter(tensors["bias"])


@method("round_to_nearest", ratio_of="bits", needs={"linears"}, version=2)
class RoundToNearest:
    """Rounds every weight to the nearest of a few evenly spaced values.

    A group of weights w of one row shares the scale ``s = max |w| / (2^(b - 1) - 1)``
    with b the number of bits. Each weight is stored as the integer ``q = round(w / s)``
    and used as ``s q``, so that it is off by ``s / 2`` at most. Activations are not
    rounded, and the products run in the dtype of the network. In a chain after a
    low-rank method the thin factors are rounded.

    By default weights have 8 bits and each row one scale. The method has a single
    ratio, the share of bits removed from a weight: 0.75 for 8 bits of a float32
    network, 0.5 of a half-precision one. The scales count in the achieved ratio.

    It is the baseline called RTN of the papers on quantisation (arXiv:2210.17323);
    their code often uses a zero point as well, which this symmetric form does without.

    Args:
        bits: Bits per weight, 8 or 4.
        group_size: Number of weights in a row that share a scale; None for a whole row.
    """

    bits: Literal[8, 4] = 8
    group_size: int | None = None

    def __post_init__(self) -> None:
        """Check the size of a group.

        Raises:
            ValueError: If ``group_size`` is below 1.
        """
        if self.group_size is not None and self.group_size < 1:
            raise ValueError(f"group_size {self.group_size} is below 1")

    def ratios(self, dtype: str = "float32") -> tuple[float, ...]:
        """The share of bits removed from a weight of a dtype."""
        return (1 - self.bits / (32 if dtype == "float32" else 16),)

    def compress(self, fitted: Any, ratio: float, ctx: Context) -> nn.Module:
        """The network with every matrix rounded.

        Args:
            fitted: None; the method has no ``fit``.
            ratio: 0 for the dense network; any other value means the bits of the
                options.
            ctx: Gives the dense network.

        Returns:
            The network.

        Raises:
            Unsupported: If the model has no matrix with a role.
        """
        net = ctx.dense()
        if ratio == 0:
            return net
        found = _matrices(ctx, net)
        if not found:
            raise Unsupported(f"{ctx.model.name} has no matrix to round")
        for name, module in found.items():
            if matrix(module).numel() == 0:
                continue  # a pivoted layer at full rank has no rows beside its pivots
            check_finite(matrix(module), f"the weight of {name}")
            net = replace(net, name, rounded(module, self.bits, self.group_size))
        return net


def rounded(module: nn.Module, bits: int, group_size: int | None) -> Rounded:
    """A rounded copy of a linear layer.

    Args:
        module: A linear layer, or GPT-2's transposed one.
        bits: Bits per weight, 8 or 4.
        group_size: Number of weights in a row that share a scale; None for a whole row.

    Returns:
        The layer, with scales in the dtype of the weight; no weight is off by more than
        half a scale, but for the rounding of the dtype.
    """
    dtype = matrix(module).dtype
    # In float32: a half-precision quotient is off by more than half an integer at 127.
    weight, bias = matrix(module).float(), getattr(module, "bias", None)
    out, inner = weight.shape
    size = min(group_size or inner, inner)
    top = 2 ** (bits - 1) - 1
    groups = pad(weight, (0, -inner % size)).view(out, -1, size)
    scales = groups.abs().amax(-1) / top  # (out, groups)
    # The scale as the layer will store it, so that the integers are fitted to it.
    scales = _not_below(scales, dtype).float()
    scales = scales.where(scales > 0, 1.0)
    codes = (groups / scales[..., None]).round().clamp(-top, top)
    made = Rounded(inner, out, bits=bits, group_size=size, bias=bias is not None)
    made.codes = codes.view(out, -1)[:, :inner].to(torch.int8).contiguous()
    made.scales = scales.to(dtype)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone())
    return made


def _not_below(values: Tensor, dtype: torch.dtype) -> Tensor:
    """``values`` in a dtype, rounded up: a smaller scale would clip large weights."""
    cast = values.to(dtype)
    above = torch.nextafter(cast, torch.full_like(cast, torch.inf))
    return cast.where(cast.to(values.dtype) >= values, above)


def _matrices(ctx: Context, net: nn.Module) -> dict[str, nn.Module]:
    """The linear layers at or below modules with a role, thin factors included."""
    found: dict[str, nn.Module] = {}
    for path, owner in ctx.model.with_net(net).modules():
        for name, module in owner.named_modules():
            plain = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
            if plain:
                found[f"{path}.{name}" if name else path] = module
    # A shared factor is rounded once, under its first name.
    first: dict[int, str] = {}
    return {n: m for n, m in found.items() if first.setdefault(id(m), n) == n}
