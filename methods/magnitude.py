"""Magnitude pruning: the smallest weights become zero (arXiv:1506.02626)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from harness.core import Context, Model, Unsupported
from harness.registry import method
from harness.toolkit.training import Objective, Recipe, train
from methods._kernels.masks import (
    Masked,
    Scope,
    apply,
    keep_largest,
    prunable,
    record_zeros,
    refuse_empty,
)


@method("magnitude", ratio_of="zeros", tolerance=0.001)
class Magnitude:
    """The share ``ratio`` of the weights of every linear and convolution is zeroed.

    Biases, norms and embeddings stay dense.

    Args:
        scope: Rank all layers together, or each on its own.
        when: ``once``, on the dense network; or ``every_step`` of a training that
            starts from the dense weights, the smallest weights of that moment (the
            baseline of DropBack's repository, compstruct/DropBack pruning.py).
        finetune: Training afterwards with the masks held (``once``), or the training
            in which the masks move (``every_step``); None for no training.
    """

    scope: Scope = "global"
    when: Literal["once", "every_step"] = "once"
    finetune: Recipe | None = None

    def __post_init__(self) -> None:
        """Refuse a moving mask without the training in which it moves.

        Raises:
            ValueError: If ``when`` is ``every_step`` and ``finetune`` is not given.
        """
        if self.when == "every_step" and self.finetune is None:
            raise ValueError("when: every_step needs finetune, the recipe of training")

    def facts(self) -> Mapping[str, Any]:
        """Training data is needed only where there is training."""
        from harness.registry import find

        needs = frozenset({"training_data"} if self.finetune else ())
        return {**find("method", "magnitude").facts, "needs": needs}

    def compress(self, fitted: None, ratio: float, ctx: Context) -> nn.Module:
        """A network of the same shape with exact zeros in place of small weights."""
        net = ctx.dense()
        if ratio == 0:
            return net
        masks = masks_of(ctx.model, net, ratio, self.scope)
        if not masks:
            raise Unsupported(f"{ctx.model.name} has no linear or convolution to prune")
        refuse_empty(masks, ratio)
        apply(net, masks)
        if self.finetune is None:
            record_zeros(net, masks, ctx)
            return net
        goal: Objective = Masked(name="magnitude", masks=masks)
        if self.when == "every_step":
            goal = _Moving(
                name="magnitude", model=ctx.model, ratio=ratio, scope=self.scope
            )
        goal.label_smoothing = self.finetune.label_smoothing
        train(net, self.finetune, ctx, objective=goal)
        record_zeros(net, masks, ctx)
        return net


@dataclass(kw_only=True)
class _Moving(Objective):
    model: Model
    ratio: float
    scope: Scope

    def after_step(self, net: nn.Module) -> None:
        """Choose the smallest weights anew and zero them."""
        apply(net, masks_of(self.model, net, self.ratio, self.scope))


def masks_of(
    model: Model, net: nn.Module, ratio: float, scope: Scope
) -> dict[str, Tensor]:
    """Masks over the smallest weights of ``net``.

    Args:
        model: Gives the role table.
        net: Of the architecture of ``model``.
        ratio: Share of all weights to drop, in [0, 1).
        scope: Over all layers together, or in each.

    Returns:
        Layer name -> mask, true where kept.
    """
    scores = {name: _weight(layer).abs() for name, layer in prunable(model, net)}
    return keep_largest(scores, ratio, scope) if scores else {}


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach()
