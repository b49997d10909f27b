"""AlexNet on 224 x 224 images, torchvision's layout with a smaller head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from harness.models._classifier import Classifier, Stack
from harness.registry import model


@model("alexnet", kind="classifier", gives={"convs", "linears", "exits"}, trained=True)
class AlexNet(Classifier):
    """Five convolutions and 9216-4096-1024 linear units: 44,428,106 weights.

    That is with ten classes, as in TUDa-HWAI/eece; smaller images are enlarged to
    224 x 224 first.
    """

    roles: ClassVar[Mapping[str, str]] = {
        r"conv\d+": "conv",
        r"fc\d+": "linear",
        "pool1|pool2|relu3|relu4|average": "exit_point",
        "head": "head",
    }

    def layers(self, shape: Mapping[str, Any]) -> nn.Module:
        """The network for a task's shape."""
        channels = shape["input"][0]
        stack: OrderedDict[str, nn.Module] = OrderedDict()
        if shape["input"][1:] != [224, 224]:
            stack["enlarge"] = nn.Upsample((224, 224), mode="bilinear")
        sizes = [(64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1)]
        sizes += [(256, 3, 1, 1), (256, 3, 1, 1)]
        for number, (width, kernel, stride, padding) in enumerate(sizes, 1):
            stack[f"conv{number}"] = nn.Conv2d(channels, width, kernel, stride, padding)
            stack[f"relu{number}"] = nn.ReLU()
            if number in (1, 2, 5):
                stack[f"pool{number}"] = nn.MaxPool2d(3, 2)
            channels = width
        stack["average"] = nn.AdaptiveAvgPool2d((6, 6))
        stack["flatten"] = nn.Flatten()
        features = 256 * 6 * 6
        for number, units in enumerate((4096, 1024), 1):
            stack[f"dropout{number}"] = nn.Dropout(0.5)
            stack[f"fc{number}"] = nn.Linear(features, units)
            stack[f"fc_relu{number}"] = nn.ReLU()
            features = units
        stack["head"] = nn.Linear(features, shape["classes"])
        return Stack(stack)
