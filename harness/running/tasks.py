"""The work that an executor hands to a process: a bundle, or one artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

from harness.planning.messages import ArtifactJob, Built, Event, Job
from harness.planning.resources import ResourceRequest, shortage

if TYPE_CHECKING:
    from harness.running.global_state import GlobalState

# Free bytes of the device (None on a CPU) and of the host, and what this process holds.
FreeMemory = Callable[[], tuple[int | None, int, int]]


def bundle(
    job: Job, request: ResourceRequest, free: FreeMemory | None, *built: Built
) -> Iterator[list[Event]]:
    """Run a bundle if its memory is free; the events of quick trials come in batches.

    Args:
        job: The bundle of trials to run.
        request: What the bundle may use.
        free: Measures free memory; None asks the device.
        *built: How building the bundle's artifacts ended.

    Yields:
        The next events.
    """
    from harness.running import worker
    from harness.toolkit import devices

    device, host, held = (free or devices.free)()
    # Before anything is loaded: to run out of memory would cost the load and could end
    # the neighbours on the device.
    short = shortage(request, device, host, held)
    if short is not None:
        refused = Event(
            what="crashed",
            status="cancelled",
            error_class="insufficient_memory",
            summary=short,
        )
        yield [refused]
        return
    yield from worker.batches(job, built, _state())


@cache
def _state() -> GlobalState:
    """The state of this process, from before its first bundle."""
    from harness.running.global_state import GlobalState

    return GlobalState()


def artifact(job: ArtifactJob) -> Iterator[Built]:
    """Build one artifact.

    Args:
        job: The artifact to build.

    Yields:
        How it ended, once.
    """
    from harness.running import artifacts

    yield artifacts.produce(job)
