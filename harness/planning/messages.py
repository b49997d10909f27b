"""Messages between the driver and its workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.planning.plan import Artifact, Bundle
from harness.planning.resources import Placement
from harness.planning.trial import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A bundle to run, with everything that a worker needs to run it.

    Args:
        bundle: The trials that run on one worker.
        attempts: Trial id -> id of the attempt that this job makes of it.
        store: Path or URI of the store.
        grid: The grid's name, for the rows.
        run: Id of the run, which the lease of the job names.
        commit: Commit and dirty flag of the driver's checkout, for the rows.
        keep_models: Whether compressed networks are stored.
    """

    bundle: Bundle
    attempts: Mapping[str, str]
    store: str
    grid: str
    run: str
    commit: tuple[str | None, bool | None] = (None, None)
    keep_models: bool = False

    @property
    def key(self) -> str:
        """Tells this job from every other, also from one of the same trials."""
        # Attempts are made for one job only, so that the first one identifies it.
        return next(iter(self.attempts.values()))

    @property
    def name(self) -> str:
        """The file name of its lease, which no other job shares."""
        return f"{self.run}-{self.key}"

    def trial(self, trial: str) -> Trial:
        """The trial of an id; ``attempts`` are in the order of the trials."""
        return self.bundle.trials[list(self.attempts).index(trial)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactJob:
    """An artifact to build.

    Args:
        artifact: The dense checkpoint or the calibration statistics to build.
        store: Path or URI of the store.
        cpus: Number of processor threads that torch and BLAS use.
        run: Id of the run that asks for it, if one does.
        placement: Where the weights of the model are; see ``Resources``.
        gpus: Number of devices that the weights are spread over, if above 1.
    """

    artifact: Artifact
    store: str
    cpus: float = 1.0
    run: str = ""
    placement: Placement = "auto"
    gpus: float = 0.0


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
        what: ``started`` or ``ended``; ``returned`` for trials that it was asked to
            give back before they began; ``stopped`` when the store refused a row;
            ``crashed`` when the rest of the job has to run again.
        trial: The trial's id; empty for ``stopped``.
        trials: Ids of what is given back.
        status: Final status of the trial.
        seconds: How long it took.
        summary: ``perplexity 24.19``, or the reason of a failure.
        value: The primary metric; None where nothing ranks.
        goal: ``max`` or ``min``: what is better; empty where nothing ranks.
        at_chance: Whether the value is not better than guessing by more than two
            standard errors, as the view ``leaderboard`` flags it.
        error_class: Error class of a trial that failed; None for status ``ok``.
        warning: What a reader of its numbers must know, such as prompts that were cut.
        node: For a crash: Ray's id of the node that the worker ran on.
        details: The last output of a worker that died, with its last frames.
        poisoned: Whether the worker's process can run no further trial: CUDA does not
            work in it any more, or a plugin changed what cannot be put back.
        numbers: Seconds and bytes of a trial with status ``ok``, for the predictor.
    """

    what: str
    trial: str = ""
    trials: tuple[str, ...] = ()
    status: str = ""
    seconds: float = 0.0
    summary: str = ""
    value: float | None = None
    goal: str = ""
    at_chance: bool = False
    warning: str = ""
    error_class: str | None = None
    node: str = ""
    details: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    poisoned: bool = False


# The rest of a row would be sent to the driver for each of 100,000 trials.
# Columns of a row that a prediction of the next trial reads.
_READ = (
    "evaluate_seconds",
    "peak_memory_bytes",
    "peak_device_bytes",
    "params_dense",
    "bytes_dense",
    "threads",
)


def took(row: Mapping[str, Any], *, first: bool, new_ratio: bool) -> dict[str, float]:
    """The seconds and bytes of a trial's steps, as the view ``steps`` computes them.

    Args:
        row: Columns of the trial's row.
        first: Whether it loaded and fitted for its bundle.
        new_ratio: Whether this trial compressed a network.

    Returns:
        Values for ``Event.numbers``: seconds of the steps that this trial executed, and
        the columns of its row that the predictor reads.
    """
    numbers = {k: float(row[k]) for k in _READ if row.get(k) is not None}
    # The peak of one block at a time is not what the network needs on a device.
    if row.get("placement") == "blockwise":
        numbers.pop("peak_device_bytes", None)
    seconds, evaluate = row["seconds"], row.get("evaluate_seconds") or 0.0
    compress = row.get("compress_seconds") or 0.0
    # The first trial's seconds contain the load of the bundle, which has no column of
    # its own: it is what the measured steps leave.
    if first:
        fit = numbers["fit_seconds"] = row.get("fit_seconds") or 0.0
        numbers["load_seconds"] = max(0.0, seconds - fit - compress - evaluate)
        numbers["compress_seconds"] = compress
    elif new_ratio:
        # Also has the work around the compression, such as counting parameters. A
        # trial that reuses the compressed network tells only its evaluation.
        numbers["compress_seconds"] = max(compress, seconds - evaluate)
    return numbers
