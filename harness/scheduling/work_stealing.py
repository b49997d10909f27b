"""Moves trials from bundles that run long to idle slots."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from heapq import nlargest

from harness.planning.messages import Event
from harness.planning.plan import Bundle
from harness.planning.trial import Trial
from harness.scheduling.packing import Packer

SAVES = 10.0  # seconds by which a move must shorten a bundle
# Seconds between two searches, plus seconds for each running bundle, since a search
# predicts the cost of every one of them.
EVERY, A_BUNDLE = 2.0, 0.01


@dataclass(slots=True)
class _Held:
    """A bundle that a worker has.

    Args:
        bundle: The bundle as it was handed over.
        left: Trials that neither ended nor were returned; the first one is running.
        parts: Into how many bundles the requested trials will go; 0 if none were
            requested, or if they were returned.
    """

    bundle: Bundle
    left: list[Trial]
    parts: int = 0


class WorkStealing:
    """Chooses the bundles that should return trials, and the trials.

    A worker reads the request between two trials. Only the worker knows what it has
    started, so that a returned trial has not started anywhere. Returned trials run on
    idle slots, where load and fit are repeated; their number is chosen so that the
    worker and the idle slots end at the same time.

    Args:
        packer: Predicts the cost of the remaining trials.
    """

    def __init__(self, packer: Packer) -> None:
        self.packer = packer
        self._held: dict[Hashable, _Held] = {}
        self._next = 0.0

    def add(self, job: Hashable, bundle: Bundle) -> None:
        """Starts to follow a job that was handed over."""
        self._held[job] = _Held(bundle, list(bundle.trials))

    def observe(self, job: Hashable, events: Iterable[Event]) -> list[Event]:
        """Follows the progress of a job.

        Args:
            job: A job that was added.
            events: The events of its worker, in order.

        Returns:
            The same events, except that returned trials are split into one event for
            each idle slot, since each event becomes one bundle.
        """
        held = self._held[job]
        told: list[Event] = []
        for event in events:
            gone = set(event.trials) or {event.trial}
            if event.what in ("ended", "returned"):
                held.left = [t for t in held.left if t.id not in gone]
            if event.what != "returned":
                told.append(event)
                continue
            size = math.ceil(len(event.trials) / max(1, held.parts))
            for start in range(0, len(event.trials), size):
                part = event.trials[start : start + size]
                told.append(replace(event, trials=part))
            held.parts = 0
        return told

    def drop(self, job: Hashable) -> bool:
        """Forgets a job that ended; returns whether it ignored a request for trials."""
        return self._held.pop(job).parts > 0

    def due(self, now: float) -> dict[Hashable, tuple[str, ...]]:
        """Chooses trials to request, when slots are idle and no bundle waits for them.

        Args:
            now: Seconds of any monotonic clock.

        Returns:
            Job -> ids of the trials that it should return. A job that did not answer
            its last request yet gets no second one.
        """
        if now < self._next:
            return {}
        self._next = now + max(EVERY, A_BUNDLE * len(self._held))
        # Slots that requested trials will occupy are no longer idle.
        width = self.packer.width([h.bundle for h in self._held.values()])
        asked = sum(h.parts for h in self._held.values())
        idle = width - len(self._held) - asked
        if idle < 1:
            return {}
        # The longest tails are shortened first, since they decide when the plan ends.
        # With more idle slots than bundles, each bundle gets an equal number of them.
        free = [j for j, h in self._held.items() if not h.parts]
        tails = {j: tail for j in free if (tail := self._tail(self._held[j], 1))}
        longest = nlargest(idle, tails, lambda j: tails[j].seconds)
        slots = idle // max(1, len(longest))
        found = {}
        for job in longest:
            tail = self._tail(self._held[job], slots) or tails[job]
            self._held[job].parts = tail.parts
            found[job] = tail.trials
        return found

    def _tail(self, held: _Held, slots: int) -> _Tail | None:
        """The trials to move to so many idle slots; None if that saves too little."""
        rest = held.left[1:]  # without the running trial
        if not rest or held.bundle.exclusive:
            return None
        need = self.packer.need(held.bundle.part(tuple(rest)))
        seconds = need.seconds.mid - need.setup
        if need.guessed or seconds <= 0:
            return None
        # The worker keeps ``seconds - count * each``. A slot takes ``setup`` for load
        # and fit and ``count / slots`` trials. Both end together for this count.
        each = seconds / len(rest)
        count = round((seconds - need.setup) / (each * (1 + 1 / slots)))
        count = min(count, len(rest))
        size = math.ceil(count / slots)
        ends = max(seconds - count * each, need.setup + size * each)
        if count < 1 or seconds - ends < SAVES:
            return None
        # The last trials, which the worker would start last.
        trials = tuple(t.id for t in rest[-count:])
        return _Tail(seconds, trials, math.ceil(count / size))


@dataclass(frozen=True, slots=True)
class _Tail:
    """The trials that a bundle should return.

    Args:
        seconds: Predicted seconds of all trials of the bundle that have not started.
        trials: The ids of the trials to return.
        parts: Into how many bundles they go.
    """

    seconds: float
    trials: tuple[str, ...]
    parts: int
