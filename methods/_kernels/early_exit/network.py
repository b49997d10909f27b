"""A network with exits, which stops computing for the samples that have left."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.core import Measurement, Model, Unsupported
from harness.toolkit import model_size
from harness.toolkit.saved_model import layer

_MOST_CLASSES = 100  # of a report; every class is a curve of the trial

Rule = Literal["exclusion", "softmax_exclusion", "confidence", "entropy"]


class Segment(nn.Sequential):
    """A part of a stack of layers."""

    def forward(self, images: Tensor) -> Tensor:
        """The features behind the part."""
        for child in self:
            images = child(images)
        return images


class Head(nn.Module):
    """Logits from the features at an exit.

    Args:
        features: Channels (or units) at the exit.
        classes: Number of classes, which is the number of logits.
        pool: Side of the average pooling in front of the linear layer, 0 for none
            (features that are vectors).
        conv: Whether a 3 x 3 convolution and a ReLU come first, on a map pooled to
            4 x 4 at most: on a whole early map they would cost more than they save.
    """

    def __init__(self, features: int, classes: int, pool: int, conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features, features, 3, padding=1) if conv else None
        self.pool = nn.AdaptiveAvgPool2d(pool) if pool else nn.Identity()
        self.linear = nn.Linear(features * max(pool, 1) ** 2, classes)

    def forward(self, images: Tensor) -> Tensor:
        """``(batch, classes)``."""
        if self.conv is not None:
            images = functional.adaptive_avg_pool2d(images, _side(images))
            images = self.conv(images).relu()
        logits: Tensor = self.linear(self.pool(images).flatten(1))
        return logits


def _side(images: Tensor) -> tuple[int, int]:
    return min(4, images.shape[2]), min(4, images.shape[3])


@layer("exits")
class ExitNet(nn.Module):
    """A stack of layers with a head behind some of them, and the rule to leave.

    Args:
        stack: The network, an ``nn.Sequential``; cut behind the children ``exits``.
        exits: Names of children of ``stack``.
        heads: For each exit, the arguments of its ``Head``.
        rule: ``exclusion`` of classes, by logistic or softmax probabilities;
            ``confidence`` of the best class; or ``entropy`` of the prediction.
        thresholds: For each exit, between 0 (no sample leaves) and 1; see ``leave``.
        average: Mean multiply-adds of a sample of the validation split with these
            thresholds; None before they are chosen.
    """

    def __init__(
        self,
        stack: nn.Sequential,
        *,
        exits: Sequence[str],
        heads: Sequence[Mapping[str, Any]],
        rule: Rule,
        thresholds: Sequence[float],
        average: float | None = None,
    ) -> None:
        super().__init__()
        self.stack = stack
        self.heads = nn.ModuleList(Head(**arguments) for arguments in heads)
        self.exits, self.rule = tuple(exits), rule
        self.thresholds = list(thresholds)
        self._heads = [dict(arguments) for arguments in heads]
        # Samples that left at each exit, and last those that left at none.
        self.taken = [0] * (len(self.exits) + 1)
        # The same by the class that was answered, (exits + 1, classes), counted from
        # ``begin_report`` on only: it costs time that no measured latency should have.
        self.answers: list[list[int]] | None = None
        self.costs: Costs | None = None
        self.average = average

    @classmethod
    def wrap(cls, stack: nn.Module, **spec: Any) -> ExitNet:
        """The layer around the stack that ``spec`` was made from."""
        assert isinstance(stack, nn.Sequential)
        return cls(stack, **spec)

    def spec(self) -> dict[str, Any]:
        """What ``wrap`` needs beside the stack."""
        return {
            "exits": list(self.exits),
            "heads": self._heads,
            "rule": self.rule,
            "thresholds": self.thresholds,
            "average": self.average,
        }

    def average_macs(self) -> float | None:
        """Mean multiply-adds of a validation sample; None before any was seen."""
        return self.average

    def segments(self) -> list[Segment]:
        """The stack, cut behind each exit; shares its layers."""
        parts: list[OrderedDict[str, nn.Module]] = [OrderedDict()]
        for name, child in self.stack.named_children():
            parts[-1][name] = child
            if name in self.exits:
                parts.append(OrderedDict())
        return [Segment(part) for part in parts]

    def all_logits(self, images: Tensor) -> list[Tensor]:
        """Logits of every exit and, last, of the network, for every sample."""
        found = []
        # In training no sample leaves: every exit learns from all samples.
        *parts, last = self.segments()
        for part, head in zip(parts, self.heads, strict=True):
            images = part(images)
            found.append(head(images))
        return [*found, last(images)]

    def forward(self, images: Tensor) -> Tensor:
        """Logits; a sample that leaves at an exit is not computed any further.

        Args:
            images: ``(batch, channels, height, width)``.

        Returns:
            ``(batch, classes)``; an excluded class has minus infinity.
        """
        result: Tensor | None = None
        # `here`: positions in the batch of the samples still inside. `images` and
        # `state` shrink with it, which is what saves the work.
        here = torch.arange(len(images), device=images.device)  # still inside
        state: Tensor | None = None
        *parts, last = self.segments()
        for place, (part, head) in enumerate(zip(parts, self.heads, strict=True)):
            images = part(images)
            logits = head(images)
            # The rules of confidence and entropy never exclude a class.
            state = _all_classes(logits) if state is None else state
            gone, state = leave(self.rule, logits, self.thresholds[place], state)
            if result is None:
                result = logits.new_zeros(logits.shape)
            # A GPU is waited for wherever a mask is turned into positions: once for the
            # samples that leave, once for the others.
            out, stay = gone.nonzero().view(-1), (~gone).nonzero().view(-1)
            # The classes that earlier exits excluded must not win here.
            answered = _masked(logits[out], state[out])
            result[here[out]] = answered
            self._count(place, answered)
            here, images, state = here[stay], images[stay], state[stay]
            # A layer may fail on an empty batch.
            if not len(here):
                return result
        logits = last(images)
        if state is not None:
            logits = _masked(logits, state)
        self._count(len(self.exits), logits)
        if result is None:
            return logits
        result[here] = logits
        return result

    def _count(self, place: int, answered: Tensor) -> None:
        """Count samples that leave at an exit, given their logits."""
        self.taken[place] += len(answered)
        if self.answers is not None:
            classes = answered.shape[1]
            self.answers = self.answers or [[0] * classes for _ in self.taken]
            for label in answered.argmax(1).tolist():
                self.answers[place][label] += 1

    def begin_report(self) -> None:
        """Forget the exits that were taken before, and count by class from now on."""
        self.taken = [0] * len(self.taken)
        self.answers = []

    def report(self) -> Iterator[Measurement]:
        """Where the samples since ``begin_report`` left, and what that saved.

        ``exit_share_N`` is the share of all samples that left at exit N, and
        ``exit_of_class_C`` at step N the share of those answered with class C that did;
        the last step is the end of the network (for up to ``_MOST_CLASSES`` classes).
        """
        answers, self.answers = self.answers, None
        n = max(sum(self.taken), 1)
        for place, count in enumerate(self.taken[:-1], 1):
            yield Measurement(metric=f"exit_share_{place}", value=count / n, n=n)
        if answers and len(answers[0]) <= _MOST_CLASSES:
            for label, counts in enumerate(zip(*answers, strict=True)):
                for place, count in enumerate(counts, 1):
                    yield Measurement(
                        metric=f"exit_of_class_{label}",
                        value=count / max(sum(counts), 1),
                        n=sum(counts),
                        step=place,
                    )
        if self.costs is not None:
            average = self.costs.average(torch.tensor(self.taken))
            saved = 1 - average / self.costs.plain
            yield Measurement(
                metric="macs_average", value=average, unit="MAC", goal="min", n=n
            )
            yield Measurement(metric="macs_saved", value=saved, goal="max", n=n)


def _all_classes(logits: Tensor) -> Tensor:
    return torch.ones_like(logits, dtype=torch.bool)


def _masked(logits: Tensor, state: Tensor) -> Tensor:
    return logits.masked_fill(~state, float("-inf"))


def leave(
    rule: Rule, logits: Tensor, threshold: float, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Decide which samples leave at an exit.

    ``exclusion``: a class stays while its probability is above ``threshold`` times the
    highest one; the likeliest class is put back; a sample with one class left leaves.
    ``softmax_exclusion``: the same with softmax instead of logistic probabilities.
    ``confidence``: leaves if the highest softmax is above ``1 - threshold * (1 - 1 /
    classes)``. ``entropy``: leaves below ``threshold * log(classes)``.

    Args:
        rule: One of the four rules above.
        logits: Of the exit, ``(batch, classes)``.
        threshold: In [0, 1]; at 0 no sample leaves, at 1 every sample.
        state: Classes not excluded so far, bool, of the shape of ``logits``.

    Returns:
        Which samples leave, bool of shape ``(batch,)``, and the classes left.
    """
    classes = logits.shape[1]
    if rule in ("exclusion", "softmax_exclusion"):
        probability = logits.sigmoid() if rule == "exclusion" else logits.softmax(1)
        # Over all classes, also those that an earlier exit excluded.
        best, winner = probability.max(1, keepdim=True)
        # `&` keeps what earlier exits excluded; the winner alone is put back.
        state = state.scatter(1, winner, True) & (probability > threshold * best)
        # Where every sigmoid underflows to 0 the likeliest class still stands.
        state = state.scatter(1, winner, True)
        return state.sum(1) == 1, state
    softmax = logits.softmax(1)
    if rule == "confidence":
        return softmax.amax(1) > 1 - threshold * (1 - 1 / classes), state
    # In nats; the entropy of a uniform guess is log(classes).
    entropy = torch.special.entr(softmax).sum(1)
    return entropy < threshold * torch.tensor(float(classes)).log(), state


