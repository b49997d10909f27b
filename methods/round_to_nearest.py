"""Rounding weights to 8 or 4 bits, by row or by group (as in arXiv:2210.17323, RTN)."""

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
    """A linear layer whose weight is whole numbers times a scale.

    Args:
        in_features: Of the input.
        out_features: Of the output.
        bits: 8 or 4; the file packs two 4-bit numbers into a byte.
        group_size: Weights of a row that share a scale.
        bias: Whether the output has one.
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
        """Shape ``(..., out_features)``."""
        return linear(x, self.weight, self.bias)

    def weights(self) -> dict[str, Tensor]:
        """What counts as parameters; the scales count in the bytes of the file."""
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
        """Take back what ``pack`` gave."""
        codes = tensors["codes"]
        if self.bits == 4:  # shifting left first brings the sign back
            both = torch.stack([(codes << 4) >> 4, codes >> 4], -1)
            codes = both.flatten(1)[:, : self.in_features]
        self.codes, self.scales = codes.contiguous(), tensors["scales"]
        if self.bias is not None:
            self.bias = nn.Parameter(tensors["bias"])


@method("round_to_nearest", ratio_of="bits", needs={"linears"})
class RoundToNearest:
    """Symmetric rounding of every matrix, in a chain of the thin factors too.

    It has one ratio of its own, the share of a 32-bit float that goes.

    Args:
        bits: Of a weight.
        group_size: Weights of a row that share a scale; None for the whole row.
    """

    bits: Literal[8, 4] = 8
    group_size: int | None = None

    def __post_init__(self) -> None:
        """Refuse an empty group.

        Raises:
            ValueError: If ``group_size`` is below 1.
        """
        if self.group_size is not None and self.group_size < 1:
            raise ValueError(f"group_size {self.group_size} is below 1")

    def ratios(self) -> tuple[float, ...]:
        """The only ratio there is."""
        return (1 - self.bits / 32,)

    def compress(self, fitted: Any, ratio: float, ctx: Context) -> nn.Module:
        """The network with every matrix rounded.

        Args:
            fitted: Nothing.
            ratio: 0 for the dense network; any other means the bits of the options.
            ctx: Of the bundle.

        Returns:
            The network.

        Raises:
            Unsupported: If the model has no matrix.
        """
        net = ctx.dense()
        if ratio == 0:
            return net
        found = _matrices(ctx, net)
        if not found:
            raise Unsupported(f"{ctx.model.name} has no matrix to round")
        for name, module in found.items():
            check_finite(matrix(module), f"the weight of {name}")
            net = replace(net, name, rounded(module, self.bits, self.group_size))
        return net


def rounded(module: nn.Module, bits: int, group_size: int | None) -> Rounded:
    """A rounded copy of a linear layer.

    Args:
        module: With a weight that ``matrix`` reads, and a bias or None.
        bits: Of a weight.
        group_size: Weights of a row that share a scale; None for the whole row.

    Returns:
        The layer; no weight is off by more than half a scale.
    """
    weight, bias = matrix(module), getattr(module, "bias", None)
    out, inner = weight.shape
    size = min(group_size or inner, inner)
    top = 2 ** (bits - 1) - 1
    groups = pad(weight, (0, -inner % size)).view(out, -1, size)
    scales = groups.abs().amax(-1) / top  # (out, groups)
    scales = scales.where(scales > 0, 1.0)
    codes = (groups / scales[..., None]).round().clamp(-top, top)
    made = Rounded(inner, out, bits=bits, group_size=size, bias=bias is not None)
    made.codes = codes.view(out, -1)[:, :inner].to(torch.int8).contiguous()
    made.scales = scales
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone())
    return made


def _matrices(ctx: Context, net: nn.Module) -> dict[str, nn.Module]:
    """Linear layers at or beneath modules with a role, thin factors included."""
    found: dict[str, nn.Module] = {}
    for path, owner in ctx.model.with_net(net).modules():
        for name, module in owner.named_modules():
            plain = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
            if plain:
                found[f"{path}.{name}" if name else path] = module
    # A shared factor stands in the network once, under its first name.
    first: dict[int, str] = {}
    return {n: m for n, m in found.items() if first.setdefault(id(m), n) == n}
