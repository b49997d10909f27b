"""Generation speed of a language model: tokens per second with a cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from harness.core import Measurement, Model
from harness.registry import task
from tasks import _speed


@task("decode", kind="causal_lm", exclusive=True)
class Decode(_speed.Speed):
    """Tokens per second of greedy decoding after a prompt, without the prompt's time.

    Args:
        prompt: Number of tokens that are in the cache before the measurement.
        length: Number of tokens that are generated.
    """

    prompt: int = 128
    length: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.prompt, self.length) < 1:
            raise ValueError(
                f"prompt {self.prompt} or length {self.length} is not 1 or more tokens"
            )

    @torch.inference_mode()
    def evaluate(self, model: Model) -> Iterator[Measurement]:
        """Yield ``decode_rate`` in tokens per second, and its spread."""
        whole = _speed.tokens(model, self.batch, self.prompt + self.length)
        writer = _Writer(model.net, whole[:, : self.prompt])
        found = _speed.seconds(
            lambda: writer.write(self.length),
            prepare=writer.read,
            warmups=self.warmups,
            repeats=self.repeats,
        )
        rates = [self.batch * self.length / s for s in found]
        yield from _speed.median("decode_rate", rates, unit="tokens/s", goal="max")


class _Writer:
    """A network with a prompt in its cache."""

    def __init__(self, net: Any, prompt: torch.Tensor) -> None:
        self._net = net
        self._prompt = prompt
        self._seen: Any = None

    def read(self) -> None:
        """Fill the cache again: each run appends to it."""
        # Only the last position is predicted: a head over the whole prompt would use
        # memory for nothing.
        self._seen = self._net(input_ids=self._prompt, use_cache=True, logits_to_keep=1)

    def write(self, count: int) -> None:
        """Append ``count`` tokens, each the most likely one."""
        for _ in range(count):
            likeliest = self._seen.logits[:, -1:].argmax(-1)  # (B, 1)
            self._seen = self._net(
                input_ids=likeliest,
                past_key_values=self._seen.past_key_values,
                use_cache=True,
            )
