"""Perplexity of causal language models over windows of a text, by named protocols."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.core import BenchError, Measurement, Model, NotFinite, Unsupported
from harness.toolkit import host_memory, text_part, texts
from harness.toolkit.blockwise import stream

Tail = Literal["dropped", "equal_weight"]
_TOKENS = 2**16  # whose hidden states are alive where a network runs block by block
_ROWS = 512  # of logits that are turned to float32 at a time


@dataclass(frozen=True, kw_only=True)
class WindowPerplexity:
    """Perplexity over windows that do not overlap, each read without the others.

    A subclass names the text, the window and what happens to the tail.

    Args:
        limit: Number of windows that are read, from the start; None reads all.
    """

    text: ClassVar[str]
    window: ClassVar[int]
    tail: ClassVar[Tail] = "dropped"
    by_content: ClassVar[bool] = True
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(
                f"limit {self.limit} is not 1 or more (leave it out for all)"
            )
        if self.window < 2:
            raise ValueError(f"window {self.window} is not 2 or more tokens")

    def protocol(self) -> dict[str, Any]:
        """What must be equal for two numbers to be comparable."""
        return {
            "text": self.text,
            "window": self.window,
            "stride": self.window,
            "tail": self.tail,
            "mean": "tokens" if self.tail == "dropped" else "windows",
            "special_tokens": "the tokenizer's own, once around the whole text",
            "limit": self.limit,
        }

    def fingerprint(self) -> str:
        """The content hash of the text."""
        return texts.fingerprint(self.text)

    def evaluate(self, model: Model) -> Iterator[Measurement]:
        """Yield ``perplexity``, and ``loss`` with one value per window.

        Args:
            model: A causal language model.

        Yields:
            Perplexity (1 is perfect), and the loss in nats a token.

        Raises:
            BenchError: If the text is shorter than one window.
            Unsupported: If the model cannot read a text or a window so long.
        """
        if model.encode is None:
            raise Unsupported(f"{model.name} has no tokenizer to read {self.text} with")
        if model.max_length is not None and self.window > model.max_length:
            raise Unsupported(
                f"{model.name} reads {model.max_length} tokens at most, "
                f"and the window has {self.window}"
            )
        ids = model.encode(texts.read(self.text))
        cut = windows(ids, self.window, tail=self.tail, limit=self.limit)
        if not cut:
            raise BenchError(
                f"text {self.text} has {len(ids)} tokens, fewer than one window of "
                f"{self.window}: take a longer text or a smaller window"
            )
        yield from _measurements(window_losses(model, cut), _vocabulary(model))


def windows(
    ids: Tensor, window: int, *, tail: Tail = "dropped", limit: int | None = None
) -> list[Tensor]:
    """Cut tokens into windows that do not overlap.

    Args:
        ids: Token ids of the text, shape ``(tokens,)``.
        window: Number of tokens per window.
        tail: Whether the last, partial window is ``dropped`` or kept (it needs two
            tokens to predict anything).
        limit: Largest number of windows; None for all.

    Returns:
        Tensors of shape ``(window,)``, the last one shorter if it is a kept tail.

    >>> [w.tolist() for w in windows(torch.arange(5), 2)]
    [[0, 1], [2, 3]]
    >>> [w.tolist() for w in windows(torch.arange(5), 3, tail="equal_weight")]
    [[0, 1, 2], [3, 4]]
    """
    # A window of one token predicts nothing.
    shortest = window if tail == "dropped" else 2
    cut = [w for w in torch.split(ids, window) if len(w) >= shortest]
    return cut[:limit]


def window_losses(model: Model, cut: list[Tensor]) -> list[float]:
    """The loss of each window, as ``window_loss`` gives it.

    A network whose weights are in files runs block by block: each block reads many
    windows before the next block, so that its weights are read once for all of them.

    Args:
        model: A causal language model.
        cut: Windows as ``windows`` cuts them; the last one may be shorter.

    Returns:
        Nats a token, one number for each window.
    """
    at_once = max(1, _TOKENS // len(cut[0]))
    if host_memory.of(model.net) is None:
        return [window_loss(model, w) for w in cut]
    losses: list[float] = []
    for first in range(0, len(cut), at_once):
        some = cut[first : first + at_once]
        # A stream takes windows of one length; a shorter tail runs alone.
        whole = [w for w in some if len(w) == len(cut[0])]
        losses += _blockwise(model, torch.stack(whole)) if whole else []
        losses += [window_loss(model, w) for w in some[len(whole) :]]
    return losses


def _blockwise(model: Model, tokens: Tensor) -> list[float]:
    running = stream(model, tokens)
    for index, (_, block) in enumerate(running):
        running.advance(index, block)
    return [
        # The logits at position t predict token t + 1.
        _loss(model, rows[:-1], window[1:])
        for ids, logits in running.logits(model.net, len(running.blocks))
        for window, rows in zip(ids, logits, strict=True)
    ]


@torch.inference_mode()
def window_loss(model: Model, window: Tensor) -> float:
    """Mean cross-entropy over the predictions of one window, in float32.

    Args:
        model: A causal language model.
        window: Token ids, shape ``(T,)``; the first token is context only.

    Returns:
        The mean over ``T - 1`` predictions, in nats.

    Raises:
        NotFinite: If it is NaN or infinite.
    """
    device = next(model.net.parameters()).device
    ids = window.to(device)
    logits = model.net(input_ids=ids[None], use_cache=False).logits[0, :-1]  # (T-1, V)
    return _loss(model, logits, ids[1:])


def _loss(model: Model, logits: Tensor, targets: Tensor) -> float:
    parts = [
        # In parts: 2048 x 128,000 logits in float32 are 1 GiB. The sum is in float64,
        # so that it does not depend on the size of the parts.
        cross_entropy(rows.float(), target, reduction="none").double().sum()
        for rows, target in zip(
            torch.split(logits, _ROWS), torch.split(targets, _ROWS), strict=True
        )
    ]
    loss = float(torch.stack(parts).sum()) / len(targets)
    if not math.isfinite(loss):
        length = len(targets) + 1
        raise NotFinite(f"the loss of {model.name} is {loss} on a window of {length}")
    return loss


def _vocabulary(model: Model) -> int | None:
    """The number of tokens to choose from; None if the network does not say it."""
    try:
        return text_part.vocabulary(model.net)
    except AttributeError:
        return None


def _measurements(losses: list[float], vocabulary: int | None) -> Iterator[Measurement]:
    """Windows count equally: each full window has the same number of predictions."""
    count = len(losses)
    mean = math.fsum(losses) / count
    spread = math.fsum((x - mean) ** 2 for x in losses)
    stderr = math.sqrt(spread / (count - 1) / count) if count > 1 else None
    value = math.exp(min(mean, 700.0))  # a collapsed model stays a finite number
    yield Measurement(
        metric="perplexity",
        value=value,
        goal="min",
        stderr=None if stderr is None else value * stderr,  # first order
        n=count,
        chance=None if vocabulary is None else float(vocabulary),  # all as likely
    )
    yield Measurement(
        metric="loss",
        value=mean,
        unit="nats/token",
        goal="min",
        stderr=stderr,
        n=count,
        values=losses,
        chance=None if vocabulary is None else math.log(vocabulary),
    )
