"""Latency of an image classifier."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from harness.core import Measurement, Model
from harness.registry import task
from tasks import _speed


@task("latency", kind="classifier", gives={"training_data"}, exclusive=True)
class Latency(_speed.Speed):
    """Milliseconds of one forward pass over a batch of images."""

    warmups: int = 10
    repeats: int = 50

    @torch.inference_mode()
    def evaluate(self, model: Model) -> Iterator[Measurement]:
        """Yield ``latency`` in milliseconds, and its spread."""
        inputs, net = _speed.batched(model, self.batch), model.net
        found = _speed.seconds(
            lambda: net(**inputs), warmups=self.warmups, repeats=self.repeats
        )
        times = [1000 * s for s in found]
        yield from _speed.median("latency", times, unit="ms", goal="min")
