"""The layers by which methods replace the matrices of narrower heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.toolkit.saved_model import layer
from methods._kernels.picked import picked


@layer("spread_outputs")
class SpreadOutputs(nn.Module):
    """A linear layer that computes some of its outputs; the others are zero.

    Attention keeps its shape, so that every channel keeps its rotation and the network
    needs no attention code of its own. The zeros take part in the attention and in its
    cache, so that these become neither smaller nor faster. The positions count as
    weights.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        kept: Number of outputs that are computed.
        bias: Whether a bias is added to these.
    """

    place: Tensor

    def __init__(
        self, in_features: int, out_features: int, *, kept: int, bias: bool
    ) -> None:
        super().__init__()
        self.out_features = out_features
        self.linear = nn.Linear(in_features, kept, bias=bias)
        # 4 bytes a position in the file are enough; the caller copies the positions in.
        self.register_buffer("place", torch.zeros(kept, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., in_features)`` to ``(..., out_features)``."""
        y: Tensor = self.linear(x)
        # `index_copy` takes 64-bit positions only.
        wide = y.new_zeros(*y.shape[:-1], self.out_features)
        return wide.index_copy(-1, self.place.long(), y)

    def weights(self) -> dict[str, Tensor]:
        """The positions count as parameters: without them the layer is not defined."""
        return {"place": self.place}

    def spec(self) -> dict[str, Any]:
        """Keyword arguments that rebuild the layer."""
        return {
            "in_features": self.linear.in_features,
            "out_features": self.out_features,
            "kept": self.linear.out_features,
            "bias": self.linear.bias is not None,
        }


@layer("gathered_inputs")
class GatheredInputs(nn.Module):
    """A linear layer that reads some of its inputs.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        kept: Number of inputs that are read.
        bias: Whether a bias is added to the output.
    """

    place: Tensor

    def __init__(
        self, in_features: int, out_features: int, *, kept: int, bias: bool
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.linear = nn.Linear(kept, out_features, bias=bias)
        self.register_buffer("place", torch.zeros(kept, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., in_features)`` to ``(..., out_features)``."""
        y: Tensor = self.linear(picked(x, self.place))
        return y

    def weights(self) -> dict[str, Tensor]:
        """The positions count as parameters: without them the layer is not defined."""
        return {"place": self.place}

    def spec(self) -> dict[str, Any]:
        """Keyword arguments that rebuild the layer."""
        return {
            "in_features": self.in_features,
            "out_features": self.linear.out_features,
            "kept": self.linear.in_features,
            "bias": self.linear.bias is not None,
        }
