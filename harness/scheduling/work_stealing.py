"""Takes trials back from bundles that run long while slots are idle."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from heapq import nlargest

from harness.planning.messages import Event
from harness.planning.plan import Bundle
from harness.planning.trial import Trial
from harness.scheduling.packing import Packer

SAVES = 10.0  # seconds that taking trials back must save
EVERY = 2.0  # seconds between two looks, and more with many bundles
A_BUNDLE = 0.01


@dataclass(slots=True)
class _Held:
    """A bundle that a worker has."""

    bundle: Bundle
    left: list[Trial]  # neither ended nor given back; the first is in hand
    parts: int = 0  # that go to idle slots of what it was asked for; 0 for nothing


class WorkStealing:
    """Which bundles should give trials back, and which of them.

    A worker obeys between two trials: it alone knows what it has begun, so what it
    gives back has not begun anywhere. The rest of the bundle goes to idle slots, where
    load and fit are repeated; so much is taken that all end together.

    Args:
        packer: Predicts what is left.
    """

    def __init__(self, packer: Packer) -> None:
        self.packer = packer
        self._held: dict[Hashable, _Held] = {}
        self._next = 0.0

    def add(self, job: Hashable, bundle: Bundle) -> None:
        """A job was handed over."""
        self._held[job] = _Held(bundle, list(bundle.trials))

    def observe(self, job: Hashable, events: Iterable[Event]) -> list[Event]:
        """A job told how it goes.

        Args:
            job: The job.
            events: As its worker sent them.

        Returns:
            The same; trials that it gave back one event for each idle slot.
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
        """A job is over; whether it was asked for something that it did not give."""
        return self._held.pop(job).parts > 0

    def due(self, now: float) -> dict[Hashable, tuple[str, ...]]:
        """What to request back, now that slots are idle and nothing waits for them.

        Args:
            now: Seconds of any clock.

        Returns:
            Job -> ids of the trials that it should give back; each is asked once.
        """
        if now < self._next:
            return {}
        self._next = now + max(EVERY, A_BUNDLE * len(self._held))
        width = self.packer.width([h.bundle for h in self._held.values()])
        asked = sum(h.parts for h in self._held.values())
        idle = width - len(self._held) - asked
        if idle < 1:
            return {}
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
        """What should go to so many idle slots; None where that saves too little."""
        rest = held.left[1:]
        if not rest or held.bundle.exclusive:
            return None
        need = self.packer.need(held.bundle.part(tuple(rest)))
        seconds = need.seconds.mid - need.setup
        if need.guessed or seconds <= 0:
            return None
        each = seconds / len(rest)
        count = round((seconds - need.setup) / (each * (1 + 1 / slots)))
        count = min(count, len(rest))
        size = math.ceil(count / slots)
        ends = max(seconds - count * each, need.setup + size * each)
        if count < 1 or seconds - ends < SAVES:
            return None
        trials = tuple(t.id for t in rest[-count:])
        return _Tail(seconds, trials, math.ceil(count / size))


@dataclass(frozen=True, slots=True)
class _Tail:
    """What a bundle should give back.

    Args:
        seconds: Of everything that it has not begun.
        trials: The ids.
        parts: Into how many bundles they go.
    """

    seconds: float
    trials: tuple[str, ...]
    parts: int
