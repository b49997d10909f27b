"""The layout that the VGG networks share (Simonyan & Zisserman, arXiv:1409.1556)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from harness.models._classifier import Classifier, Stack
from harness.models._convnet import check_width, conv_stack, scaled, units

ROLES = {
    r"conv\d+": "conv",
    r"fc\d+": "linear",
    r"pool\d+": "exit_point",
    "head": "head",
}
VGG16: tuple[int | str, ...] = (
    *(64, 64, "M", 128, 128, "M", 256, 256, 256, "M"),
    *(512, 512, 512, "M", 512, 512, 512),
)
VGG19: tuple[int | str, ...] = (
    *(64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M"),
    *(512, 512, 512, 512, "M", 512, 512, 512, 512),
)


@dataclass(frozen=True, kw_only=True)
class VGG(Classifier):
    """Convolutions by ``plan`` with bias, average pooling, linear layers.

    The weights begin as in HWAI-TUDa/Class-Aware-Pruning: convolutions normal with
    variance ``2 / (k * k * out)``, norm weights 0.5, linear layers normal 0.01.

    Args:
        width: Share of the filters and hidden neurons of the published network.
    """

    width: float = 1.0

    plan: ClassVar[Sequence[int | str]] = ()
    fc: ClassVar[tuple[int, ...]] = ()
    roles: ClassVar[Mapping[str, str]] = ROLES
    smallest: ClassVar[int] = 32

    def __post_init__(self) -> None:
        """Check the width."""
        check_width(self.width)

    def layers(self, shape: Mapping[str, Any]) -> nn.Module:
        """The network for a task's shape; images of 32 x 32 leave one pixel."""
        channels, height, width = shape["input"]
        stack = OrderedDict(
            conv_stack(scaled(self.plan, self.width), channels, bias=True)
        )
        stack["average"] = nn.AvgPool2d(2)
        stack["flatten"] = nn.Flatten()
        # Five halvings, four in ``plan`` and the average: 2^5 = 32.
        features = units(512, self.width) * (height // 32) * (width // 32)
        for number, full in enumerate(self.fc, 1):
            hidden = units(full, self.width)
            stack[f"fc{number}"] = nn.Linear(features, hidden)
            stack[f"fc_norm{number}"] = nn.BatchNorm1d(hidden)
            stack[f"fc_relu{number}"] = nn.ReLU()
            features = hidden
        stack["head"] = nn.Linear(features, shape["classes"])
        net = Stack(stack)
        _initialise(net)
        return net


def _initialise(net: nn.Module) -> None:
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels
            nn.init.normal_(layer.weight, std=(2 / fan_out) ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.constant_(layer.weight, 0.5)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
