"""Network slimming: sparse norm weights say which channels leave (arXiv:1708.06519)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.core import Context, Model, Unsupported
from harness.registry import method
from harness.toolkit.training import Objective, Recipe, train
from methods._kernels.filters import surgery


@dataclass(frozen=True, slots=True, kw_only=True)
class Slim:
    """A network trained with sparse norm weights.

    Args:
        net: Network trained with a penalty on its norm weights.
        scores: Absolute norm weight of each channel, by convolution.
    """

    net: nn.Module
    scores: dict[str, Tensor]


@method(
    "network_slimming", ratio_of="parameters", needs={"training_data", "convs"},
    tolerance=0.1, kinds={"classifier"}, stochastic=True,
)  # fmt: skip
class NetworkSlimming:
    """Train with an L1 penalty on norm weights, then cut at one global threshold.

    The training minimises ``CE + sparsity sum |gamma|`` over the weights gamma of all
    batch normalisations, by its subgradient ``sparsity sign(gamma)``. A channel whose
    ``|gamma|`` is small adds little to the next layer; the smallest of all layers leave
    until the share ``ratio`` of the parameters is gone. By default the norm weights of
    the dense network are taken as they are, and nothing is trained.

    The paper is arXiv:1708.06519. At least one channel of every layer stays, where the
    released code fails.

    Args:
        sparsity: Factor of the penalty (1e-4 for VGG-19, 1e-5 for ResNet-164).
        train: The sparse training, from the dense network; None takes the dense
            network's norm weights as they are.
        finetune: Training afterwards; None for none.
    """

    sparsity: float = 1e-4
    train: Recipe | None = None
    finetune: Recipe | None = None

    def __post_init__(self) -> None:
        """Refuse a penalty that rewards.

        Raises:
            ValueError: If ``sparsity`` is negative.
        """
        if self.sparsity < 0:
            raise ValueError(f"sparsity is {self.sparsity}; it must be at least 0")

    def fit(self, model: Model, ctx: Context) -> Slim:
        """The sparse training, once for all ratios."""
        net = ctx.dense().to(ctx.device)
        found = surgery.groups(model, net)
        bare = [g.name for g in found if g.norm is None]
        if bare:
            raise Unsupported(
                f"{', '.join(bare)} has no batch normalisation to read weights from"
            )
        if self.train is not None:
            goal = Sparse(
                name="slimming",
                label_smoothing=self.train.label_smoothing,
                sparsity=self.sparsity,
            )
            train(net, self.train, ctx, objective=goal)
        scores = {
            g.name: g.norm.weight.detach().abs().cpu()
            for g in found
            if g.norm is not None
        }
        return Slim(net=net, scores=scores)

    def compress(self, fitted: Slim, ratio: float, ctx: Context) -> nn.Module:
        """A narrower network."""
        if ratio == 0:
            return ctx.dense()
        return surgery.narrow(
            fitted.net, fitted.scores, ratio, ctx,
            recipe=self.finetune, name="slimming-finetune",
        )  # fmt: skip


@dataclass(kw_only=True)
class Sparse(Objective):
    """Adds the subgradient of ``sparsity * sum |norm weight|``.

    Args:
        sparsity: Factor of the penalty.
    """

    sparsity: float = 0.0

    def after_backward(self, net: nn.Module) -> None:
        """Add ``sparsity * sign(weight)`` to the gradient of every norm weight."""
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and module.weight.grad is not None:
                # In the gradient alone: the recorded loss stays the cross-entropy.
                sign = torch.sign(module.weight.detach())
                module.weight.grad.add_(sign, alpha=self.sparsity)
