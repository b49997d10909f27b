"""LeNet-5 as Caffe has it: 431,080 weights on MNIST (LeCun et al. 1998)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from harness.models._classifier import Classifier, Stack
from harness.registry import model


@model("lenet5", kind="classifier", gives={"convs", "linears", "exits"}, trained=True)
class LeNet5(Classifier):
    """Two 5 x 5 convolutions with max-pooling, one hidden linear layer.

    Args:
        widths: Of the two convolutions and of the hidden layer.
    """

    widths: tuple[int, int, int] = (20, 50, 500)

    roles: ClassVar[Mapping[str, str]] = {
        r"conv\d+": "conv",
        r"fc\d+": "linear",
        r"pool\d+": "exit_point",
        "head": "head",
    }

    smallest: ClassVar[int] = 16

    def layers(self, shape: Mapping[str, Any]) -> nn.Module:
        """The network for a task's shape."""
        channels, height, width = shape["input"]
        first, second, hidden = self.widths
        side = [((n - 4) // 2 - 4) // 2 for n in (height, width)]
        return Stack(
            OrderedDict(
                conv1=nn.Conv2d(channels, first, 5),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(first, second, 5),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(second * max(side[0], 0) * max(side[1], 0), hidden),
                relu1=nn.ReLU(),
                head=nn.Linear(hidden, shape["classes"]),
            )
        )
