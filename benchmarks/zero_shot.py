"""What lm-eval costs beside the forward pass, for the ratios of one bundle.

Run with the data sets in the cache (``HF_HUB_OFFLINE=1`` if there is no network):

    python benchmarks/zero_shot.py [--limit 100] [--method svd] [--model smollm2-135m]

The first ratio builds and tokenises the requests of every task; the others reuse them.
Seconds are of the processor, so that other work on the machine counts for little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from _figures import show
from torch import nn

from harness.core import Context
from harness.registry import resolve

TASKS = ("arc_easy", "piqa", "openbookqa", "winogrande")
RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4)


class Stopwatch:
    """Sums up the time inside a network's forward pass."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    @contextmanager
    def on(self, net: nn.Module) -> Iterator[None]:
        """Measure while the context is open."""
        handles = [
            net.register_forward_pre_hook(self._start),
            net.register_forward_hook(self._stop),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _start(self, *_: object) -> None:
        self._began = time.process_time()

    def _stop(self, *_: object) -> None:
        self.seconds += time.process_time() - self._began


def main() -> None:
    """Print one line a ratio, then the share after the first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--method", default="svd")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    family, implied = resolve("model", asked.model)
    model = family.build(implied).load()
    tasks = []
    for name in asked.tasks:
        plugin, implied = resolve("task", name)
        tasks.append(plugin.build({**implied, "limit": asked.limit}))
    method = resolve("method", asked.method)[0].build({})
    ctx = Context(model=model, seed=0, device=torch.device("cpu"))
    fitted = method.fit(model, ctx) if hasattr(method, "fit") else None
    print(f"{asked.model}, {asked.method}, {asked.limit} examples of each task")
    print("ratio   total s  forward s  other s  other %")
    later = [0.0, 0.0]
    for ratio in RATIOS:
        net = method.compress(fitted, ratio, ctx).eval()
        watch = Stopwatch()
        began = time.process_time()
        with watch.on(net):
            for task in tasks:
                list(task.evaluate(model.with_net(net)))
        total = time.process_time() - began
        other = total - watch.seconds
        if ratio != RATIOS[0]:
            later[0] += other
            later[1] += total
        print(
            f"{ratio:5.1f} {total:9.1f} {watch.seconds:10.1f} {other:8.1f} "
            f"{100 * other / total:8.1f}",
            flush=True,
        )
    what = "processor time after the first ratio that is not forward"
    show(what, 100 * later[0] / later[1], "%", side="most", bar=5)


if __name__ == "__main__":
    main()
