"""What crosses between the driver and the workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.plan import Artifact, Bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A bundle to run, with everything that a worker needs to run it.

    Args:
        bundle: The trials.
        attempts: Trial id -> id of the attempt that this job makes of it.
        store: The store's URI.
        grid: The grid's name, for the rows.
        run: The run's id, for the marker that says what is in hand.
        commit: Commit and dirty flag of the driver's checkout, for the rows.
    """

    bundle: Bundle
    attempts: Mapping[str, str]
    store: str
    grid: str
    run: str
    commit: tuple[str | None, bool | None] = (None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactJob:
    """An artifact to build."""

    artifact: Artifact
    store: str
    cpus: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """How building an artifact ended; a failure becomes a row of each trial."""

    artifact: str
    seconds: float = 0.0
    reused: bool = False
    error: str | None = None
    error_class: str | None = None
    traceback: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One step of progress.

    Args:
        what: ``started`` or ``ended``; ``stopped`` when the store refused a row.
        trial: The trial's id; empty for ``stopped``.
        status: How it ended.
        seconds: How long it took.
        headline: ``perplexity 24.19``, or the reason of a failure.
    """

    what: str
    trial: str = ""
    status: str = ""
    seconds: float = 0.0
    headline: str = ""
    error_class: str | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
