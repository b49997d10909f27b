"""Teacher forcing as the trainer wants it: buckets of pairs, and a loss a word."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.core import Context, Measurement
from harness.toolkit.recipe import Recipe
from harness.toolkit.sequences import Pairs, ParallelText, buckets, take
from harness.toolkit.training import Objective, train


@dataclass
class Buckets:
    """Training pairs in batches of similar length, which are drawn again each epoch.

    Args:
        pairs: Pairs of source and target sentences.
        size: Number of sentences per batch.
    """

    pairs: Pairs
    size: int
    dealt: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Only for the number of batches, which the trainer asks for before the first
        # epoch.
        self.deal(torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.dealt)

    def deal(self, stream: torch.Generator) -> None:
        """Form the batches of the next epoch."""
        self.dealt = list(buckets(self.pairs, size=self.size, stream=stream))

    def batch(
        self, index: Tensor, rng: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Padded source and target of one batch of pairs."""
        return take(self.pairs, self.dealt[int(index)])


@dataclass(frozen=True, slots=True)
class _Data:
    train: Buckets
    dev: Pairs


@dataclass(kw_only=True)
class Translating(Objective):
    """Negative log-likelihood per target word, in nats.

    Args:
        ctx: Gives the streams that deal the batches.
        buckets: The training pairs in batches.
        device: Where the network is.
    """

    ctx: Context
    buckets: Buckets

    def loss(self, net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean over the words of the batch, ends of sentences included."""
        source, target = (side.to(self.ctx.device) for side in batch)
        total, words = net.log_loss(source, target)  # type: ignore[operator]
        # Per word and not per sentence: long sentences have their share of the
        # gradient.
        mean: Tensor = total / words
        return mean

    def before_epoch(self, net: nn.Module, epoch: int) -> None:
        """Deal the batches of this epoch."""
        self.buckets.deal(self.ctx.stream(f"{self.name}/buckets/{epoch}"))

    def validate(self, net: nn.Module, data: Any) -> dict[str, Measurement]:
        """The same loss on the development pairs, as a perplexity."""
        value = word_loss(net, data.dev, self.ctx.device)
        point = Measurement(
            metric="validation_loss", value=value, goal="min", n=data.dev.target_words
        )
        return {"validation_loss": point}


@torch.inference_mode()
def word_loss(
    net: nn.Module, pairs: Pairs, device: torch.device, batch: int = 128
) -> float:
    """Mean negative log-likelihood per target word under teacher forcing.

    Args:
        net: A ``Seq2Seq``; its mode is put back afterwards.
        pairs: Source sentences and the targets to predict.
        device: Where the network is.
        batch: Sentences per forward pass.

    Returns:
        Nats per word, ends of sentences included.
    """
    was_training = net.training
    net.eval()
    # By length, so that a batch has little padding; the sum does not depend on the
    # order.
    order = sorted(range(len(pairs)), key=lambda i: len(pairs.target[i]))
    total = 0.0
    for start in range(0, len(order), batch):
        source, target = take(pairs, order[start : start + batch])
        loss, _ = net.log_loss(source.to(device), target.to(device))  # type: ignore[operator]
        total += float(loss)
    net.train(was_training)
    return total / pairs.target_words


def train_translation(
    net: nn.Module,
    recipe: Recipe,
    ctx: Context,
    objective: type[Translating] = Translating,
    **options: Any,
) -> None:
    """Train a sequence-to-sequence network in place, and leave it in ``eval`` mode.

    Args:
        net: A ``Seq2Seq`` network, trained in place.
        recipe: How; ``batch_size`` counts sentences.
        ctx: Its ``data`` is a ``ParallelText``.
        objective: Class of the loss to minimise.
        **options: Further fields of ``objective``.
    """
    text: ParallelText = ctx.data
    batches = Buckets(text.train, recipe.batch_size)
    train(
        net,
        replace(recipe, batch_size=1),  # an example is a whole batch of pairs
        ctx,
        objective=objective(ctx=ctx, buckets=batches, **options),
        data=_Data(batches, text.dev),
    )
