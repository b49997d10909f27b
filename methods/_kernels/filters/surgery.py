"""Removing filters for real: coupled layers, ranking, surgery to a parameter budget."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.core import Context, Measurement, Model, NotFinite, Unsupported
from harness.toolkit.training import Objective, Recipe, train


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Filters that one cut removes together.

    Args:
        name: Of the convolution whose filters they are.
        conv: The convolution whose filters are removed.
        norm: The batch normalisation behind it, None if there is none.
        size: Number of filters of the convolution.
    """

    name: str
    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None
    size: int

    @property
    def output(self) -> nn.Module:
        """The last module before the activation: the norm, else the convolution."""
        return self.conv if self.norm is None else self.norm


def groups(model: Model, net: nn.Module) -> list[Group]:
    """The prunable filters of ``net``: those of every module with the role ``conv``.

    Args:
        model: Its roles name the convolutions that nothing couples to others.
        net: Of the architecture of ``model``, of any widths.

    Returns:
        In the order of the network.

    Raises:
        Unsupported: If there is none.
    """
    graph = _graph(model, net)
    found = []
    for name, conv in model.with_net(net).modules("conv"):
        assert isinstance(conv, nn.Conv2d)
        # What has to shrink with the filters. Of the norms among it, the one of the
        # same width is the norm of this convolution: behind a concatenation a norm is
        # wider.
        norms = (
            dep.target.module
            for dep, _ in _cut(graph, conv, range(conv.out_channels))
            if isinstance(dep.target.module, nn.BatchNorm2d)
            and dep.target.module.num_features == conv.out_channels
        )
        found.append(
            Group(name=name, conv=conv, norm=next(norms, None), size=conv.out_channels)
        )
    if not found:
        raise Unsupported(f"{model.name} has no convolution that filters can leave")
    return found


def _graph(model: Model, net: nn.Module) -> object:
    import torch_pruning

    for parameter in net.parameters():  # the graph is read from autograd's
        parameter.requires_grad_(True)
    device = next(net.parameters()).device
    example = {k: v.to(device) for k, v in model.example().items()}
    was_training = net.training
    # The graph of layers that share a width, from one run of the example: a filter that
    # leaves takes its channel of the norm and of every layer that reads it along.
    graph = torch_pruning.DependencyGraph().build_dependency(
        net.eval(), example_inputs=example
    )
    net.train(was_training)
    return graph


def _cut(graph: object, conv: nn.Conv2d, filters: range | list[int]) -> list:  # type: ignore[type-arg] # torch_pruning's own group
    import torch_pruning

    cut: list = graph.get_pruning_group(  # type: ignore[attr-defined,type-arg] # as above
        conv, torch_pruning.prune_conv_out_channels, idxs=list(filters)
    )
    return cut


def remove(model: Model, net: nn.Module, filters: Mapping[str, list[int]]) -> nn.Module:
    """A smaller copy of ``net``.

    Args:
        model: Its example is run once to find the layers that are coupled.
        net: A network of the architecture of ``model``; it is copied, and left as it
            is.
        filters: Name of a convolution -> the filters to take out.

    Returns:
        The copy, with every layer behind those filters narrowed too.
    """
    small = copy.deepcopy(net)
    graph = _graph(model, small)
    for name, chosen in filters.items():
        conv = small.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        if chosen:
            _cut(graph, conv, sorted(chosen)).prune()  # type: ignore[attr-defined] # its own list type
    for parameter in small.parameters():
        parameter.grad = None
    return small


def parameters(net: nn.Module) -> int:
    """Number of parameters of a network, biases and norm weights included."""
    return sum(p.numel() for p in net.parameters())


