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
    """Sets the weights of smallest absolute value to zero.

    The score of a weight w is ``|w|``. The share ``ratio`` of all weights of linear
    layers and convolutions with the smallest scores becomes zero, rounded up to whole
    weights. Biases, norms and embeddings stay as they are, and the network keeps its
    shape: the ratio is a share of zeros, not of parameters.

    By default the weights of all layers are ranked together, and nothing is trained.
    The paper (arXiv:1506.02626) prunes and trains in turn, with a threshold for each
    layer; ``finetune`` gives one round of training. ``when: every_step`` is the
    baseline of DropBack's repository (compstruct/DropBack, pruning.py).

    Args:
        scope: Rank the weights of all layers together (``global``), or those of each
            layer alone (``layer``).
        when: Prune ``once``, the dense network; or at ``every_step`` of a training that
            starts from the dense weights, each time the smallest weights of that step.
        finetune: The training after pruning, which keeps the zeros (``once``), or the
            training during which the zeros move (``every_step``); None for no training.
    """

    scope: Scope = "global"
    when: Literal["once", "every_step"] = "once"
    finetune: Recipe | None = None

    def __post_init__(self) -> None:
        """Check that masks that move have a training in which to move.

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
        """A network of the same shape with zeros in place of the smallest weights."""
        net = ctx.dense()
        if ratio == 0:
            return net
        # Also for `every_step`, where these masks are the start, and their names say in
        # which layers zeros are counted.
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
        # Both objectives train on the same loss and differ in what becomes zero after a
        # step.
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
        """Set the weights that are the smallest after this step to zero."""
        apply(net, masks_of(self.model, net, self.ratio, self.scope))


def masks_of(
    model: Model, net: nn.Module, ratio: float, scope: Scope
) -> dict[str, Tensor]:
    """Masks that drop the smallest weights of ``net``.

    Args:
        model: Its role table says which layers are pruned.
        net: A network of the architecture of ``model``.
        ratio: The share of all weights to drop, in [0, 1).
        scope: Rank the weights of all layers together, or those of each layer alone.

    Returns:
        Layer name -> mask, true where kept.
    """
    scores = {name: _weight(layer).abs() for name, layer in prunable(model, net)}
    return keep_largest(scores, ratio, scope) if scores else {}


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach()
