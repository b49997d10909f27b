"""DenseNet for CIFAR, without bottlenecks (Huang et al., arXiv:1608.06993)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from harness.models._classifier import Classifier, Stack
from harness.models._convnet import DenseLayer, averaged
from harness.registry import model


@model("densenet", kind="classifier", gives={"convs", "exits"}, trained=True)
class DenseNet(Classifier):
    """Three blocks of ``layers_per_block``; DenseNet-40-12 by default.

    Its convolutions have biases, as in compstruct/DropBack.

    Args:
        layers_per_block: Convolutions in each of the three blocks.
        growth: Channels that each adds.
        dropout: Dropout probability after each convolution.
    """

    layers_per_block: int = 12
    growth: int = 12
    dropout: float = 0.0

    roles: ClassVar[Mapping[str, str]] = {
        r"layer\d+_\d+\.conv": "conv",
        r"conv1|transition\d+_conv": "conv",
        r"transition\d+_pool": "exit_point",
        "head": "head",
    }

    def __post_init__(self) -> None:
        """Refuse a network without layers.

        Raises:
            ValueError: If a size is not positive.
        """
        if self.layers_per_block < 1 or self.growth < 1:
            raise ValueError(
                f"layers_per_block is {self.layers_per_block} and growth {self.growth};"
                " both are at least 1"
            )

    smallest: ClassVar[int] = 4

    def layers(self, shape: Mapping[str, Any]) -> nn.Module:
        """The network for a task's shape."""
        conv1 = nn.Conv2d(shape["input"][0], 16, 3, padding=1)
        stack: OrderedDict[str, nn.Module] = OrderedDict(conv1=conv1)
        channels = 16
        for block in (1, 2, 3):
            for number in range(1, self.layers_per_block + 1):
                stack[f"layer{block}_{number}"] = DenseLayer(
                    channels, self.growth, self.dropout
                )
                channels += self.growth
            if block < 3:
                stack[f"transition{block}_norm"] = nn.BatchNorm2d(channels)
                stack[f"transition{block}_relu"] = nn.ReLU()
                stack[f"transition{block}_conv"] = nn.Conv2d(channels, channels, 1)
                stack[f"transition{block}_pool"] = nn.AvgPool2d(2)
        stack |= averaged(channels, shape["classes"], norm=True)
        return Stack(stack)
