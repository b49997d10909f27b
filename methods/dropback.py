"""DropBack: train few weights, regenerate the others (arXiv:1806.06949)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from harness.core import Context, Measurement, Unsupported
from harness.registry import method
from harness.toolkit.training import Objective, Recipe, train
from methods._kernels.tracked import Initial, Tracked, flatten, initial_of

# The script of compstruct/DropBack for MNIST.
RELEASED = Recipe(
    lr=0.4, momentum=0.0, schedule="steps", every=25, gamma=0.5, batch_size=100
)
# Who is looked at in the next step, as shares of the k-th largest score of this one:
# untracked weights above the first, tracked ones below the second.
_LOW, _HIGH = 0.8, 1.25
_FADED = 1e-12  # a factor below this is 0: smaller numbers are slow and change nothing
# Picojoules in a 45 nm process (arXiv:1506.02626, Table 1): a 32-bit word of DRAM, and
# a weight that a xorshift generator makes again, six integer operations of 0.1 and one
# of floating point of 0.9.
_DRAM, _REGENERATED = 640.0, 6 * 0.1 + 0.9


@method(
    "dropback",
    ratio_of="tracked_weights",
    needs={"training_data"},
    kinds={"classifier"},
    stochastic=True,
    tolerance=0.001,
)
class DropBack:
    """Train from scratch while only the ``k`` weights that moved furthest may differ.

    After each step of plain SGD, the k weights with the largest distance from their
    initial values, over the whole network, keep their new value; every other weight
    falls back to its initial value, which is a function of a seed and its index:
    ``w_i = w0_i + d_i`` with at most k of the d_i not zero, those of largest ``|d_i|``.
    Of the weights only these values, their indices and the seed are stored. The
    selection is exact (see ``Tracking``). The paper is arXiv:1806.06949; the default
    recipe is that of its code for MNIST.

    ``training_weight_energy`` and ``inference_weight_energy`` say what the rule is for:
    the energy to bring weights to the processor, as a share of the dense network's,
    by a model (see ``weight_energy``), not by a meter.

    Args:
        recipe: Of the training; SGD without momentum, since the distance from the
            initial value must be the accumulated gradient.
        gain: Standard deviation of initial weights times the root of the fan-in; 1 is
            LeCun's normal distribution, as released.
        freeze_epoch: From this epoch on the tracked set stays; None never freezes.
        init_decay: Factor on the initial values after each step, so that untracked
            weights fade to zero (Procrustes, arXiv:2009.10976); 1 leaves them.
    """

    recipe: Recipe = RELEASED
    gain: float = 1.0
    freeze_epoch: int | None = None
    init_decay: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what breaks the rule.

        Raises:
            ValueError: If the optimizer is not plain SGD, or a number is out of range.
        """
        if self.recipe.optimizer != "sgd" or self.recipe.momentum:
            raise ValueError(
                f"recipe has optimizer {self.recipe.optimizer} with momentum "
                f"{self.recipe.momentum}; DropBack needs sgd with momentum 0"
            )
        if not 0 <= self.init_decay <= 1 or self.gain <= 0:
            raise ValueError(
                f"init_decay is {self.init_decay} and gain {self.gain}; init_decay "
                "must be in [0, 1] and gain above 0"
            )
        if self.init_decay < 1 and self.recipe.keep == "best":
            raise ValueError("init_decay below 1 needs keep: last")

    def compress(self, fitted: None, ratio: float, ctx: Context) -> nn.Module:
        """A network of which ``1 - ratio`` of the weights are stored."""
        net = ctx.dense()
        if ratio == 0:
            ctx.record(Measurement(metric="achieved_ratio", value=0.0))
            return net
        total = sum(p.numel() for p in net.parameters())
        k = total - math.ceil(ratio * total - 1e-6)  # 0.9 of 10 is 9, not 9.0...01
        if k < 1:
            raise Unsupported(f"ratio {ratio} tracks none of {total} weights; lower it")
        seed = ctx.stream("dropback").initial_seed()
        net.to(ctx.device)
        goal = Tracking(
            name="dropback",
            label_smoothing=self.recipe.label_smoothing,
            initial=initial_of(net, seed, self.gain),
            flat=flatten(net),
            k=k,
            freeze_epoch=self.freeze_epoch,
            decay=self.init_decay,
        )
        goal.begin()
        train(net, self.recipe, ctx, objective=goal)
        indices, values = goal.moved()
        made = Tracked(
            net, seed=seed, gain=self.gain, factor=goal.factor, k=len(indices)
        )
        made.track(indices, values)
        achieved = 1 - k / total
        ctx.record(
            Measurement(metric="achieved_ratio", value=achieved),
            Measurement(metric="tracked_weights", value=float(k)),
            *weight_energy(k, total),
        )
        return made.eval()


