"""Wide residual networks: WRN-28-10 has 36,479,194 weights (arXiv:1605.07146)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from harness.models._classifier import Classifier, Stack
from harness.models._convnet import PreActivationBlock, averaged
from harness.registry import model


@model("wide_resnet", kind="classifier", gives={"convs", "exits"}, trained=True)
class WideResNet(Classifier):
    """Three stages of pre-activation blocks; WRN-28-10 by default.

    Args:
        depth: ``6 n + 4`` for ``n`` blocks a stage.
        widen: Factor on the widths 16, 32 and 64.
        dropout: Between the convolutions of a block.
    """

    depth: int = 28
    widen: int = 10
    dropout: float = 0.3

    roles: ClassVar[Mapping[str, str]] = {
        r"block\d+_\d+\.conv1": "conv",
        r"conv1|block\d+_\d+\.(conv2|shortcut)": "coupled_conv",
        r"stage\d+": "exit_point",
        "head": "head",
    }

    def __post_init__(self) -> None:
        """Refuse depths that no number of blocks gives.

        Raises:
            ValueError: If ``depth`` is not 6 n + 4, or ``widen`` not positive.
        """
        if self.depth < 10 or self.depth % 6 != 4 or self.widen < 1:
            raise ValueError(
                f"depth is {self.depth} and widen {self.widen}; depth must be 6 n + 4 "
                "(10, 16, 22, 28 ...) and widen at least 1"
            )

    def layers(self, shape: Mapping[str, Any]) -> nn.Module:
        """The network for a task's shape."""
        conv1 = nn.Conv2d(shape["input"][0], 16, 3, padding=1, bias=False)
        stack: OrderedDict[str, nn.Module] = OrderedDict(conv1=conv1)
        channels = 16
        for stage, width in enumerate((16, 32, 64), 1):
            for number in range(1, (self.depth - 4) // 6 + 1):
                stride = 2 if stage > 1 and number == 1 else 1
                stack[f"block{stage}_{number}"] = PreActivationBlock(
                    channels, width * self.widen, stride, self.dropout
                )
                channels = width * self.widen
            if stage < 3:
                stack[f"stage{stage}"] = nn.Identity()  # a place for an exit
        stack |= averaged(channels, shape["classes"], norm=True)
        return Stack(stack)
