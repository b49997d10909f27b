"""Events of a job that its driver gets together."""

from __future__ import annotations

import time

from harness.planning.messages import Event

QUICK = 0.05  # seconds; events and rows of shorter trials come in batches
FLUSH = 0.2  # seconds between two batches


class Batch:
    """The events that the driver does not know of yet.

    Each message costs the driver more than a quick trial costs the worker.

    Args:
        quick: Seconds; trials that take less on average come in batches.
        flush: Seconds between two batches.
    """

    def __init__(self, *, quick: float, flush: float) -> None:
        self.quick = quick
        self.flush = flush
        self.events: list[Event] = []  # those that wait, the oldest first
        self._began = self._taken = time.perf_counter()
        self._ended = 0  # trials, of this batch and those before

    def add(self, event: Event) -> bool:
        """Add an event; whether it and those before it are to be sent now."""
        self.events.append(event)
        self._ended += event.what == "ended"
        # On average each trial so far took more than ``quick``: the next one may run
        # for long.
        took = time.perf_counter() - self._began
        slow = event.what == "started" and took > self.quick * self._ended
        return slow or event.what == "returned" or self.late()

    def late(self) -> bool:
        """Whether the last batch was sent so long ago that the next event is sent."""
        return time.perf_counter() - self._taken >= self.flush

    def take(self) -> list[Event]:
        """The events so far; an empty batch begins."""
        taken, self.events, self._taken = self.events, [], time.perf_counter()
        return taken
