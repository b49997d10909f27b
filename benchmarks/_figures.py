"""Figures of benchmarks: how a script prints one, and how the table reads it again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Side = Literal["least", "most"]
RATIO = "x"  # the unit of a figure that two machines have in common

_LINE = re.compile(
    r"figure  (?P<name>.+): (?P<value>\S+) (?P<unit>\S+), "
    r"to reach: at (?P<side>least|most) (?P<bar>\S+)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number that a benchmark measures, with its bar.

    Args:
        name: What was measured, beside what.
        value: The median of the repeats.
        unit: ``x`` for a ratio of two times of one run; else ``s``, ``MB`` ...
        side: Whether the value should be at ``least`` or at ``most`` the bar.
        bar: What is to be reached.
    """

    name: str
    value: float
    unit: str
    side: Side
    bar: float

    @property
    def reached(self) -> bool:
        """Whether the value is on the right side of the bar."""
        least = self.side == "least"
        return self.value >= self.bar if least else self.value <= self.bar

    def worse_than(self, before: Figure) -> float:
        """By which share this figure is worse than an earlier one; negative: better.

        >>> one, two = (
        ...     Figure(name="a", value=v, unit="x", side="most", bar=1) for v in (2, 3)
        ... )
        >>> two.worse_than(one), one.worse_than(one)
        (0.5, 0.0)
        """
        if self.side == "least":
            return before.value / self.value - 1 if self.value else float("inf")
        return self.value / before.value - 1 if before.value else float("inf")

    def __str__(self) -> str:
        return (
            f"figure  {self.name}: {self.value:.3g} {self.unit}, "
            f"to reach: at {self.side} {self.bar:g}"
        )


def show(name: str, value: float, unit: str, *, side: Side, bar: float) -> None:
    """Print a figure on a line of its own, which `make bench` puts into its table."""
    print(Figure(name=name, value=value, unit=unit, side=side, bar=bar), flush=True)


def read(line: str) -> Figure | None:
    """The figure of a printed line, or None if it has none.

    >>> read("figure  engine beside Ray: 0.71 x, to reach: at least 0.7").reached
    True
    """
    found = _LINE.fullmatch(line.strip())
    if found is None:
        return None
    side: Side = "least" if found["side"] == "least" else "most"
    return Figure(
        name=found["name"],
        value=float(found["value"]),
        unit=found["unit"],
        side=side,
        bar=float(found["bar"]),
    )
