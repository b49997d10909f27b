"""Class-aware pruning: filters that matter for few classes leave (arXiv:2312.05875)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.core import BenchError, Context, Measurement, Model, Unsupported
from harness.registry import method
from harness.toolkit.training import Objective, Recipe, predict, train
from methods._kernels.filters import surgery
from methods._kernels.filters.activations import activations_and_gradients

Reduce = Literal["sum_then_max", "max_then_sum"]
_TIE = 1e-6  # weight of what tells equal scores apart


class _Stop(Exception):
    """A stop rule of the paper; the text says which one."""


@method(
    "class_aware_pruning", ratio_of="parameters", needs={"training_data", "convs"},
    tolerance=0.1, kinds={"classifier"}, stochastic=True, version=2,
)  # fmt: skip
class ClassAwarePruning:
    """Score, remove, retrain, and again, until the asked share of parameters is gone.

    The score of a filter f is the number of classes for which it matters:
    ``max_p sum_c s_c(f, p)``, with ``s_c(f, p)`` the share of the images of class c for
    which the activation a at position p has ``a dL/da != 0``; see ``class_scores``. The
    lowest filters leave in cuts of at most a tenth of all filters, with new scores
    before each cut, until the share ``ratio`` of the parameters is gone; a quarter of
    the filters of every layer stays. By default nothing is trained. The cost of
    ``train`` is ``CE + orthogonality sum_K ||K * K - I||_F + l1 sum |w|`` over the
    kernels K of 3 x 3 convolutions, convolved with each other, and all parameters w.

    The paper is arXiv:2312.05875. The scores are those of
    HWAI-TUDa/Class-Aware-Pruning; its removal loop was not released, so that
    ``class_threshold`` and ``max_fraction`` are ours.

    In the paper the share of parameters is an outcome: filters leave until none matters
    for fewer classes than a threshold, or accuracy falls too far (here also until every
    layer has its ``floor``). With ``until: published`` the network at that moment is
    the result, and the ratio of the trial is only an upper limit; what was achieved
    stands in the column ``achieved``.
    With ``until: ratio`` a stop before the ratio means that no network of that size
    exists, and the trial is ``unsupported``.

    Args:
        train: Training with the modified cost before the first cut; None for none.
        retrain: Training after each cut, with the cost that ``retrain_cost`` names;
            None for none.
        finetune: Training after the last cut, with the plain cost; None for none.
        retrain_cost: ``plain`` cross-entropy, or the ``modified`` cost of ``train``.
        orthogonality: Factor of the distance of each 3 x 3 convolution from
            orthogonality in the modified cost.
        l1: Factor of the L1 norm of all parameters in the modified cost.
        images_per_class: Training images that score the filters, for each class.
        reduce: ``sum_then_max`` adds up classes at each position and takes the best
            position, as released; ``max_then_sum`` the other way round.
        max_fraction: Share of the filters that one cut removes at most.
        floor: Share of each layer's dense filters that stays. Scores of late layers
            are lower than those of early ones, and without a floor one layer can
            become so narrow that nothing passes it.
        until: ``ratio`` or ``published``; see above.
        class_threshold: Remove only filters that matter for fewer classes; None lets
            the ratio alone decide.
        stop_accuracy: Stop when validation accuracy after retraining is below; None
            goes on. The result is then the network before the last cut.
    """

    train: Recipe | None = None
    retrain: Recipe | None = None
    finetune: Recipe | None = None
    retrain_cost: Literal["plain", "modified"] = "plain"
    orthogonality: float = 0.01
    l1: float = 1e-4
    images_per_class: int = 10
    reduce: Reduce = "sum_then_max"
    max_fraction: float = 0.1
    floor: float = 0.25
    until: Literal["ratio", "published"] = "ratio"
    class_threshold: float | None = None
    stop_accuracy: float | None = None

    def __post_init__(self) -> None:
        """Refuse numbers out of range.

        Raises:
            ValueError: If there are no images to score with, or nothing to remove.
        """
        if self.images_per_class < 1 or not 0 < self.max_fraction <= 1:
            raise ValueError(
                f"images_per_class is {self.images_per_class} and max_fraction "
                f"{self.max_fraction}; at least 1, and in (0, 1]"
            )
        if not 0 <= self.floor < 1:
            raise ValueError(f"floor is {self.floor}; it must be in [0, 1)")
        stops = (self.class_threshold, self.stop_accuracy)
        if self.until == "published" and stops == (None, None):
            raise ValueError(
                "until: published needs class_threshold, stop_accuracy or both, which "
                "say when to stop"
            )

    def fit(self, model: Model, ctx: Context) -> nn.Module:
        """The network trained with the modified cost, once for all ratios."""
        net = ctx.dense().to(ctx.device)
        if self.train is not None:
            train(
                net,
                self.train,
                ctx,
                objective=self._modified("class-aware", self.train),
            )
        return net

    def _modified(self, name: str, recipe: Recipe, epoch: int = 0) -> Modified:
        return Modified(
            name=name,
            first_epoch=epoch,
            label_smoothing=recipe.label_smoothing,
            orthogonality=self.orthogonality,
            l1=self.l1,
        )

    def compress(self, fitted: nn.Module, ratio: float, ctx: Context) -> nn.Module:
        """A narrower network.

        Args:
            fitted: The network that ``fit`` trained; left as it is.
            ratio: The share of the parameters to remove, or with ``until: published``
                the largest such share, in [0, 1).
            ctx: Gives data, device and random streams; records ``cuts``.

        Returns:
            The narrower network, in ``eval`` mode.

        Raises:
            Unsupported: If a stop rule comes before the ratio, with ``until: ratio``.
        """
        if ratio == 0:
            return ctx.dense()
        budget = surgery.budget_of(ctx.model, ratio)
        net, cuts = copy.deepcopy(fitted).eval(), 0
        epochs = self.retrain.epochs if self.retrain else 0
        while surgery.parameters(net) > budget:
            # `net` is replaced only after a cut that no stop rule refused: the result
            # is then the last network that was good enough.
            try:
                smaller = self._cut(net, budget, ctx)
                self._retrain(smaller, ctx, cuts)
                self._stop_if_bad(smaller, ctx)
            except _Stop as why:
                if self.until == "ratio":
                    raise Unsupported(str(why)) from None
                break
            net, cuts = smaller, cuts + 1
        # On the curve its epochs follow those of all cuts.
        surgery.retrain(net, self.finetune, ctx, name="last", epoch=cuts * epochs)
        ctx.record(Measurement(metric="cuts", value=float(cuts)))
        surgery.record_widths(ctx.model, net, ctx)
        return net

    def _retrain(self, net: nn.Module, ctx: Context, cuts: int) -> None:
        name, recipe = f"cut-{cuts}", self.retrain
        if recipe is None or self.retrain_cost == "plain":
            epoch = cuts * recipe.epochs if recipe else 0
            surgery.retrain(net, recipe, ctx, name=name, epoch=epoch)
        else:
            goal = self._modified(name, recipe, cuts * recipe.epochs)
            train(net.eval(), recipe, ctx, objective=goal)

    def _cut(self, net: nn.Module, budget: int, ctx: Context) -> nn.Module:
        found = surgery.groups(ctx.model, net)
        scores = class_scores(
            net, found, ctx, images_per_class=self.images_per_class, reduce=self.reduce
        )
        # A share of the dense widths: those of the network shrink with every cut.
        floor = {
            g.name: math.ceil(self.floor * g.size)
            for g in surgery.groups(ctx.model, ctx.model.net)
        }
        # At least one, since a share of few filters rounds to none and the loop would
        # not end.
        most = max(1, int(self.max_fraction * sum(g.size for g in found)))
        ranking = surgery.order(scores, floor)
        if not ranking and self.until == "published":
            raise _Stop(f"every layer has its floor of {self.floor} of its filters")
        if self.class_threshold is not None:
            # `ranking` is without the filters that the floor protects.
            below = [value for value, *_ in ranking if value < self.class_threshold]
            if not below:
                done = 1 - surgery.parameters(net) / surgery.parameters(ctx.model.net)
                raise _Stop(
                    f"after {done:.3f} of the parameters every filter matters for "
                    f"{self.class_threshold} classes; lower the ratio, or raise "
                    "class_threshold"
                )
            most = min(most, len(below))
        if self.until == "published":  # a limit below all floors is met at the floors
            budget = max(budget, _least(ctx.model, net, ranking))
        return surgery.prune_to(
            ctx.model, net, scores, budget, at_most=most, floor=floor
        )

    def _stop_if_bad(self, net: nn.Module, ctx: Context) -> None:
        if self.stop_accuracy is None:
            return
        split = ctx.data.validation
        right = predict(net.to(ctx.device), split).argmax(1) == split.labels.cpu()
        accuracy = right.double().mean().item()
        if accuracy < self.stop_accuracy:
            raise _Stop(
                f"validation accuracy fell to {accuracy:.4f}, below stop_accuracy "
                f"{self.stop_accuracy}; lower the ratio or retrain longer"
            )


def _least(model: Model, net: nn.Module, ranking: list[tuple[float, str, int]]) -> int:
    """Parameters without any filter of the ranking."""
    filters: dict[str, list[int]] = {}
    for _, name, index in ranking:
        filters.setdefault(name, []).append(index)
    return surgery.parameters(surgery.remove(model, net, filters))


def class_scores(
    net: nn.Module,
    found: list[surgery.Group],
    ctx: Context,
    *,
    images_per_class: int,
    reduce: Reduce,
) -> dict[str, Tensor]:
    """For how many classes each filter matters.

    An activation matters for an image where its product with the loss's gradient is
    not zero (the released threshold, 1e-50, is zero in float32). Shares are over the
    images of a class; classes are added up.

    Args:
        net: The network to prune, in ``eval`` mode.
        found: Groups of filters to score.
        ctx: Gives the training images and the random stream.
        images_per_class: How many of each class are drawn.
        reduce: How scores are combined; see ``ClassAwarePruning``.

    Returns:
        By convolution, shape ``(filters,)``, float64, in [0, classes]. Equal scores
        are ordered by the mean over positions, as a share of the largest one of the
        layer, with a weight of 1e-6. (The mean alone would rank layers by their
        pooling: behind a 2 x 2 max-pooling at most a quarter of the positions has a
        gradient.)
    """
    net.to(ctx.device).eval()
    convs: dict[str, nn.Module] = {g.name: g.conv for g in found}
    sums: dict[str, Tensor] = {}
    tops: dict[str, Tensor] = {}
    # One class at a time: a share is over the images of its class.
    for label in range(ctx.data.classes):
        images, labels = _of_class(ctx, label, images_per_class)
        pairs = activations_and_gradients(net, convs, images, labels)
        for name, (activation, gradient) in pairs.items():
            matters = (activation * gradient != 0).double().mean(0)  # (filters, h, w)
            # Shares of the images, for each position; added up over classes.
            sums[name] = sums.get(name, torch.zeros(())) + matters.cpu()
            top = matters.amax((1, 2)).cpu()
            tops[name] = tops.get(name, torch.zeros(())) + top
    scores = {}
    for name, total in sums.items():
        score = total.amax((1, 2)) if reduce == "sum_then_max" else tops[name]
        mean = total.mean((1, 2))
        # A share of few images is a coarse number, so that many scores are equal:
        # without the second term the order of the filters in the layer would decide.
        scores[name] = (1 - _TIE) * score + _TIE * mean / mean.max().clamp_min(1e-30)
    return scores


def _of_class(ctx: Context, label: int, count: int) -> tuple[Tensor, Tensor]:
    data: Any = ctx.data.train.plain()
    members = (data.labels == label).nonzero().view(-1).cpu()
    if not len(members):
        raise BenchError(f"no training image has class {label}; its score is unknown")
    stream = ctx.stream(f"class-aware/{label}")
    chosen = members[torch.randperm(len(members), generator=stream)[:count]]
    images, labels = data.batch(chosen)
    return images.to(ctx.device), labels.to(ctx.device)


@dataclass(kw_only=True)
class Modified(Objective):
    """Cross-entropy + orthogonality of convolutions + L1 norm of parameters.

    Args:
        orthogonality: Factor of the distance of 3 x 3 convolutions from orthogonality.
        l1: Factor of the sum of the absolute values of all parameters.
    """

    orthogonality: float = 0.0
    l1: float = 0.0

    def loss(self, net: nn.Module, batch: Any) -> Tensor:
        """The modified cost of one batch."""
        cost = super().loss(net, batch)
        for module in net.modules():
            # The padding of `not_orthogonal` belongs to kernels of this size.
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                cost = cost + self.orthogonality * not_orthogonal(module.weight)
        return cost + self.l1 * sum(p.abs().sum() for p in net.parameters())


def not_orthogonal(kernel: Tensor) -> Tensor:
    """Distance of a convolution's kernels from an orthogonal set.

    ``|| conv2d(K, K, padding 1) - I ||_F``, with I the identity at the centre
    (``deconv_orth_dist`` of Wang et al., arXiv:1911.12207, stride and padding 1).

    Args:
        kernel: Shape ``(out, in, 3, 3)``.

    Returns:
        The Frobenius norm, a scalar; 0 for an orthonormal set.
    """
    # [o, p, y, x]: the inner product of kernel o with kernel p, shifted by
    # (y - 1, x - 1). An orthogonal convolution has 1 where o = p without a shift, and 0
    # elsewhere. Half precision would keep three digits of the difference.
    with torch.autocast(kernel.device.type, enabled=False):
        products = functional.conv2d(kernel, kernel, padding=1)  # (out, out, 3, 3)
    target = torch.zeros_like(products)
    target[:, :, 1, 1] = torch.eye(len(kernel), device=kernel.device)
    return torch.linalg.vector_norm(products - target)