def weight_energy(tracked: int, total: int) -> tuple[Measurement, Measurement]:
    """Energy of all accesses to weights, as a share of that of a dense network.

    A model of hardware without a cache for weights. In a step of training the dense
    network reads every weight for the forward and for the backward pass and writes it
    once: ``3 N`` accesses to DRAM. DropBack does so with its k tracked weights and
    makes the others again in both passes; their gradient is compared with the
    smallest tracked distance as it appears, without an access. Inference reads each
    weight once. Arithmetic and activations cost the same in both and are left out.

    ::

        training  = (3 k 640 + 2 (N - k) 1.5) / (3 N 640)
        inference = (k 640 + (N - k) 1.5) / (N 640)

    Args:
        tracked: k, weights that are stored.
        total: N, weights of the network.

    Returns:
        The measurements ``training_weight_energy`` and ``inference_weight_energy``.

    >>> [round(m.value, 4) for m in weight_energy(10, 100)]
    [0.1014, 0.1021]
    """
    forgotten = total - tracked
    training = 3 * tracked * _DRAM + 2 * forgotten * _REGENERATED
    inference = tracked * _DRAM + forgotten * _REGENERATED
    return (
        Measurement(
            metric="training_weight_energy",
            value=training / (3 * total * _DRAM),
            goal="min",
        ),
        Measurement(
            metric="inference_weight_energy",
            value=inference / (total * _DRAM),
            goal="min",
        ),
    )


