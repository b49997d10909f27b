"""What an exception means for a trial: its status, its class, its reason."""

from __future__ import annotations

import os
import re
import traceback
from dataclasses import dataclass

from harness.core import BenchError, NotFinite, Unsupported
from harness.toolkit import devices
from results.outcomes import ErrorClass

MAX_TRACEBACK = 8000  # characters; the end says most
_SECRET = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|CREDENTIAL", re.I
)


class TimedOut(BaseException):
    """The time limit of a trial; no ``except Exception`` of a plugin swallows it."""


class ArtifactFailed(Exception):
    """An artifact that a bundle needs could not be built, and of which class why is."""

    def __init__(self, reason: str, error_class: str) -> None:
        super().__init__(reason)
        self.error_class = error_class


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How a trial failed, in the columns of its row."""

    status: str
    error_class: str
    reason: str
    traceback: str | None = None


def classify(error: BaseException) -> Failure:
    """The status and class of an exception, with secrets taken out of its words.

    Args:
        error: What a plugin, torch or the clock raised.

    Returns:
        The failure; only a bug keeps its traceback.
    """
    reason = redact(str(error).strip() or type(error).__name__)
    error_class = _class(error)
    if error_class in ("oom", "infra", "bug"):
        reason = f"{type(error).__name__}: {reason}"
    text = "".join(traceback.format_exception(error)) if error_class == "bug" else ""
    return Failure(
        status=ErrorClass.of(error_class).status,
        error_class=error_class,
        reason=reason,
        traceback=redact(text)[-MAX_TRACEBACK:] or None,
    )


def _class(error: BaseException) -> str:
    """Which of the classes an error is of; retries go by it."""
    if isinstance(error, ArtifactFailed):
        return error.error_class
    if devices.out_of_memory(error):
        return "oom"
    classes: tuple[tuple[str, tuple[type[BaseException], ...]], ...] = (
        ("timeout", (TimedOut,)),
        ("unsupported", (Unsupported,)),
        ("nan", (NotFinite,)),
        ("setup", (BenchError,)),
        ("infra", (ConnectionError, TimeoutError)),
    )
    return next((name for name, kinds in classes if isinstance(error, kinds)), "bug")


def redact(text: str) -> str:
    """``text`` without the values of environment variables that hold secrets."""
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET.search(name):
            text = text.replace(value, f"<{name}>")
    return text
