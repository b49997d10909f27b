"""Taylor pruning (Molchanov et al., arXiv:1611.06440 and arXiv:1906.10771)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.core import Context, Model
from harness.registry import method
from harness.training import Recipe
from methods import _filters

On = Literal["gate", "activation", "weights"]


@method(
    "taylor", ratio_of="parameters", needs={"training_data", "convs"}, exact=0.1,
    kinds={"classifier"}, random=True,
)  # fmt: skip
class Taylor:
    """The filters whose removal changes the loss least, to first order, leave.

    Args:
        on: ``gate``: the squared derivative by a factor behind the norm, the paper's
            best (Taylor-FO-BN of 2019); ``weights``: the squared sum of gradient times
            weight of a filter (2019); ``activation``: the absolute mean over positions
            of activation times gradient, normalised in each layer (2016).
        batches: Batches that the scores are means over.
        batch_size: Images in each.
        finetune: Training afterwards; None for none.
    """

    on: On = "gate"
    batches: int = 10
    batch_size: int = 100
    finetune: Recipe | None = None

    def __post_init__(self) -> None:
        """Refuse scores over nothing.

        Raises:
            ValueError: If ``batches`` or ``batch_size`` is not positive.
        """
        if self.batches < 1 or self.batch_size < 1:
            raise ValueError(
                f"batches is {self.batches} and batch_size {self.batch_size}; both are "
                "at least 1"
            )

    def fit(self, model: Model, ctx: Context) -> dict[str, Tensor]:
        """The scores of all filters; every ratio ranks the same ones."""
        net = ctx.dense().to(ctx.device)
        found = _filters.groups(model, net)
        totals = {g.name: torch.zeros(g.size) for g in found}
        read = _READERS[self.on]
        count = 0
        for images, labels in _filters.batches(
            ctx, "taylor", self.batches, self.batch_size
        ):
            for name, score in read(net, found, images, labels).items():
                totals[name] += score.cpu()
            count += 1
        scores = {name: total / count for name, total in totals.items()}
        if self.on == "activation":
            scores = {n: s / s.norm().clamp_min(1e-30) for n, s in scores.items()}
        return scores

    def compress(
        self, fitted: dict[str, Tensor], ratio: float, ctx: Context
    ) -> nn.Module:
        """A narrower network."""
        net = ctx.dense()
        if ratio == 0:
            return net
        budget = _filters.budget_of(ctx.model, ratio)
        small = _filters.prune_to(ctx.model, net, fitted, budget)
        _filters.retrain(small, self.finetune, ctx, name="taylor")
        _filters.record_widths(ctx.model, small, ctx)
        return small


def activations_and_gradients(
    net: nn.Module,
    modules: dict[str, nn.Module],
    images: Tensor,
    labels: Tensor,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Outputs of modules and the loss's gradients by them.

    Args:
        net: In ``eval`` mode.
        modules: Modules of ``net`` by any names.
        images: One batch.
        labels: Of the batch; the loss is the mean cross-entropy.

    Returns:
        By name, two tensors of the shape of the output.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            outputs[name] = output

        return hook

    handles = [m.register_forward_hook(keep(name)) for name, m in modules.items()]
    try:
        loss = functional.cross_entropy(net(images), labels)
    finally:
        for handle in handles:
            handle.remove()
    gradients = torch.autograd.grad(loss, list(outputs.values()))
    return {
        name: (output.detach(), gradient)
        for (name, output), gradient in zip(outputs.items(), gradients, strict=True)
    }


def _gates(
    net: nn.Module, found: list[_filters.Group], images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    pairs = activations_and_gradients(
        net, {g.name: g.output for g in found}, images, labels
    )
    return {name: (a * g).sum((0, 2, 3)) ** 2 for name, (a, g) in pairs.items()}


def _activations(
    net: nn.Module, found: list[_filters.Group], images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    pairs = activations_and_gradients(
        net, {g.name: g.output for g in found}, images, labels
    )
    return {name: (a * g).mean((2, 3)).abs().mean(0) for name, (a, g) in pairs.items()}


def _weights(
    net: nn.Module, found: list[_filters.Group], images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    loss = functional.cross_entropy(net(images), labels)
    kernels = [g.conv.weight for g in found]
    gradients = torch.autograd.grad(loss, kernels)
    return {
        g.name: (k.detach() * d).sum((1, 2, 3)) ** 2
        for g, k, d in zip(found, kernels, gradients, strict=True)
    }


_READERS = {"gate": _gates, "activation": _activations, "weights": _weights}