def uniform(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scores that rank filters so that every layer loses the same share.

    >>> uniform({"a": torch.tensor([5.0, 1.0]), "b": torch.tensor([0.1, 0.2])})
    {'a': tensor([1.0000, 0.5000]), 'b': tensor([0.5000, 1.0000])}
    """
    return {
        # The rank of each filter in its layer as a share: the k lowest of n have 1/n to
        # k/n, so that one threshold for all layers cuts the same share of each.
        name: (score.argsort().argsort() + 1) / len(score)
        for name, score in scores.items()
    }


def order(
    scores: Mapping[str, Tensor], floor: Mapping[str, int] | None = None
) -> list[tuple[float, str, int]]:
    """Filters in the order of removal; the best of each layer are not among them.

    Args:
        scores: Of the filters of each group; the lowest leave first.
        floor: How many filters of a layer stay at least; 1 where it is silent.

    Returns:
        Score, layer and filter. Ties leave in the order of layers.

    Raises:
        NotFinite: If a score is not finite.
    """
    ranking = []
    for place, (name, score) in enumerate(scores.items()):
        if not score.isfinite().all():
            raise NotFinite(f"the score of a filter of {name} is not finite")
        stay = max(1, (floor or {}).get(name, 1))
        # A layer without filters would cut the network in two.
        best = set(score.topk(min(stay, len(score))).indices.tolist())
        ranking += [
            # `place` and `index` order equal scores in the same way on every machine.
            (value, place, index, name)
            for index, value in enumerate(score.tolist())
            if index not in best
        ]
    return [(value, name, index) for value, _, index, name in sorted(ranking)]


def prune_to(
    model: Model,
    net: nn.Module,
    scores: Mapping[str, Tensor],
    budget: int,
    *,
    at_most: int | None = None,
    floor: Mapping[str, int] | None = None,
) -> nn.Module:
    """Remove the lowest filters until ``net`` has at most ``budget`` parameters.

    Args:
        model: Its roles name the convolutions, and its example is run for each try.
        net: A network of the architecture of ``model``; left as it is.
        scores: Of the filters of each group; ranked over all layers together.
        budget: Parameters of the whole network.
        at_most: Stop after so many filters even above the budget; None for no limit.
        floor: Number of filters of each convolution that stay at least; 1 where it is
            silent.

    Returns:
        The largest network of this ranking within the budget.

    Raises:
        Unsupported: If the budget cannot be met without emptying a layer.
    """
    ranking = order(scores, floor)

    def first(count: int) -> nn.Module:
        filters: dict[str, list[int]] = {}
        for _, name, index in ranking[:count]:
            filters.setdefault(name, []).append(index)
        return remove(model, net, filters)

    most = len(ranking) if at_most is None else min(at_most, len(ranking))
    harshest = first(most)
    if parameters(harshest) > budget:
        # The limit of one cut comes before the budget, which later cuts can still meet.
        if at_most is not None and most < len(ranking):
            return harshest
        raise Unsupported(
            f"{parameters(net) - parameters(harshest)} of {parameters(net)} parameters "
            f"can go before a layer is too narrow; the budget is {budget}. Lower the "
            "ratio"
        )
    # How many parameters a filter takes along depends on the widths of its neighbours,
    # so that costs do not add up: bisection over the number of filters, with about
    # log2(filters) cuts of a copy.
    low, high = 0, most  # high meets the budget; the fewest filters that do
    while low < high:
        middle = (low + high) // 2
        if parameters(first(middle)) <= budget:
            high = middle
        else:
            low = middle + 1
    return first(high)


def budget_of(model: Model, ratio: float) -> int:
    """Parameters that ``ratio`` leaves of the dense network, rounded down."""
    # 0.9 of 10 must be 9: the product may be a little above it.
    return parameters(model.net) - math.ceil(ratio * parameters(model.net) - 1e-6)


def retrain(
    net: nn.Module, recipe: Recipe | None, ctx: Context, *, name: str, epoch: int = 0
) -> None:
    """Train a pruned network on; without a recipe, only put it in ``eval`` mode.

    Args:
        net: Network to train, changed in place.
        recipe: Training recipe; None to skip the training.
        ctx: Context of the trial, with its data and device.
        name: Of the checkpoint and the random streams.
        epoch: Number of the first epoch on the curve.
    """
    net.eval()
    if recipe is not None:
        smoothing = recipe.label_smoothing
        goal = Objective(name=name, first_epoch=epoch, label_smoothing=smoothing)
        train(net, recipe, ctx, objective=goal)


def narrow(
    net: nn.Module,
    scores: Mapping[str, Tensor],
    ratio: float,
    ctx: Context,
    *,
    recipe: Recipe | None,
    name: str,
) -> nn.Module:
    """Cut the lowest filters at once, train on, and record what is left.

    Args:
        net: The dense network, or one that was trained to be cut; left as it is.
        scores: Score of each filter, as in ``prune_to``.
        ratio: Share of the parameters to remove, above 0.
        ctx: Context of the trial, with its data and device.
        recipe: Training recipe after pruning, as in ``retrain``.
        name: Name of the checkpoint and the random streams.

    Returns:
        The narrower network, in ``eval`` mode.
    """
    small = prune_to(ctx.model, net, scores, budget_of(ctx.model, ratio))
    retrain(small, recipe, ctx, name=name)
    record_widths(ctx.model, small, ctx)
    return small


def record_widths(model: Model, net: nn.Module, ctx: Context) -> None:
    """Record how many filters each convolution kept."""
    for group in groups(model, net):
        ctx.record(Measurement(metric=f"filters/{group.name}", value=float(group.size)))


def batches(
    ctx: Context, name: str, count: int, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of training images without augmentation, drawn without repetition.

    Args:
        ctx: Gives data, device and random stream.
        name: Name of the random stream that shuffles.
        count: Largest number of batches.
        size: Number of images per batch.

    Yields:
        Images and labels on the device.
    """
    data = ctx.data.train.plain()
    chosen = torch.randperm(len(data), generator=ctx.stream(name))
    for part in list(chosen.split(size))[:count]:
        images, labels = data.batch(part)
        yield images.to(ctx.device), labels.to(ctx.device)
