"""Outputs of modules on a batch, and the loss's gradients with respect to them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


def outputs(
    net: nn.Module, modules: dict[str, nn.Module], images: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the outputs of some modules, and of the network, on one batch.

    Args:
        net: The network, in ``eval`` mode.
        modules: Modules of ``net``, under any names.
        images: One batch, shape ``(batch, channels, height, width)``.

    Returns:
        The outputs by name, and the logits of shape ``(batch, classes)``.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            found[name] = output

        return hook

    handles = [m.register_forward_hook(keep(name)) for name, m in modules.items()]
    try:
        return found, net(images)
    finally:
        for handle in handles:
            handle.remove()


def activations_and_gradients(
    net: nn.Module,
    modules: dict[str, nn.Module],
    images: Tensor,
    labels: Tensor,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the outputs of some modules and the loss's gradients for them.

    Args:
        net: The network, in ``eval`` mode.
        modules: Modules of ``net``, under any names.
        images: One batch, shape ``(batch, channels, height, width)``.
        labels: Classes of the batch; the loss is the mean cross-entropy.

    Returns:
        For each name, the output and the gradient, of equal shapes.
    """
    found, logits = outputs(net, modules, images)
    loss = functional.cross_entropy(logits, labels)
    # `grad` and not `backward`: the gradients of the weights are not needed.
    gradients = torch.autograd.grad(loss, list(found.values()))
    return {
        name: (output.detach(), gradient)
        for (name, output), gradient in zip(found.items(), gradients, strict=True)
    }
