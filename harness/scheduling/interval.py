"""An estimate with its interval, and durations in readable units."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate: nine of ten outcomes are above ``low``, as many below ``high``."""

    low: float
    mid: float
    high: float

    def __add__(self, other: Interval) -> Interval:
        """The sum of two quantities whose errors go the same way."""
        return Interval(
            self.low + other.low, self.mid + other.mid, self.high + other.high
        )

    def __mul__(self, factor: float) -> Interval:
        """The quantity times a number that is known exactly."""
        return Interval(self.low * factor, self.mid * factor, self.high * factor)

    def wider(self, factor: float) -> Interval:
        """The same estimate, with both ends further away by ``factor``."""
        return Interval(self.low / factor, self.mid, self.high * factor)


def format_duration(seconds: float) -> str:
    """Seconds in the unit that a person would choose.

    >>> format_duration(0.0312), format_duration(12.3), format_duration(7384)
    ('31 ms', '12.3 s', '2 h 03 min')
    >>> format_duration(59.94), format_duration(75)
    ('59.9 s', '1 min 15 s')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60):02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
