"""The optimizer of a recipe, and the number type of mixed precision."""

from __future__ import annotations

import torch
from torch import nn

from harness.toolkit.recipe import Recipe


def half_precision(*, own_rule: bool) -> torch.dtype | None:
    """The type that a mixed-precision training computes in on this GPU.

    Args:
        own_rule: Whether the objective applies its gradients by a rule of its own.

    Returns:
        bfloat16 where the GPU computes in it (V100 and T4 only emulate it). Elsewhere
        float16, whose gradients are scaled by an optimizer step that a rule of its own
        would not go through; then None, for float32.
    """
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return None if own_rule else torch.float16


def optimizer_of(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer of a recipe, over the parameters that have gradients."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(
            parameters,
            lr=recipe.lr,
            betas=(recipe.momentum or 0.9, 0.999),
            weight_decay=recipe.weight_decay,
            fused=True,
        )
    return torch.optim.SGD(
        parameters,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
