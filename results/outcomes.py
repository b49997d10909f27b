"""Every status of an attempt and every error class, with what follows from each."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """How an attempt ended; its value is what the column ``status`` holds.

    Attributes:
        finished: Whether the trial is done: it counts, and no run repeats it.
        colour: Colour in the live view.
        retry: Which run repeats the trial: ``always`` any run, ``never`` none; other
            names are values of the option ``--retry``.
        meaning: What it means for the next run, as ``shrinkgrid why`` prints it.
    """

    finished: bool
    colour: str
    retry: str
    meaning: str

    def __new__(
        cls, value: str, finished: bool, colour: str, retry: str, meaning: str
    ) -> Status:
        """Build a member; each needs all four properties."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.finished = finished
        member.colour = colour
        member.retry = retry
        member.meaning = meaning
        return member

    OK = "ok", True, "green", "never", "it will not run: it is finished"
    UNSUPPORTED = (
        "unsupported", True, "yellow", "all",
        "it will not run: the method, model and task do not go together",
    )  # fmt: skip
    FAILED = "failed", False, "red", "failed", "it runs only with --retry failed"
    OUT_OF_MEMORY = (
        "out_of_memory", False, "red", "oom", "it runs only with --retry oom"
    )  # fmt: skip
    TIMED_OUT = (
        "timed_out", False, "red", "timeout", "it runs only with --retry timeout"
    )  # fmt: skip
    CANCELLED = (
        "cancelled", False, "yellow", "always",
        "it will run: it was cancelled before it started",
    )  # fmt: skip
    LOST = (
        "lost", False, "yellow", "always",
        "it will run: its worker died before the result was stored",
    )  # fmt: skip

    @classmethod
    def of(cls, value: str) -> Status:
        """Return the status of a stored value; ``FAILED`` for an unknown one."""
        return next((one for one in cls if one == value), cls.FAILED)


class ErrorClass(StrEnum):
    """Why an attempt did not end ``ok``; its value is in the column ``error_class``.

    Attributes:
        status: Status of an attempt that ends with an exception of this class.
        tries: How often one run tries a trial, at least 1.
        wait: Seconds before the second try; the wait doubles with each further one.
        meaning: What happened.
    """

    status: Status
    tries: int
    wait: float
    meaning: str

    def __new__(
        cls, value: str, status: Status, tries: int, wait: float, meaning: str
    ) -> ErrorClass:
        """Build a member; each needs all four properties."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.status = status
        member.tries = tries
        member.wait = wait
        member.meaning = meaning
        return member

    BUG = "bug", Status.FAILED, 1, 0.0, "the code of a plugin or of the harness failed"
    SETUP = (
        "setup", Status.FAILED, 1, 0.0,
        "the input is wrong, or something is missing on the machine",
    )  # fmt: skip
    NAN = "nan", Status.FAILED, 1, 0.0, "a result is not finite"
    UNSUPPORTED = (
        "unsupported", Status.UNSUPPORTED, 1, 0.0,
        "the method, model and task do not go together",
    )  # fmt: skip
    TIMEOUT = "timeout", Status.TIMED_OUT, 1, 0.0, "the trial reached its time limit"
    OOM = (
        "oom",
        Status.OUT_OF_MEMORY,
        2,
        1.0,
        "host or device memory ran out",
    )
    INFRA = "infra", Status.FAILED, 3, 1.0, "a machine, a process or a network failed"
    CRASH = "crash", Status.LOST, 2, 1.0, "the process of the trial died"
    # The trial never started, so that a further try costs nothing.
    INSUFFICIENT_MEMORY = (
        "insufficient_memory", Status.CANCELLED, 6, 1.0,
        "less memory was free than the trial needs",
    )  # fmt: skip

    @classmethod
    def of(cls, value: str | None) -> ErrorClass:
        """Return the class of a stored value; ``BUG``, never retried, if unknown."""
        return next((one for one in cls if one == value), cls.BUG)


FINISHED = tuple(s for s in Status if s.finished)
REPEATED = frozenset(s for s in Status if s.retry == "always")
# Value of --retry -> the statuses that it selects.
RETRIES = {
    s.retry: (s,) for s in Status if s.retry not in ("always", "never", "all")
} | {"all": tuple(s for s in Status if s.retry not in ("always", "never"))}
