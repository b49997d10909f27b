"""The search for the thresholds at which samples leave a network with exits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from methods._kernels.early_exit.network import Costs, Rule, leave

# Thresholds that are tried at each exit: never, and 25 from 1e-5 to 1.
_GRID = (0.0, *(10 ** (step / 24 * 5 - 5) for step in range(25)))
# Logistic heads give several classes nearly the same probability: only
# thresholds close to 1 tell them apart.
_CLOSE = (0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995)
# What a saving of all MACs is worth in accuracy, one search each.
_WORTHS = (0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_PASSES = 4  # over the exits, of one search, if thresholds still change
# Accuracy that the released search may give away, one search each.
_TOLERANCES = (0.0, 0.002, 0.01, 0.03, 0.1, 0.3)
_STEPS = tuple(step / 100 for step in range(1, 100))


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Thresholds, with what they do to the validation split.

    Args:
        thresholds: One number from 0 to 1 for each exit; at 0 no sample leaves there.
        accuracy: Share of the validation images whose class is right, wherever they
            leave.
        saved: Share of the plain network's MACs that is saved on average.
    """

    thresholds: tuple[float, ...]
    accuracy: float
    saved: float


def thresholds_of(rule: Rule) -> tuple[float, ...]:
    """The thresholds that are tried at each exit, in order; at the first nobody leaves.

    Args:
        rule: The rule that compares with the thresholds; see ``leave``.

    Returns:
        0 and 25 values from 1e-5 to 1 with equal ratios; eleven more between 0.7 and 1
        for the exclusion of classes.
    """
    close = _CLOSE if rule in ("exclusion", "softmax_exclusion") else ()
    return tuple(sorted({*_GRID, *close}))


@dataclass(frozen=True, slots=True)
class Validation:
    """The logits of the validation split, on which thresholds are tried.

    Args:
        rule: The rule by which a sample leaves at an exit; see ``leave``.
        logits: Of every exit and, last, of the network, each ``(n, classes)``.
        labels: True classes, shape ``(n,)``.
        costs: MACs of each segment and head.
    """

    rule: Rule
    logits: list[Tensor]
    labels: Tensor
    costs: Costs
    tried: dict[tuple[float, ...], Candidate] = field(default_factory=dict)

    @property
    def exits(self) -> int:
        """Number of exits."""
        return len(self.logits) - 1

    def run(self, thresholds: tuple[float, ...]) -> Candidate:
        """What one threshold for each exit does."""
        if thresholds not in self.tried:
            self.tried[thresholds] = simulate(
                self.rule, self.logits, self.labels, self.costs, thresholds
            )
        return self.tried[thresholds]


def simulate(
    rule: Rule,
    logits: list[Tensor],
    labels: Tensor,
    costs: Costs,
    thresholds: tuple[float, ...],
) -> Candidate:
    """What thresholds do to examples whose logits at all exits are known.

    Args:
        rule: The rule by which a sample leaves at an exit; see ``leave``.
        logits: Of every exit and of the network, each ``(n, classes)``.
        labels: True classes, shape ``(n,)``.
        costs: MACs of each segment and head.
        thresholds: One number from 0 to 1 for each exit, in the network's order.

    Returns:
        Accuracy and MACs saved, equal to what the network itself would do.
    """
    state = torch.ones_like(logits[0], dtype=torch.bool)
    inside = torch.ones(len(labels), dtype=torch.bool)
    right = torch.zeros(len(labels), dtype=torch.bool)
    taken = []
    for early, threshold in zip(logits[:-1], thresholds, strict=True):
        # All samples are computed at all exits, and `inside` says which of them the
        # network would still have: one pass of the network serves all thresholds.
        gone, state = leave(rule, early, threshold, state)
        gone = gone & inside
        answer = early.masked_fill(~state, -torch.inf).argmax(1)
        right[gone] = (answer == labels)[gone]
        inside = inside & ~gone
        taken.append(int(gone.sum()))
    answer = logits[-1].masked_fill(~state, -torch.inf).argmax(1)
    right[inside] = (answer == labels)[inside]
    average = costs.average(torch.tensor([*taken, int(inside.sum())]))
    return Candidate(
        thresholds=thresholds,
        accuracy=right.double().mean().item(),
        saved=1 - average / costs.plain,
    )