class Costs:
    """Multiply-adds of a network with exits, per sample.

    Args:
        segments: Multiply-adds of one sample in each part of the network, from exit to
            exit.
        heads: Multiply-adds of one sample in the head of each exit; one entry fewer
            than ``segments``.
    """

    def __init__(self, segments: Sequence[int], heads: Sequence[int]) -> None:
        self.segments, self.heads = list(segments), list(heads)
        self.plain = sum(segments)
        # A sample that leaves at exit i has passed the heads 1 to i, not only the last.
        run, totals = 0, []
        for part, head in zip(segments, [*heads, 0], strict=True):
            run += part + head
            totals.append(run)
        self.at = totals  # of a sample that leaves there; last: of one that never does

    def average(self, taken: Tensor) -> float:
        """Mean cost of samples of which ``taken[i]`` left at exit ``i``.

        >>> Costs([10, 30, 60], [1, 2]).average(torch.tensor([5, 3, 2]))
        39.0
        """
        total = sum(c * int(k) for c, k in zip(self.at, taken.tolist(), strict=True))
        return total / max(int(taken.sum()), 1)


def costs_of(net: ExitNet, model: Model) -> Costs:
    """Count a network's parts with the counter that measures everything else.

    Args:
        net: The network with exits; its mode (train or eval) is put back.
        model: Model with an example input.

    Returns:
        Costs by segment and head.
    """
    # The counter runs the parts on one example, on which batch normalisation in
    # training mode would update its statistics, or fail.
    was_training = net.training
    net.eval()
    device = next(net.parameters()).device
    (features,) = model.example().values()
    features = features.to(device)
    segments, heads = [], []
    parts = net.segments()
    with torch.inference_mode():
        for place, part in enumerate(parts):
            segments.append(_macs(part, model, features))
            features = part(features)
            if place < len(net.heads):
                heads.append(_macs(net.heads[place], model, features))
    net.train(was_training)
    return Costs(segments, heads)


