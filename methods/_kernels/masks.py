"""Masks over the weights of layers, for the methods that set weights to zero."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from harness.core import Context, Measurement, Model, Unsupported
from harness.toolkit.model_size import ratio_base
from harness.toolkit.training import Objective

Scope = Literal["global", "layer"]


def prunable(model: Model, net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers of ``net`` whose weights a mask may set to zero.

    Args:
        model: Its role table says which layers these are; embeddings are left out.
        net: A network of the architecture of ``model``.

    Yields:
        Name and module, in order; each weight tensor once. Of a layer that a low-rank
        method replaced, its factors.
    """
    seen: set[int] = set()
    parts = (
        (f"{path}.{name}" if name else path, module)
        for path, layer in model.with_net(net).modules()
        for name, module in layer.named_modules()
    )
    for name, module in parts:
        # Norms have a weight of one dimension. A tied weight counts once, under its
        # first name: ranked twice, its scores would take two places of the ranking.
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim < 2:
            continue
        if isinstance(module, nn.Embedding) or id(weight) in seen:
            continue
        seen.add(id(weight))
        yield name, module


def keep_largest(
    scores: Mapping[str, Tensor], ratio: float, scope: Scope
) -> dict[str, Tensor]:
    """Masks that drop the share ``ratio`` of all entries, those of lowest score.

    Args:
        scores: Name -> scores, one for each weight, tensors of any shape.
        ratio: The share to drop, in [0, 1); rounded up to whole weights.
        scope: Rank the scores of all tensors together, or those of each tensor alone.

    Returns:
        Boolean masks of the same names and shapes, true where kept.

    >>> scores = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 9.0])}
    >>> {name: m.tolist() for name, m in keep_largest(scores, 0.5, "global").items()}
    {'a': [True, False], 'b': [False, True]}
    """
    if scope == "layer":
        return {
            name: _keep(s.flatten(), ratio).view_as(s) for name, s in scores.items()
        }
    # One ranking for all layers, cut into the layers' parts afterwards.
    flat = torch.cat([s.flatten() for s in scores.values()])
    kept = torch.split(_keep(flat, ratio), [s.numel() for s in scores.values()])
    return {
        name: mask.view_as(s)
        for (name, s), mask in zip(scores.items(), kept, strict=True)
    }


def _keep(scores: Tensor, ratio: float) -> Tensor:
    drop = -int(-ratio * scores.numel() // 1)  # rounded up
    mask = torch.ones_like(scores, dtype=torch.bool)
    if drop:
        # Positions and no threshold: where scores are equal, a threshold would drop too
        # many or too few.
        mask[scores.topk(drop, largest=False, sorted=False).indices] = False
    return mask


def refuse_empty(masks: Mapping[str, Tensor], ratio: float) -> None:
    """Raises Unsupported if a layer would keep no weight, so that nothing passes it.

    Args:
        masks: Layer name -> mask, true where kept.
        ratio: The ratio that the message names.

    Raises:
        Unsupported: If a mask keeps nothing; names the layer.
    """
    for name, mask in masks.items():
        if not mask.any():
            raise Unsupported(
                f"ratio {ratio} zeroes every weight of layer {name}; "
                "lower it, or prune with scope: layer"
            )


@torch.no_grad()
def apply(net: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the weights that ``masks`` drop to zero, in place."""
    for name, mask in masks.items():
        weight = net.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        # Not a product: zero times infinity is NaN, and zero times -1 is -0.0.
        weight.masked_fill_(~mask.to(weight.device), 0)


def record_zeros(net: nn.Module, names: Iterable[str], ctx: Context) -> None:
    """Record the share of zeros among the weights of some layers.

    Zeros are counted in the network itself, and in these weights alone, since training
    changes how many biases are zero.

    Args:
        net: The network after pruning.
        names: The names of the layers that have a mask.
        ctx: Records ``achieved_ratio``.
    """
    weights = [net.get_submodule(name).weight for name in names]
    # Counted in the result and not in the masks: some weights are zero before they are
    # pruned.
    zeros = sum(int((w == 0).sum()) for w in weights if isinstance(w, Tensor))
    total = sum(w.numel() for w in weights if isinstance(w, Tensor))
    if ctx.model.kind == "causal_lm":  # of all block weights, also those left dense
        total = ratio_base(ctx.model) or total
    ctx.record(Measurement(metric="achieved_ratio", value=zeros / total))


@dataclass(kw_only=True)
class Masked(Objective):
    """Training that keeps masked weights at zero.

    Args:
        masks: Layer name -> mask, true where kept.
    """

    masks: dict[str, Tensor] = field(default_factory=dict)

    def after_step(self, net: nn.Module) -> None:
        """Set the masked weights to zero again."""
        apply(net, self.masks)