def coordinate_search(seen: Validation) -> list[Candidate]:
    """Thresholds along the whole trade-off between accuracy and MACs.

    For each of several worths w, the search maximises ``accuracy + w saved``. It
    replaces the threshold of one exit after the other by the best of ``thresholds_of``,
    until nothing changes. The first search starts where nobody leaves, each later one
    where the one before ended.

    Args:
        seen: The validation split, which tries thresholds and remembers what it tried.

    Returns:
        Every candidate that was tried, in no order.
    """
    # Every candidate that is tried stays in `seen.tried`: this one saves the most of
    # all, so that it decides which ratios can be reached.
    seen.run((1.0,) * seen.exits)  # everybody leaves at the first exit
    here = (0.0,) * seen.exits
    for worth in _WORTHS:

        def gain(found: Candidate, worth: float = worth) -> float:
            return found.accuracy + worth * found.saved

        # A warm start: the best thresholds of two neighbouring worths differ little.
        here = _climb(seen, here, gain).thresholds
    return list(seen.tried.values())


def refined(seen: Validation, start: Candidate, ratio: float) -> Candidate:
    """The most accurate thresholds that save at least a ratio, near some that do.

    Args:
        seen: The validation split, which tries thresholds; left as it is.
        start: Thresholds that save at least ``ratio``, from which the search starts.
        ratio: Share of the MACs to save.

    Returns:
        A candidate that no change of a single threshold improves; of equal accuracy,
        the one that saves the least, which is nearest to what was asked for.
    """

    def gain(found: Candidate) -> tuple[bool, float, float]:
        return found.saved >= ratio, found.accuracy, -found.saved

    # What was fitted serves all ratios and stays as it is.
    seen = replace(seen, tried=dict(seen.tried))
    return _climb(seen, start.thresholds, gain)


def _climb(
    seen: Validation, here: tuple[float, ...], gain: Callable[[Candidate], Any]
) -> Candidate:
    """Change one threshold at a time for the better until nothing does."""
    steps = thresholds_of(seen.rule)
    for _ in range(_PASSES):
        before = here
        for place in range(seen.exits):
            moves = [(*here[:place], step, *here[place + 1 :]) for step in steps]
            # `max` takes the first of equals, which is `here`: the search ends where
            # nothing is better.
            here = max([here, *moves], key=lambda move: gain(seen.run(move)))
        if here == before:
            break
    return seen.run(here)


def released_search(seen: Validation) -> list[Candidate]:
    """Thresholds as the released code of class exclusion searches them.

    TUDa-HWAI/eece visits the exits in the order of falling cost of the part in front.
    The threshold of each starts at 0.01 and rises by 0.01 while accuracy stays above
    the goal, which is the accuracy without exits less a tolerance; then it goes back to
    the last one above the goal. The search runs once for each of six tolerances, where
    the released configurations have one, and the same threshold at every exit is tried
    beside.

    Args:
        seen: The validation split, which tries thresholds and remembers what it tried.

    Returns:
        Candidates in no order.
    """
    found = [seen.run((step,) * seen.exits) for step in (*_STEPS, 1.0)]
    # Accuracy without exits.
    base = seen.run((0.0,) * seen.exits).accuracy
    segments = seen.costs.segments
    places = sorted(range(seen.exits), key=lambda place: -segments[place])
    for tolerance in _TOLERANCES:
        thresholds = [0.0] * seen.exits
        for place in places:
            last = _STEPS[0]
            for step in _STEPS:
                thresholds[place] = step
                # Not above the goal: back to the last step that was.
                if seen.run(tuple(thresholds)).accuracy <= base - tolerance:
                    break
                last = step
            thresholds[place] = last
        found.append(seen.run(tuple(thresholds)))
    return found
