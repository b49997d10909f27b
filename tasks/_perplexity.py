"""Perplexity of causal language models over windows of a text, by named protocols."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.core import BenchError, Measurement, Model, NotFinite, Unsupported
from harness.toolkit import host_memory, text_part, texts, tokenizer_needs
from harness.toolkit.blockwise import batches_of, logits_by_block

Tail = Literal["dropped", "equal_weight"]
Bos = Literal["once", "window", "never"]
# What the protocol says of each. The first is that of the papers, which cut the tokens
# of the whole text.
BOS: dict[Bos, str] = {
    "once": "the tokenizer's own, once around the whole text",
    "window": "the begin token before every window, no others",
    "never": "none",
}
_ROWS = 512  # of logits that are turned to float32 at a time


@dataclass(frozen=True, kw_only=True)
class WindowPerplexity:
    """Perplexity over windows that do not overlap, each read without the others.

    A subclass names the text, the window and what happens to the tail.

    Args:
        limit: Number of windows that are read, from the start; None reads all.
        bos: Where the model sees its begin token: ``once`` puts the tokenizer's own
            special tokens around the whole text, before it is cut; ``window`` puts the
            begin token before every window, whose ``window - 1`` other tokens are
            scored; ``never`` adds no special token. None is ``window`` for models of
            the Gemma family and ``once`` for all others.
    """

    text: ClassVar[str]
    window: ClassVar[int]
    tail: ClassVar[Tail] = "dropped"
    by_content: ClassVar[bool] = True
    limit: int | None = None
    bos: Bos | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(
                f"limit {self.limit} is not 1 or more (leave it out for all)"
            )
        if self.window < 2:
            raise ValueError(f"window {self.window} is not 2 or more tokens")

    def suited(self, family: str | None) -> Self:
        """This task with the defaults that a family of models asks for.

        Gemma was trained with a begin token before every text and predicts badly where
        a window lacks it, which would compare compressed models with a broken one.

        Args:
            family: The ``model_type`` of the configuration; None if it is not known.

        Returns:
            The task, with ``bos`` set where the family decides it; ``once`` is None
            where it is the default, so that both are one trial.
        """
        usual: Bos = "window" if "gemma" in (family or "") else "once"
        asked = self.bos or usual
        return replace(self, bos=None if asked == usual == "once" else asked)

    def protocol(self) -> dict[str, Any]:
        """What must be equal for two numbers to be comparable."""
        return {
            "text": self.text,
            "window": self.window,
            "stride": self.window,
            "tail": self.tail,
            "mean": "tokens" if self.tail == "dropped" else "windows",
            "special_tokens": BOS[self.bos or "once"],
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
            Perplexity (1 is perfect), the loss in nats a token, and ``scored_tokens``,
            the number of predictions behind both.

        Raises:
            BenchError: If the text is shorter than one window.
            Unsupported: If the model cannot read a text or a window so long, or has no
                begin token where ``bos`` asks for it.
        """
        if model.encode is None:
            raise Unsupported(f"{model.name} has no tokenizer to read {self.text} with")
        if model.max_length is not None and self.window > model.max_length:
            raise Unsupported(
                f"{model.name} reads {model.max_length} tokens at most, "
                f"and the window has {self.window}"
            )
        ids, begin = self._tokens(model, texts.read(self.text))
        cut = windows(ids, self.window, begin, tail=self.tail, limit=self.limit)
        if not cut:
            raise BenchError(
                f"text {self.text} has {len(ids)} tokens, fewer than one window of "
                f"{self.window}: take a longer text or a smaller window"
            )
        yield from _measurements(window_losses(model, cut), _vocabulary(model))
        scored = sum(len(window) - 1 for window in cut)
        yield Measurement(metric="scored_tokens", value=float(scored), n=len(cut))

    def _tokens(self, model: Model, text: str) -> tuple[Tensor, int | None]:
        """The tokens to cut into windows, and the token before each window."""
        if model.encode is not None and self.bos in (None, "once"):
            return model.encode(text), None
        if model.tokenizer is None:
            raise Unsupported(
                f"{model.name} has no tokenizer that could leave special tokens out: "
                "leave the option bos out"
            )
        has = tokenizer_needs.of_tokenizer(model.tokenizer)
        if why := tokenizer_needs.refusal(model.name, has, self):
            raise Unsupported(why)
        begin = model.tokenizer.bos_token_id if self.bos == "window" else None
        options = {"add_special_tokens": False, "verbose": False}
        return torch.tensor(model.tokenizer(text, **options).input_ids), begin


def windows(
    ids: Tensor,
    window: int,
    begin: int | None = None,
    *,
    tail: Tail = "dropped",
    limit: int | None = None,
) -> list[Tensor]:
    """Cut tokens into windows that do not overlap.

    Args:
        ids: Token ids of the text, shape ``(tokens,)``.
        window: Number of tokens per window.
        begin: A token before every window, which counts as one of its tokens.
        tail: Whether the last, partial window is ``dropped`` or kept (it needs two
            tokens to predict anything).
        limit: Largest number of windows; None for all.

    Returns:
        Tensors of shape ``(window,)``, the last one shorter if it is a kept tail.

    >>> [w.tolist() for w in windows(torch.arange(5), 2)]
    [[0, 1], [2, 3]]
    >>> [w.tolist() for w in windows(torch.arange(5), 3, tail="equal_weight")]
    [[0, 1, 2], [3, 4]]
    >>> [w.tolist() for w in windows(torch.arange(5), 3, 9)]
    [[9, 0, 1], [9, 2, 3]]
    """
    # A window of one token predicts nothing.
    shortest = window if tail == "dropped" else 2
    first = ids.new_tensor([] if begin is None else [begin])
    parts = torch.split(ids, window - len(first))
    cut = [torch.cat([first, w]) for w in parts if len(first) + len(w) >= shortest]
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
    if host_memory.of(model.net) is None:
        return [window_loss(model, w) for w in cut]
    # Windows of one length share batches; a shorter tail is a batch of its own.
    whole = [w for w in cut if len(w) == len(cut[0])]
    batches = batches_of(torch.stack(whole)) + [w[None] for w in cut[len(whole) :]]
    return [
        # The logits at position t predict token t + 1.
        _loss(model, rows[:-1], window[1:])
        for ids, logits in logits_by_block(model, batches)
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
    device = host_memory.compute_device(model.net)
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
