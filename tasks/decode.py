"""Generation speed of a language model: tokens per second with a cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from harness.core import Measurement, Model
from harness.registry import task
from tasks import _compiled, _speed


@task("decode", kind="causal_lm", exclusive=True, version=2)
class Decode(_compiled.Compilable):
    """Speed of greedy decoding: the first token of a prompt, and those that follow.

    A run reads the prompt and writes a first token, whose time is ``ttft``. It then
    writes ``length`` more, one forward pass each, with a KV cache. Their times are
    ``itl``, and ``decode_rate`` is ``batch * length`` divided by the sum of these
    times, so that reading the prompt does not count. The device is idle between two
    tokens, as it is in a program that looks at each token before it goes on.

    With ``compile`` the KV cache has the size of all tokens from the beginning (the
    static cache of transformers), since compiled code is for one shape.

    Args:
        prompt: Number of tokens that are in the cache before the measurement.
        length: Number of tokens that are generated after the first one.
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
        """Yield ``decode_rate`` (tokens per second), ``ttft`` and ``itl`` (ms)."""
        whole = _speed.tokens(model, self.batch, self.prompt + self.length)
        net = _compiled.compiled(model.net) if self.compile else model.net
        writer = _Writer(net, whole[:, : self.prompt])
        built = []
        if self.compile:
            writer.fix_cache(self.prompt + self.length)
            built = [_compiled.first(model.name, writer.rehearse)]
        found = _speed.laps(
            lambda: writer.write(self.length),
            warmups=self.warmups,
            repeats=self.repeats,
        )
        rates = [self.batch * self.length / sum(lap[1:]) for lap in found]
        yield from _speed.median("decode_rate", rates, unit="tokens/s", goal="max")
        waited = [1000 * lap[0] for lap in found]
        yield from _speed.median("ttft", waited, unit="ms", goal="min")
        between = [1000 * s for lap in found for s in lap[1:]]
        yield from _speed.median("itl", between, unit="ms", goal="min")
        yield from built


class _Writer:
    """Writes the most likely tokens after a prompt."""

    def __init__(self, net: Any, prompt: torch.Tensor) -> None:
        self._net = net
        self._prompt = prompt
        self._cache: Any = None  # the network makes one that grows

    def fix_cache(self, size: int) -> None:
        """Keep one cache for all runs, of a fixed number of tokens."""
        from transformers import StaticCache

        self._cache = StaticCache(self._net.config, max_cache_len=size)

    def rehearse(self) -> None:
        """Run on every shape: the prompt, and one token."""
        # The cache gets its memory in its first run, which compiles to code of its own.
        for _ in range(2):
            list(self.write(1))

    def write(self, count: int) -> Iterator[torch.Tensor]:
        """Start a run.

        Args:
            count: Number of tokens to write after the first one.

        Returns:
            The tokens, each of shape ``(batch, 1)``; the first one takes the prompt.
        """
        if self._cache is not None:
            self._cache.reset()
        return self._tokens(count)

    def _tokens(self, count: int) -> Iterator[torch.Tensor]:
        given, cache = self._prompt, self._cache
        for _ in range(count + 1):
            # Only the last position is predicted: a head over the whole prompt would
            # use memory for nothing.
            seen = self._net(
                input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            cache, given = seen.past_key_values, seen.logits[:, -1:].argmax(-1)
            yield given
