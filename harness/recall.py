"""Takes trials back from bundles that run long while slots are idle."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from heapq import nlargest

from harness.events import Event
from harness.packing import Packer
from harness.plan import Bundle
from harness.trial import Trial

SAVES = 10.0  # seconds that taking trials back must save
EVERY = 2.0  # seconds between two looks, and more with many bundles
A_BUNDLE = 0.01


@dataclass(slots=True)
class _Held:
    """A bundle that a worker has."""

    bundle: Bundle
    left: list[Trial]  # neither ended nor given back; the first is in hand
    asked: bool = False


class Recall:
    """Which bundles should give trials back, and which of them.

    A worker obeys between two trials: it alone knows what it has begun, so what it
    gives back has not begun anywhere. The rest of the bundle goes to an idle slot,
    where load and fit are repeated; so much is taken that both end together.

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

    def hear(self, job: Hashable, events: Iterable[Event]) -> None:
        """A job told how it goes."""
        held = self._held[job]
        for event in events:
            gone = set(event.trials) or {event.trial}
            if event.what in ("ended", "returned"):
                held.left = [t for t in held.left if t.id not in gone]
            if event.what == "returned":
                held.asked = False

    def drop(self, job: Hashable) -> bool:
        """A job is over; whether it was asked for something that it did not give."""
        return self._held.pop(job).asked

    def due(self, now: float) -> dict[Hashable, tuple[str, ...]]:
        """What to ask back, now that slots are idle and nothing waits for them.

        Args:
            now: Seconds of any clock.

        Returns:
            Job -> ids of the trials that it should give back; each is asked once.
        """
        if now < self._next:
            return {}
        self._next = now + max(EVERY, A_BUNDLE * len(self._held))
        width = self.packer.width([h.bundle for h in self._held.values()])
        asked = sum(h.asked for h in self._held.values())
        idle = width - len(self._held) - asked
        if idle < 1:
            return {}
        tails = {j: self._tail(h) for j, h in self._held.items() if not h.asked}
        longest = nlargest(idle, (j for j in tails if tails[j][1]), lambda j: tails[j])
        for job in longest:
            self._held[job].asked = True
        return {job: tails[job][1] for job in longest}

    def _tail(self, held: _Held) -> tuple[float, tuple[str, ...]]:
        """Seconds of what has not begun, and its tail that should go elsewhere."""
        nothing: tuple[float, tuple[str, ...]] = (0.0, ())
        rest = held.left[1:]
        if not rest or held.bundle.exclusive:
            return nothing
        need = self.packer.need(held.bundle.part(tuple(rest)))
        seconds = need.seconds.mid - need.setup
        if need.guessed or seconds <= 0:
            return nothing
        each = seconds / len(rest)
        count = round((seconds - need.setup) / (2 * each))
        ends = max(seconds - count * each, need.setup + count * each)
        if count < 1 or seconds - ends < SAVES:
            return nothing
        return seconds, tuple(t.id for t in rest[-count:])
