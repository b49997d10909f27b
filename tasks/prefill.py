"""Prompt processing speed of a language model: tokens per second."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from harness.core import Measurement, Model
from harness.registry import task
from tasks import _compiled, _speed


@task("prefill", kind="causal_lm", exclusive=True)
class Prefill(_compiled.Compilable):
    """Tokens per second of one forward pass over a prompt; only the last is predicted.

    Args:
        length: Number of tokens of each sequence.
    """

    length: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length < 1:
            raise ValueError(f"length {self.length} is not 1 or more tokens")

    @torch.inference_mode()
    def evaluate(self, model: Model) -> Iterator[Measurement]:
        """Yield ``prefill_rate`` in tokens per second, and its spread."""
        ids = _speed.tokens(model, self.batch, self.length)
        net = _compiled.compiled(model.net) if self.compile else model.net

        def read() -> object:
            return net(input_ids=ids, use_cache=True, logits_to_keep=1)

        built = [_compiled.first(model.name, read)] if self.compile else []
        found = _speed.seconds(read, warmups=self.warmups, repeats=self.repeats)
        rates = [ids.numel() / s for s in found]
        yield from _speed.median("prefill_rate", rates, unit="tokens/s", goal="max")
        yield from built
