"""The network as it is: the row that every other is compared with."""

from __future__ import annotations

from typing import Any

from torch import nn

from harness.core import Context
from harness.registry import method


@method("dense", ratio_of="none", tolerance=0.0)
class Dense:
    """No compression; its single ratio is 0."""

    def ratios(self) -> tuple[float, ...]:
        """The only ratio there is."""
        return (0.0,)

    def compress(self, fitted: Any, ratio: float, ctx: Context) -> nn.Module:
        """A copy of the dense network.

        Args:
            fitted: Nothing.
            ratio: 0.
            ctx: Of the bundle.

        Returns:
            The copy.
        """
        return ctx.dense()
