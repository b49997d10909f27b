"""What every image classifier that is trained here shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from harness.core import BenchError, Context, Model
from harness.toolkit.training import Recipe, train

Init = Literal["torch", "lecun_normal", "he_normal"]


class Stack(nn.Sequential):
    """Layers one after the other; a method may cut it between any two of them."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape ``(batch, classes)`` for ``(batch, channels, h, w)``."""
        for layer in self:
            images = layer(images)
        return images


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """An image classifier; a family adds its own sizes and ``layers``.

    Args:
        recipe: How the dense network is trained.
        init: Initial weights: torch's own, or normal ones with standard deviation
            ``sqrt(1 / fan_in)`` (LeCun) or ``sqrt(2 / fan_in)`` (He), zero biases.
    """

    recipe: Recipe = field(default_factory=Recipe)
    init: Init = "torch"

    # Regular expression over module names -> role.
    roles: ClassVar[Mapping[str, str]] = {}
    smallest: ClassVar[int] = 1  # side of an image, in pixels
    by_content: ClassVar[bool] = True

    def layers(self, shape: Mapping[str, Any]) -> nn.Module:
        """The network, with torch's own initial weights."""
        raise NotImplementedError

    def revision(self) -> str:
        """Raised by hand when the architecture changes."""
        return "1"

    def refuses_task(self, task: Any) -> str | None:
        """Why the network cannot be built for the images of a task.

        Args:
            task: The configured task; its attribute ``side``, if it has one, is the
                height and width of its images in pixels.

        Returns:
            One sentence, or None if it can, or if only the data can tell.
        """
        side = getattr(task, "side", None)
        return None if side is None else self._too_small(side, side)

    def _too_small(self, height: int, width: int) -> str | None:
        if min(height, width) >= self.smallest:
            return None
        return (
            f"images of {height} x {width} are too small for "
            f"{type(self).__name__}, which needs {self.smallest} x {self.smallest}"
        )

    def build(self, shape: Mapping[str, Any], seed: int) -> Model:
        """A fresh network for images and classes of a task.

        Args:
            shape: ``classes``, and ``input`` as ``[channels, height, width]``.
            seed: Same seed, same initial weights.

        Returns:
            The model, in ``eval`` mode.

        Raises:
            BenchError: If the images are too small for the architecture.
        """
        channels, height, width = shape["input"]
        why = self._too_small(height, width)
        if why is not None:
            raise BenchError(why)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = self.layers(shape)
            initialise(net, self.init)
        net.eval()

        def example() -> dict[str, Any]:
            return {"images": torch.zeros(1, channels, height, width)}

        return Model(
            name=type(self).__name__.lower(),
            net=net,
            kind="classifier",
            roles=self.roles,
            example=example,
        )

    def train(self, model: Model, ctx: Context) -> None:
        """Train ``model.net`` in place on ``ctx.data``, by the recipe."""
        train(model.net, self.recipe, ctx)


def initialise(net: nn.Module, init: Init) -> None:
    """Draw the initial weights of every convolution and linear layer.

    Args:
        net: Changed in place; norms keep weight 1 and bias 0.
        init: ``lecun_normal`` draws with variance 1 / fan-in, ``he_normal`` with
            2 / fan-in, biases 0; ``torch`` leaves the weights as they are.
    """
    if init == "torch":
        return
    gain = {"lecun_normal": 1.0, "he_normal": 2.0}[init]
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            # Inputs of one output: in channels x height x width of the kernel.
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=(gain / fan_in) ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
