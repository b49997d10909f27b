"""Taylor pruning (Molchanov et al., arXiv:1611.06440 and arXiv:1906.10771)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.registry import method
from methods._kernels.filters import surgery
from methods._kernels.filters.activations import activations_and_gradients
from methods._kernels.filters.scored import Scored

On = Literal["gate", "activation", "weights"]


@method(
    "taylor", ratio_of="parameters", needs={"training_data", "convs"}, tolerance=0.1,
    kinds={"classifier"}, stochastic=True, version=2,
)  # fmt: skip
class Taylor(Scored):
    """The filters whose removal changes the loss least, to first order, leave.

    With a the map of a filter behind its norm and ``g = dL/da``, the score is
    ``(sum a g)^2`` over images and positions (``gate``), ``mean_b |mean_p a g|`` over
    images b and positions p (``activation``), or ``(sum w dL/dw)^2`` over the weights w
    of the filter (``weights``); each is a mean over batches of training images.

    Both papers prune a few units, train a few minibatches, score again, and so on: at
    the minimum of a loss the first-order scores of one moment are mostly noise. The
    parameters leave in ``steps`` cuts, with new scores before each; ``between`` is the
    training between two cuts, which the papers have and which is off by default. The
    2016 paper divides the scores of each layer by their norm (``normalise: layer``).

    Args:
        on: ``gate``: the squared derivative by a factor behind the norm, the paper's
            best (Taylor-FO-BN of 2019); ``weights``: the squared sum of gradient times
            weight of a filter (2019); ``activation``: the absolute mean over positions
            of activation times gradient (2016).
    """

    on: On = "gate"
    steps: int = 10

    stream: ClassVar[str] = "taylor"

    def score(
        self,
        net: nn.Module,
        found: list[surgery.Group],
        images: Tensor,
        labels: Tensor,
    ) -> dict[str, Tensor]:
        """The scores of one batch, by convolution, each of shape ``(filters,)``."""
        return _READERS[self.on](net, found, images, labels)


def _gates(
    net: nn.Module, found: list[surgery.Group], images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    pairs = activations_and_gradients(
        net, {g.name: g.output for g in found}, images, labels
    )
    # A factor z = 1 behind the norm multiplies the map a of its filter: the derivative
    # of the loss by z is the sum of a g over images and positions.
    return {name: (a * g).sum((0, 2, 3)) ** 2 for name, (a, g) in pairs.items()}


def _activations(
    net: nn.Module, found: list[surgery.Group], images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    pairs = activations_and_gradients(
        net, {g.name: g.output for g in found}, images, labels
    )
    # The mean over positions first, then the absolute value for each image:
    # (batch, filters).
    return {name: (a * g).mean((2, 3)).abs().mean(0) for name, (a, g) in pairs.items()}


def _weights(
    net: nn.Module, found: list[surgery.Group], images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    loss = functional.cross_entropy(net(images), labels)
    kernels = [g.conv.weight for g in found]
    gradients = torch.autograd.grad(loss, kernels)
    return {
        # To first order the loss changes by the sum of w dL/dw if all weights of a
        # filter become zero.
        g.name: (k.detach() * d).sum((1, 2, 3)) ** 2
        for g, k, d in zip(found, kernels, gradients, strict=True)
    }


_READERS = {"gate": _gates, "activation": _activations, "weights": _weights}
