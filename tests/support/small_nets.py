"""Small image classifiers, and one convolution made by hand, for tests of filters."""

import torch
from torch import nn

from harness.core import Context, Model
from harness.registry import find
from harness.toolkit.images import ImageData, Images

DIGITS = {"classes": 10, "input": [1, 8, 8]}
MNIST = {"classes": 10, "input": [1, 28, 28]}
C10 = {"classes": 10, "input": [3, 32, 32]}
SMALL = {
    "wide_resnet": {"depth": 10, "widen": 1},
    "densenet": {"layers_per_block": 2, "growth": 6},
}
CPU = torch.device("cpu")


def dense(name: str, shape=DIGITS) -> Model:
    return find("model", name).build(SMALL.get(name, {})).build(shape, 0)


def context(model: Model, data=None) -> Context:
    return Context(model=model, seed=0, device=CPU, data=data)


def disturb_norms(net: nn.Module) -> None:
    """Norms as after training: at their initial values every filter looks alike."""
    rng = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=rng)
            module.bias.data.uniform_(-0.3, 0.3, generator=rng)
            module.running_mean.uniform_(-0.3, 0.3, generator=rng)


class Tiny(nn.Module):
    """One convolution of four filters that pass, negate, ignore and add 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4, 2)
        self.conv.weight.data = torch.tensor([1.0, -1, 0, 0]).view(4, 1, 1, 1)
        self.conv.bias.data = torch.tensor([0.0, 0, 0, 1])
        self.head.weight.data = torch.tensor([[1.0, 1, 1, 0], [-1.0, -1, -1, 0]])
        self.head.bias.data.zero_()

    def forward(self, images):
        return self.head(self.pool(self.relu(self.conv(images))).flatten(1))


def tiny() -> Context:
    """Two classes of images with one bright or dark pixel, and ``Tiny``."""
    # Class 0 is bright at the first pixel, class 1 is dark (negative) at the last.
    pixels = torch.full((8, 1, 1, 2), 128, dtype=torch.uint8)
    pixels[:4, 0, 0, 0], pixels[4:, 0, 0, 1] = 255, 0
    images = Images(
        pixels=pixels,
        labels=torch.tensor([0] * 4 + [1] * 4),
        mean=(128 / 255,),
        std=(0.5,),
    )
    data = ImageData(train=images, validation=images, test=images, classes=2)
    model = Model(
        name="tiny", net=Tiny().eval(), kind="classifier", roles={"conv": "conv"},
        example=lambda: {"images": torch.zeros(1, 1, 1, 2)},
    )  # fmt: skip
    return context(model, data)
