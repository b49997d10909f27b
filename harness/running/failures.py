"""Turns an exception into the failure of a trial: status, error class and reason."""

from __future__ import annotations

import contextlib
import errno
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core import BenchError, NotFinite, Unsupported
from harness.declarations import WrongDeclaration
from harness.running import process
from results.errors import StoreError
from results.outcomes import ErrorClass
from results.storage import temporary
from results.storage.folder import explained
from results.storage.store import Store
from results.text.clean import plain
from results.text.secrets import redact

MAX_TRACEBACK = 8000  # characters; the last ones are kept
MAX_REASON = 2000  # characters
OUTPUT = "--- last output ---"  # heads what a trial wrote, in its traceback
_PROBE = 8 * 2**20  # bytes that a disk with space left takes


class TimedOut(BaseException):
    """A trial reached its time limit; ``except Exception`` does not catch it."""


class Interrupted(KeyboardInterrupt):
    """A person pressed Ctrl-C. What a plugin raises itself is another class."""


class StoreFailed(BaseException):
    """The store's own input or output failed, which ends the run.

    Not an ``Exception``, so that a plugin that reads the store through its context
    does not catch it.

    Args:
        why: The error of the store.
    """

    def __init__(self, why: StoreError) -> None:
        super().__init__(str(why))
        self.why = why


class Failed(Exception):
    """A step failed that several trials share; each trial raises this again.

    Args:
        failure: The failure, as text: it keeps no frame and no tensor alive.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class Damaged(Exception):
    """A plugin changed an object that it shares with other trials."""


class ArtifactFailed(Exception):
    """An artifact that a bundle needs could not be built.

    Args:
        reason: Why the artifact was not built.
        error_class: The error class of the failure.
    """

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


@contextlib.contextmanager
def store_io() -> Iterator[None]:
    """Mark the store's own input and output, the only errors that end a run.

    Raises:
        StoreFailed: If the body raised ``StoreError``.
    """
    try:
        yield
    except StoreError as why:
        raise StoreFailed(why) from why


def check_space(error: BaseException, store: Store) -> None:
    """End the run if a disk that it needs is full and not just said to be.

    Args:
        error: What a plugin raised. Its class and text prove nothing, so that a file
            is written where trials keep their checkpoints, and one where they print.
        store: Store whose disk is checked.

    Raises:
        StoreFailed: If one of these files does not fit either.
    """
    full = (errno.ENOSPC, errno.EDQUOT)
    # Libraries wrap the error of the system, so that its text is looked for, too.
    said = isinstance(error, OSError) and error.errno in full
    if not said and os.strerror(errno.ENOSPC) not in _text(error):
        return
    with store_io():
        try:
            _write_probe(store.here("scratch"))
        except OSError as why:
            raise explained(why, store.uri) from why
        printed = process.output_folder()
        try:
            if printed is not None:
                _write_probe(printed)
        except OSError as why:
            raise StoreError(
                f"the temporary folder {printed} cannot be written to: {why.strerror}; "
                "finished trials are stored: free some space, or set TMPDIR to another "
                "folder, and run the same command again"
            ) from why


def _write_probe(folder: Path) -> None:
    path = temporary.beside(folder / "space")
    try:
        # 8 MiB of zeros, since a nearly full disk still has room for a short file.
        path.write_bytes(bytes(_PROBE))
    finally:
        path.unlink(missing_ok=True)


def classify(error: BaseException) -> Failure:
    """Describe an exception, without secrets and without control characters.

    The frames of the exception are cleared: it keeps no tensor alive afterwards.

    Args:
        error: What a plugin, torch or the time limit raised.

    Returns:
        The failure; only a bug keeps its traceback.
    """
    if isinstance(error, Failed):
        return error.failure
    reason = _text(error) or type(error).__name__
    error_class = _class(error)
    if error_class in ("oom", "infra", "bug"):
        reason = f"{type(error).__name__}: {reason}"
    # Formatted before the frames are cleared, which removes the local variables only.
    text = "".join(traceback.format_exception(error)) if error_class == "bug" else ""
    # A traceback holds every local variable of every frame: after running out of
    # memory, the tensors that filled it. Without this the next trial of the process
    # would fail, too.
    forget_frames(error)
    return Failure(
        status=ErrorClass.of(error_class).status,
        error_class=error_class,
        reason=clean(reason)[:MAX_REASON],
        traceback=clean(text)[-MAX_TRACEBACK:] or None,
    )


def with_output(failure: Failure, output: str) -> Failure:
    """Add to a bug's traceback what the trial wrote before it failed.

    Args:
        failure: The failure whose traceback is extended.
        output: The last lines of its output.

    Returns:
        The failure, unchanged for other classes and without output.
    """
    said = clean(output).strip()
    if failure.error_class != "bug" or not said:
        return failure
    return replace(failure, traceback=f"{failure.traceback or ''}\n{OUTPUT}\n{said}")


def forget_frames(error: BaseException) -> None:
    """Drop the local variables that an exception and its causes hold."""
    left: list[BaseException | None] = [error]
    # Causes may form a cycle.
    seen: set[int] = set()
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        traceback.clear_frames(one.__traceback__)
        one.__traceback__ = None
        left += [one.__cause__, one.__context__]
        left += getattr(one, "exceptions", ())  # of an exception group


def _text(error: BaseException) -> str:
    """The text of an exception, also of one whose ``str`` raises."""
    try:
        return str(error).strip()
    except BaseException as why:
        return f"(its text cannot be shown: str raised {type(why).__name__})"


def _class(error: BaseException) -> str:
    """Return the error class, which decides whether a trial is tried again."""
    if isinstance(error, ArtifactFailed):
        return error.error_class
    if isinstance(error, StoreError):  # the store's own errors never come here
        return "bug"
    from harness.toolkit import devices  # imports torch

    with contextlib.suppress(BaseException):  # its ``str`` may raise
        # Before the table of classes: torch reports it as a RuntimeError, whose text
        # decides.
        if devices.out_of_memory(error):
            return "oom"
    classes: tuple[tuple[str, tuple[type[BaseException], ...]], ...] = (
        ("timeout", (TimedOut,)),
        ("bug", (WrongDeclaration,)),
        ("unsupported", (Unsupported,)),
        ("nan", (NotFinite,)),
        ("setup", (BenchError,)),
        ("infra", (ConnectionError, TimeoutError)),
    )
    # The first match counts, should an exception of a plugin belong to two.
    return next((name for name, kinds in classes if isinstance(error, kinds)), "bug")


def clean(text: str) -> str:
    """Text for a row: without secrets of the environment and control characters."""
    return plain(redact(text))