@dataclass(kw_only=True)
class Tracking(Objective):
    """The rule of DropBack around a training.

    Selection is exact at every step, and costs two scans instead of a sort. Between
    steps an untracked weight equals its initial value, so its score is the length of
    this one step; a tracked weight's is its accumulated step. The k-th largest score
    moves little from step to step. A scan for untracked weights somewhat below the last
    one and up finds all who may enter, a scan for tracked weights somewhat above it and
    down finds all who may leave, and only those few are ranked. Where the k-th largest
    is beyond either bound, a wider scan follows. Scans compare slopes.

    Beside weights and gradients, one vector of slopes, k accumulated steps, k initial
    values and one mark per weight are stored; the initial values of the others are the
    weights themselves.

    Args:
        initial: The initial value of every weight, as a function of its flat index.
        flat: The vector that the network's parameters are views of.
        k: How many weights are tracked.
        freeze_epoch: From this epoch on the set stays; None for never.
        decay: Factor on the initial values after each step.
    """

    initial: Initial
    flat: Tensor
    k: int
    freeze_epoch: int | None = None
    decay: float = 1.0
    factor: float = 1.0
    frozen: bool = False
    last: float = 0.0  # the k-th largest score of the last step
    tracked: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    origin: Tensor = field(default_factory=lambda: torch.empty(0))
    shift: Tensor = field(default_factory=lambda: torch.empty(0))

    def begin(self) -> None:
        """Put every weight at its initial value; none is tracked."""
        everything = torch.arange(len(self.flat), device=self.flat.device)
        self.flat.copy_(self.initial.at(everything))
        self.tracked = everything[:0]
        self.origin = self.flat[:0].clone()
        self.shift = self.flat[:0].clone()
        self._prepare()

    def _prepare(self) -> None:
        # Made again and not stored: a mark for each weight follows from the tracked
        # set.
        self._slope = torch.empty_like(self.flat)
        self._free = torch.ones_like(self.flat, dtype=torch.bool)
        self._free[self.tracked] = False

    def before_epoch(self, net: nn.Module, epoch: int) -> None:
        """Freeze the tracked set when its epoch has come."""
        self.frozen = self.freeze_epoch is not None and epoch >= self.freeze_epoch

    @torch.no_grad()
    def step(self, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """One step of SGD, after which only tracked weights have moved."""
        group = optimizer.param_groups[0]
        slope, rate = self._slope, group["lr"]
        # One vector in the order of `flat`, in memory that is used again in every step.
        torch.cat([_gradient(p) for p in net.parameters()], out=slope)
        if group["weight_decay"]:
            slope.add_(self.flat, alpha=group["weight_decay"])
        if self.decay < 1:
            self._fade()
        # The sum of all steps is kept on its own: `flat - origin` has lost the digits
        # that are too small beside the weight.
        self.shift.add_(self._move(self.tracked, rate))
        if not self.frozen or not len(self.tracked):
            self._select(rate)
        self.flat.index_copy_(0, self.tracked, self.origin + self.shift)

    def _move(self, index: Tensor, rate: float) -> Tensor:
        """This step of the weights at ``index``."""
        return self._slope.index_select(0, index).mul_(-rate)

    def _select(self, rate: float) -> None:
        """Choose the tracked set again, given this step's gradients."""
        distance = self.shift.abs()
        # The band in which the k-th largest score is expected: untracked weights below
        # it and tracked ones above it need not be looked at.
        low, high = _LOW * self.last, _HIGH * self.last or math.inf
        if not len(self.tracked):
            low, high = -0.5, math.inf  # at first: everybody
        while True:
            entrants = self._entrants(low, rate)
            moves = self._move(entrants, rate)
            weak = _positions(distance < high)
            # All weights that may change sides: weak tracked ones, then entrants.
            scores = torch.cat([distance.index_select(0, weak), moves.abs()])
            # Ranked from below: a weight that is not in `scores` reaches `high`.
            cut = _smallest(scores, len(distance) + len(moves) - self.k)
            # The k-th score is outside of the band, where weights were left out of the
            # scan: scan again with a band that contains it.
            if cut < low:
                low = cut
            elif cut >= high:
                high = math.inf
            else:  # NaN too: the next loss will say so
                break
        self.last = cut
        # As many enter as leave, unless scores are equal at the cut.
        leaving = weak[_positions(scores[: len(weak)] < cut)]
        entering = _positions(scores[len(weak) :] >= cut)
        if len(leaving) == len(entering):
            self._swap(
                leaving,
                entrants.index_select(0, entering),
                moves.index_select(0, entering),
            )
        else:  # at first, and where scores at the cut are equal
            everybody = torch.cat([distance, moves.abs()])
            self._rank(entrants, moves, _first(everybody, cut, self.k))

    def _entrants(self, low: float, rate: float) -> Tensor:
        """Untracked weights, among them all whose step is at least ``low`` long."""
        least = low * (1 - 1e-6) - 1e-44  # by more than a product can be rounded
        limit = least / rate if rate else math.copysign(math.inf, low)
        return _beyond(self._slope, limit, self._free)

    def _swap(self, leaving: Tensor, entering: Tensor, moves: Tensor) -> None:
        """Put weights into the places of as many tracked ones."""
        # The order matters: a leaving weight falls back to its origin before the place
        # of that origin is given to the entering weight.
        left = self.tracked.index_select(0, leaving)
        self.flat.index_copy_(0, left, self.origin.index_select(0, leaving))
        self._free.index_fill_(0, left, True)
        self._free.index_fill_(0, entering, False)
        self.tracked.index_copy_(0, leaving, entering)
        self.origin.index_copy_(0, leaving, self.flat.index_select(0, entering))
        self.shift.index_copy_(0, leaving, moves)

    def _rank(self, entrants: Tensor, moves: Tensor, kept: Tensor) -> None:
        """Track the weights at places ``kept`` of tracked ones and entrants."""
        self.flat[self.tracked] = self.origin
        self._free[self.tracked] = True
        self.tracked = torch.cat([self.tracked, entrants])[kept]
        self.origin = torch.cat([self.origin, self.flat[entrants]])[kept]
        self.shift = torch.cat([self.shift, moves])[kept]
        self._free[self.tracked] = False

    def _fade(self) -> None:
        # Untracked weights fade in `flat`, and the origins of tracked ones with them;
        # the file of the network needs this factor alone.
        before, self.factor = self.factor, self.factor * self.decay
        if self.factor < _FADED:
            self.factor = 0.0
        share = self.factor / before if before else 0.0
        self.flat.mul_(share)
        self.origin.mul_(share)

    def moved(self) -> tuple[Tensor, Tensor]:
        """Flat positions and values of the weights that differ, at most ``k``."""
        order = self.tracked.sort().values
        if self.decay == 1:  # the trainer may have put back the best epoch's weights
            everything = torch.arange(len(self.flat), device=self.flat.device)
            order = (self.flat != self.initial.at(everything)).nonzero().view(-1)
        return order, self.flat[order].clone()

    def state(self) -> dict[str, Tensor]:
        """The tracked set, which a checkpoint stores to continue the training."""
        return {
            "tracked": self.tracked,
            "origin": self.origin,
            "shift": self.shift,
            "factor": torch.tensor([self.factor, self.last], dtype=torch.float64),
        }

    def restore(self, net: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Take the tracked set back, as ``state`` gave it."""
        device = self.flat.device
        self.tracked = state["tracked"].to(device)
        self.origin = state["origin"].to(device)
        self.shift = state["shift"].to(device)
        self.factor, self.last = state["factor"].tolist()
        self._prepare()


def _positions(true: Tensor) -> Tensor:
    """Where a mask is true, in order."""
    if true.device.type == "cpu":  # NumPy is several times as fast here
        return torch.from_numpy(np.flatnonzero(true.numpy()))
    return true.nonzero().view(-1)


def _beyond(slope: Tensor, limit: float, free: Tensor) -> Tensor:
    """Positions, of those ``free``, of slopes further from zero than ``limit``.

    >>> slope = torch.tensor([0.5, -2.0, -0.5, 1.0, 3.0])
    >>> _beyond(slope, 0.7, torch.tensor([True, True, True, True, False])).tolist()
    [1, 3]
    """
    if slope.device.type == "cpu":  # the comparisons too
        steep = slope.numpy()
        found = steep > limit
        found |= steep < -limit
        found &= free.numpy()
        return torch.from_numpy(np.flatnonzero(found))
    return _positions(((slope > limit) | (slope < -limit)) & free)


def _smallest(score: Tensor, place: int) -> float:
    """The score at ``place`` from below, counted from 0; infinite if there is none."""
    if place >= len(score):
        return math.inf
    if score.device.type == "cpu":
        return float(np.partition(score.numpy(), place)[place])
    return float(score.kthvalue(place + 1).values)


def _first(score: Tensor, cut: float, k: int) -> Tensor:
    """Positions of ``k`` scores of at least ``cut``; of equal ones the first stay.

    >>> _first(torch.tensor([2.0, 1.0, 3.0, 1.0, 1.0]), 1.0, 4).tolist()
    [0, 1, 2, 3]
    """
    kept = _positions(score >= cut)
    # More than k only where scores equal the cut: the last of these leave.
    surplus = len(kept) - k
    if surplus <= 0:
        return kept
    equal = _positions(score[kept] == cut)
    stays = torch.ones_like(kept, dtype=torch.bool)
    stays[equal[-surplus:]] = False
    return kept[stays]


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        return torch.zeros_like(parameter).view(-1)
    return parameter.grad.reshape(-1)
