"""ResNet-50 with a 3 x 3 stem for 32 x 32 images (arXiv:1512.03385)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from harness.models._classifier import Classifier, Stack
from harness.models._convnet import Bottleneck, averaged
from harness.registry import model

_STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))  # blocks, inner width


@model("resnet50_cifar", kind="classifier", gives={"convs", "exits"}, trained=True)
class ResNet50Cifar(Classifier):
    """Stages of 3, 4, 6 and 3 bottlenecks; exits after the stem and three stages."""

    roles: ClassVar[Mapping[str, str]] = {
        r"block\d+_\d+\.conv[12]": "conv",
        r"conv1|block\d+_\d+\.(conv3|shortcut\.0)": "coupled_conv",
        r"relu1|block1_3|block2_4|block3_6": "exit_point",
        "head": "head",
    }

    def layers(self, shape: Mapping[str, Any]) -> nn.Module:
        """The network for a task's shape."""
        stack: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(shape["input"][0], 64, 3, padding=1, bias=False),
            norm1=nn.BatchNorm2d(64),
            relu1=nn.ReLU(),
        )
        channels = 64
        for stage, (blocks, width) in enumerate(_STAGES, 1):
            for number in range(1, blocks + 1):
                stride = 2 if stage > 1 and number == 1 else 1
                stack[f"block{stage}_{number}"] = Bottleneck(channels, width, stride)
                channels = 4 * width
        stack |= averaged(channels, shape["classes"])
        return Stack(stack)
