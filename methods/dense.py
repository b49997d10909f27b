"""The uncompressed network: the baseline that every other row is compared with."""

from __future__ import annotations

from typing import Any

from torch import nn

from harness.core import Context
from harness.registry import method


@method("dense", ratio_of="none", tolerance=0.0)
class Dense:
    """Leaves the network as it is, with the weights ``W' = W``.

    Its only ratio is 0 and it has no options. It measures the model itself, in the
    dtype, with the tasks and the protocol of the grid, so that a compressed network is
    compared with a number measured in the same way.
    """

    def ratios(self, dtype: str = "float32") -> tuple[float, ...]:
        """The ratio 0, for every dtype."""
        return (0.0,)

    def compress(self, fitted: Any, ratio: float, ctx: Context) -> nn.Module:
        """A copy of the dense network.

        Args:
            fitted: None; the method has no ``fit``.
            ratio: 0.
            ctx: Gives the dense network.

        Returns:
            The copy.
        """
        return ctx.dense()
