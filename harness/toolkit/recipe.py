"""A training recipe: the part of a trial's identity that says how a net is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Args:
        epochs: Passes over the training data, at least 1.
        batch_size: Examples a step; the last step of an epoch may have fewer.
        optimizer: Name of the optimizer: ``sgd`` or ``adam``.
        lr: Learning rate at the start (after warm-up).
        momentum: Of SGD; the first beta of Adam (0 means its usual 0.9).
        nesterov: Nesterov's momentum, for SGD.
        weight_decay: L2 penalty on every parameter.
        schedule: ``constant``; ``steps`` multiplies by ``gamma`` at each milestone and
            after every ``every`` epochs; ``cosine`` and ``linear`` end at 0.
        milestones: Epochs at which ``steps`` multiplies.
        every: Period in epochs at which ``steps`` multiplies; 0 for never.
        gamma: The factor of ``steps``.
        hold: Share of the epochs before ``linear`` or ``cosine`` begins to fall.
        warmup: Epochs over which the rate rises linearly from 0.
        clip: Largest norm of the gradient; None for no limit.
        label_smoothing: Share of the target spread over all classes.
        patience: Stop after so many epochs without a better validation score.
        keep: ``last`` epoch's weights, or the ``best`` on the validation split.
        mixed_precision: Autocast on CUDA (bfloat16 where it can); a CPU ignores it.
    """

    epochs: int = 20
    batch_size: int = 100
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: Literal["constant", "steps", "cosine", "linear"] = "cosine"
    milestones: tuple[int, ...] = ()
    every: int = 0
    gamma: float = 0.1
    hold: float = 0.0
    warmup: float = 0.0
    clip: float | None = None
    label_smoothing: float = 0.0
    patience: int | None = None
    keep: Literal["last", "best"] = "last"
    mixed_precision: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot train.

        Raises:
            ValueError: With every field that is out of range.
        """
        rules = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "lr": (self.lr > 0, "above 0"),
            "momentum": (0 <= self.momentum < 1, "in [0, 1)"),
            "weight_decay": (self.weight_decay >= 0, "at least 0"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "in [0, 1)"),
            "patience": (self.patience is None or self.patience >= 1, "at least 1"),
            "hold": (0 <= self.hold < 1, "in [0, 1)"),
        }
        wrong = [
            f"{field} is {getattr(self, field)!r}; it must be {allowed}"
            for field, (fine, allowed) in rules.items()
            if not fine
        ]
        if wrong:
            raise ValueError("; ".join(wrong))

    def rate(self, epoch: float) -> float:
        """The learning rate at a moment.

        Args:
            epoch: Epochs done, with the share of the running one.

        Returns:
            The rate of the next step.

        >>> halving = Recipe(lr=0.4, schedule="steps", every=25, gamma=0.5)
        >>> [halving.rate(epoch) for epoch in (0, 24.9, 25, 60)]
        [0.4, 0.4, 0.2, 0.1]
        """
        # Linear from 0 at epoch 0 to ``lr`` at the end of the warm-up.
        if epoch < self.warmup:
            return self.lr * epoch / self.warmup
        if self.schedule == "steps":
            times = sum(epoch >= milestone for milestone in self.milestones)
            times += int(epoch // self.every) if self.every else 0
            return self.lr * self.gamma**times
        # Falling begins after the warm-up and after the share ``hold``; ``done`` goes
        # from 0 to 1.
        start = max(self.warmup, self.hold * self.epochs)
        done = min(1.0, max(0.0, (epoch - start) / max(self.epochs - start, 1e-9)))
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * done)) / 2
        return self.lr * (1 - done) if self.schedule == "linear" else self.lr