def _macs(part: nn.Module, model: Model, features: Tensor) -> int:
    return model_size.macs(
        Model(
            name=model.name,
            net=part,
            kind=model.kind,
            roles={},
            example=lambda: {"images": features},
        )
    )


def with_exits(
    model: Model, net: nn.Module, classes: int, *, rule: Rule, pool: int, conv: bool
) -> ExitNet:
    """Put an exit behind every module of ``net`` with the role ``exit_point``.

    Args:
        model: Its roles name the exit points, and its example gives the shapes there.
        net: A stack of layers; becomes part of the result.
        classes: Number of classes, which is the number of logits.
        rule: The rule by which a sample leaves at an exit; see ``leave``.
        pool: Side of the pooling in front of the linear heads.
        conv: Whether heads begin with a convolution.

    Returns:
        The network with new heads and without thresholds, so that no sample exits.

    Raises:
        Unsupported: If the network is not an `nn.Sequential`, or has no exit points.
    """
    names = [name for name, _ in model.with_net(net).modules("exit_point")]
    if not names or not isinstance(net, nn.Sequential):
        raise Unsupported(f"{model.name} has no places for exits")
    device = next(net.parameters()).device
    (features,) = model.example().values()
    features, heads = features.to(device), []
    with torch.inference_mode():
        # The example runs through the stack, since only a run tells the shape at an
        # exit.
        for name, child in net.eval().named_children():
            features = child(features)
            if name in names:
                image = features.ndim == 4
                heads.append(
                    {
                        "features": features.shape[1],
                        "classes": classes,
                        # A late map may be smaller than the pooling that was asked for.
                        "pool": min(pool, *features.shape[2:]) if image else 0,
                        "conv": conv and image,
                    }
                )
    return ExitNet(
        net, exits=names, heads=heads, rule=rule, thresholds=[0.0] * len(names)
    ).to(device)
