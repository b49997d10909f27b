"""The ResNet for CIFAR of depth 6n + 2 (He et al., arXiv:1512.03385, section 4.2)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from harness.models._classifier import Classifier, Stack
from harness.models._convnet import BasicBlock, averaged


class CifarResNet(Classifier):
    """Three stages of ``blocks`` basic blocks with 16, 32 and 64 channels.

    Only the first convolution of a block may lose filters freely; the others are
    coupled by the identities, whose shortcuts have no parameters.
    """

    blocks: ClassVar[int]
    roles: ClassVar[Mapping[str, str]] = {
        r"block\d+_\d+\.conv1": "conv",
        r"conv1|block\d+_\d+\.conv2": "coupled_conv",
        r"relu1|stage\d+": "exit_point",
        "head": "head",
    }

    def layers(self, shape: Mapping[str, Any]) -> nn.Module:
        """The network for a task's shape."""
        stack: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(shape["input"][0], 16, 3, padding=1, bias=False),
            norm1=nn.BatchNorm2d(16),
            relu1=nn.ReLU(),
        )
        channels = 16
        for stage, width in enumerate((16, 32, 64), 1):
            for number in range(1, self.blocks + 1):
                stride = 2 if stage > 1 and number == 1 else 1
                stack[f"block{stage}_{number}"] = BasicBlock(channels, width, stride)
                channels = width
            if stage < 3:
                stack[f"stage{stage}"] = nn.Identity()  # a place for an exit
        stack |= averaged(64, shape["classes"])
        return Stack(stack)
