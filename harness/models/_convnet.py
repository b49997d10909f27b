"""Building blocks of the convolutional families."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv_stack(
    plan: Sequence[int | str | float], channels: int, *, bias: bool, norm: bool = True
) -> dict[str, nn.Module]:
    """3 x 3 convolutions with batch normalisation and ReLU, and what lies between.

    Args:
        plan: Widths of the convolutions; ``M`` for a 2 x 2 max-pooling; a share
            below 1 for dropout.
        channels: Number of input channels.
        bias: Whether the convolutions have one.
        norm: Whether batch normalisation follows them.

    Returns:
        Name -> layer: ``conv1``, ``norm1``, ``relu1``, ``pool1``, ``dropout1`` ...
    """
    stack: dict[str, nn.Module] = {}
    convs = pools = drops = 0
    for item in plan:
        if item == "M":
            pools += 1
            stack[f"pool{pools}"] = nn.MaxPool2d(2)
        elif isinstance(item, float):
            drops += 1
            stack[f"dropout{drops}"] = nn.Dropout(item)
        else:
            convs += 1
            stack[f"conv{convs}"] = nn.Conv2d(
                channels, int(item), 3, padding=1, bias=bias
            )
            if norm:
                stack[f"norm{convs}"] = nn.BatchNorm2d(int(item))
            stack[f"relu{convs}"] = nn.ReLU()
            channels = int(item)
    return stack


def units(full: int, width: float) -> int:
    """The number of filters or neurons at a share of the full width, at least one.

    >>> units(512, 1 / 3), units(64, 1.0)
    (171, 64)
    """
    return max(1, round(full * width))


def scaled(plan: Sequence[int | str | float], width: float) -> list[int | str | float]:
    """A plan of ``conv_stack`` with every convolution at a share of its width.

    >>> scaled((128, "M", 256), 0.5)
    [64, 'M', 128]
    """
    return [units(item, width) if isinstance(item, int) else item for item in plan]


def check_width(width: float) -> None:
    """Check the option ``width`` of a model.

    Args:
        width: Share of the full width.

    Raises:
        ValueError: If it is not positive and finite, or above 16.
    """
    if not 0 < width <= 16:
        raise ValueError(f"width is {width}; it must be above 0 and at most 16")


def averaged(
    channels: int, classes: int, *, norm: bool = False
) -> dict[str, nn.Module]:
    """The end of a network: the mean over each map, and one linear layer.

    Args:
        channels: Of the last maps.
        classes: Number of classes, which is the number of logits.
        norm: Whether batch normalisation and a ReLU come first, as in networks whose
            blocks normalise before they convolve.

    Returns:
        Name -> layer, the last one ``head``.
    """
    before = {"norm": nn.BatchNorm2d(channels), "relu": nn.ReLU()} if norm else {}
    return {
        **before,
        "average": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "head": nn.Linear(channels, classes),
    }


class ZeroPadShortcut(nn.Module):
    """Every second pixel, and zero channels on both sides: no parameters (option A).

    Args:
        extra: Channels to add, half before and half after.
    """

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, images: Tensor) -> Tensor:
        """``(batch, c, h, w)`` to ``(batch, c + extra, h / 2, w / 2)``."""
        half = self.extra // 2
        # ``pad`` counts from the last dimension: width, height, then channels.
        return functional.pad(
            images[:, :, ::2, ::2], (0, 0, 0, 0, half, self.extra - half)
        )


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around an identity (He et al., arXiv:1512.03385).

    Args:
        channels: Number of input channels.
        width: Number of output channels.
        stride: Of the first convolution.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        # The shortcut must give the shape of the other path.
        same = channels == width and stride == 1
        self.shortcut = nn.Identity() if same else ZeroPadShortcut(width - channels)

    def forward(self, images: Tensor) -> Tensor:
        """The block's output, ``(batch, width, h / stride, w / stride)``."""
        out = self.relu1(self.norm1(self.conv1(images)))
        out = self.norm2(self.conv2(out))
        return self.relu2(out + self.shortcut(images))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions; the output is four times as wide.

    Args:
        channels: Number of input channels.
        width: Of the inner convolutions.
        stride: Of the 3 x 3 convolution.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(4 * width)
        self.relu3 = nn.ReLU()
        same = channels == 4 * width and stride == 1
        self.shortcut: nn.Module = nn.Identity()
        if not same:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride, bias=False),
                nn.BatchNorm2d(4 * width),
            )

    def forward(self, images: Tensor) -> Tensor:
        """The block's output, ``(batch, 4 * width, h / stride, w / stride)``."""
        out = self.relu1(self.norm1(self.conv1(images)))
        out = self.relu2(self.norm2(self.conv2(out)))
        out = self.norm3(self.conv3(out))
        return self.relu3(out + self.shortcut(images))


class PreActivationBlock(nn.Module):
    """Normalise before each convolution (Zagoruyko & Komodakis, arXiv:1605.07146).

    Args:
        channels: Number of input channels.
        width: Number of output channels.
        stride: Of the first convolution.
        dropout: Dropout probability between the two convolutions.
    """

    def __init__(self, channels: int, width: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.shortcut: nn.Module | None = None
        if channels != width or stride != 1:
            self.shortcut = nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """The block's output, ``(batch, width, h / stride, w / stride)``."""
        active = self.relu1(self.norm1(images))
        out = self.relu2(self.norm2(self.conv1(active)))
        out = self.conv2(self.dropout(out))
        # The identity adds the input as it is; a convolution on the shortcut reads the
        # normalised input.
        return out + (images if self.shortcut is None else self.shortcut(active))


class DenseLayer(nn.Module):
    """Appends ``growth`` channels to its input (Huang et al., arXiv:1608.06993).

    Args:
        channels: Number of input channels.
        growth: Number of channels that the layer adds.
        dropout: Of the added channels.
    """

    def __init__(self, channels: int, growth: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(channels, growth, 3, padding=1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        """``(batch, channels + growth, h, w)``."""
        added = self.dropout(self.conv(self.relu(self.norm(images))))
        return torch.cat([images, added], dim=1)
