"""Peak memory of a network while it runs."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from harness.core import Measurement, Model
from harness.registry import task
from harness.toolkit import devices
from tasks import _speed


@task("memory", kind="any", gives={"training_data"}, exclusive=True, version=2)
class Memory(_speed.Speed):
    """Peak bytes of one forward pass: the weights, and everything allocated meanwhile.

    On a GPU the allocator's own count is used. On a CPU torch's record of every
    allocation is used, which does not depend on what the process did before; scratch
    space inside a kernel is not included.
    """

    warmups: int = 1
    repeats: int = 3

    @torch.inference_mode()
    def evaluate(self, model: Model) -> Iterator[Measurement]:
        """Yield ``peak``, which is the sum of ``weights`` and ``running``."""
        inputs, net = _speed.batched(model, self.batch), model.net
        for _ in range(self.warmups):
            net(**inputs)
        peaks = [running(lambda: net(**inputs)) for _ in range(self.repeats)]
        own = weights(net)
        totals = [float(own + p) for p in peaks]
        yield from _speed.median("peak", totals, unit="B", goal="min")
        yield Measurement(metric="weights", value=own, unit="B")
        running_bytes = statistics.median(peaks)  # as of the peak
        yield Measurement(metric="running", value=running_bytes, unit="B")


def weights(net: nn.Module) -> int:
    """Bytes of parameters and buffers in memory, shared ones counted once."""
    # By the address of the storage: tied weights and views share one.
    found = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in [*net.parameters(), *net.buffers()]
    }
    return sum(found.values())


def running(run: Callable[[], object]) -> int:
    """The largest number of bytes that ``run`` held at once, beside earlier ones.

    Args:
        run: The work; its result is included while it is computed.

    Returns:
        The peak in bytes, without what was allocated before.
    """
    device = devices.pick()
    if device.type == "cuda":
        # What is there already, the weights included, is not counted here.
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        devices.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device)) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would greet on stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    result = record.profiler
    assert result is not None
    # Every allocation and release in order of time, with a negative number of bytes for
    # a release: the largest running sum is the peak.
    events = [
        (e.start_ns(), e.nbytes())
        for e in result.kineto_results.events()
        if e.name() == "[memory]"
    ]
    held = peak = 0
    for _, nbytes in sorted(events, key=lambda event: event[0]):
        held += nbytes
        peak = max(peak, held)
    return peak
