"""Logs: what the process of a bundle printed, one text file for each job.

A file is ``logs/BUNDLE-RUN-KEY.log``, where RUN-KEY is the name of the job. A line
that begins with ``MARK`` names the attempt and the trial that began there.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from results.storage import leases
from results.storage.store import Store
from results.text.secrets import redact

MARK = "\x1e"  # a record separator: programs print none
LARGEST = 2**20  # bytes of a log: half from its beginning, half from its end
_LEFT_OUT = "bytes are left out here"
_BEGUN = re.compile(rf"{MARK}(\w+) (\w+)\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """One stored log.

    Args:
        name: File name in the store's folder ``logs``.
        text: What was printed, with the lines that begin with ``MARK``.
    """

    name: str
    text: str

    def begins(self, attempt: str) -> bool:
        """Whether an attempt began while this was printed."""
        return any(one[1] == attempt for one in _BEGUN.finditer(self.text))

    def sections(self) -> Iterator[tuple[str, str]]:
        """Trial and text of each part; the part before the first trial has no trial."""
        # With two groups in the pattern: text, attempt, trial, text, attempt, trial,
        # text ...
        parts = _BEGUN.split(self.text)
        yield "", parts[0]
        yield from zip(parts[2::3], parts[3::3], strict=True)


def begun(attempt: str, trial: str) -> str:
    """The line that a process prints where an attempt begins.

    Args:
        attempt: Id of the attempt.
        trial: Id of its trial.

    Returns:
        The line, with its newline.
    """
    return f"{MARK}{attempt} {trial}\n"


def without_marks(text: str) -> str:
    """A log without the lines of ``begun``."""
    return _BEGUN.sub("", text)


def bounded(file: IO[bytes]) -> str:
    """The beginning and the end of what was printed, without secrets.

    Args:
        file: Where it was printed to; read only.

    Returns:
        At most ``LARGEST`` bytes, cut at the ends of lines, and a line that says how
        much is left out. Empty if nothing but marks was printed.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if size <= LARGEST:
        text = file.read(size).decode(errors="replace")
    else:
        head = file.read(LARGEST // 2)
        file.seek(size - LARGEST // 2)
        tail = file.read(LARGEST // 2)
        # Cut at line ends, so that no half of a secret or of a character is left.
        head = head[: head.rfind(b"\n") + 1] or head
        tail = tail[tail.find(b"\n") + 1 :]
        left = size - len(head) - len(tail)
        text = head.decode(errors="replace")
        text += f"... {left:,} {_LEFT_OUT} ...\n"
        text += tail.decode(errors="replace")
    return redact(text) if without_marks(text).strip() else ""


def write(store: Store, bundle: str, job: str, text: str) -> None:
    """Store the log of a job; replaces what was stored of it before.

    Args:
        store: Where to store it.
        bundle: Id of the job's bundle.
        job: Name of the job.
        text: What the job printed, as ``bounded`` returns it.

    Raises:
        StoreError: If the store cannot be written.
    """
    store.folder.write(f"logs/{bundle}-{job}.log", text.encode(errors="replace"))


def of_attempts(
    store: Store, attempts: Sequence[tuple[str, str]], names: Sequence[str]
) -> Log | None:
    """The log of the newest attempt that has one.

    Args:
        store: Where the log is.
        attempts: Pairs of attempt and bundle, the newest first.
        names: File names of all logs, as ``names`` returns them.

    Returns:
        The log, or None.
    """
    cut = None
    for attempt, bundle in attempts:
        # A bundle has a log for each job; the newest job comes last by name.
        for name in reversed([n for n in names if n.startswith(f"{bundle}-")]):
            log = _read(store, name)
            if log is not None and log.begins(attempt):
                return log
            if log is not None and _LEFT_OUT in log.text:
                cut = cut or log  # the mark of the attempt may be what is left out
    return cut


def of_running(store: Store, trial: str) -> tuple[leases.Lease | None, Log | None]:
    """The job that has a trial now, and its log so far.

    Args:
        store: Where the job writes.
        trial: Id of the trial.

    Returns:
        The lease of the job, None if no job has the trial; its log, None if nothing
        is stored of it yet.
    """
    for lease in leases.read_all(store):
        if trial in {one for _, one in lease.attempts}:
            # The lease has the job's name; the bundle before it is not needed.
            end = f"-{lease.job}.log"
            found = [name for name in names(store) if name.endswith(end)]
            return lease, _read(store, found[0]) if found else None
    return None, None


def names(store: Store) -> list[str]:
    """The file names of all logs, sorted."""
    return store.folder.names("logs")


def _read(store: Store, name: str) -> Log | None:
    content = store.folder.read(f"logs/{name}")
    if content is None:
        return None
    return Log(name=name, text=content.decode(errors="replace"))
