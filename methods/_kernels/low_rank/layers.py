"""The layers by which low-rank methods replace matrices."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from harness.toolkit.saved_model import layer


@layer("projection")
class Projection(nn.Module):
    """The thin input factor, computed once for all layers that read the same input.

    Args:
        in_features: Width of the input.
        rank: Width of the output.
        users: Number of layers that ask for the product of one input in each pass.
    """

    def __init__(self, in_features: int, rank: int, *, users: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, rank, bias=False)
        self.users = users
        self._last: tuple[Tensor, Tensor] | None = None
        self._left = 0

    @property
    def weight(self) -> Tensor:
        """Shape ``(rank, in)``."""
        return self.linear.weight

    def forward(self, x: Tensor) -> Tensor:
        """The product ``(..., rank)``; the same object again for the same input."""
        if self.users == 1:
            alone: Tensor = self.linear(x)
            return alone
        # Query, key and value are called one after the other with the same tensor: by
        # identity, since a comparison of values would cost as much as it saves.
        if self._last is None or self._last[0] is not x:
            self._last = (x, self.linear(x))
            self._left = self.users
        product = self._last[1]
        self._left -= 1
        if not self._left:  # the last user: do not keep activations alive any longer
            self._last = None
        return product

    def spec(self) -> dict[str, Any]:
        """Keyword arguments that rebuild the layer."""
        return {
            "in_features": self.linear.in_features,
            "rank": self.linear.out_features,
            "users": self.users,
        }

    def __getstate__(self) -> dict[str, Any]:  # copies hold no activations
        return {**vars(self), "_last": None, "_left": 0}


@layer("low_rank")
class LowRank(nn.Module):
    """Two thin layers instead of a linear one: ``y = left(right(x))``.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        rank: Width between the two layers.
        bias: Whether a bias is added to the output.
    """

    def __init__(
        self, in_features: int, out_features: int, rank: int, *, bias: bool
    ) -> None:
        super().__init__()
        self.right = Projection(in_features, rank)
        self.left = nn.Linear(rank, out_features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., in_features)`` to ``(..., out_features)``."""
        y: Tensor = self.left(self.right(x))
        return y

    def spec(self) -> dict[str, Any]:
        """Keyword arguments that rebuild the layer."""
        return {
            "in_features": self.right.linear.in_features,
            "out_features": self.left.out_features,
            "rank": self.left.in_features,
            "bias": self.left.bias is not None,
        }
