"""A process above the driver, which says why Ray ended it where Ray does not.

If Ray's raylet dies while the driver registers with it, Ray ends the driver in C++ with
status 1 and a line of its log. Nothing in that process can change this, so that its
parent reports it, as an error of one line with status 2. And if a run is told to end
while Ray starts, Ray's library may crash when the process ends; the parent then ends
with the status of an interrupted run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from typing import IO

from harness.running.process import die_with_parent

GONE = (
    "Ray ended this run: its raylet on this machine ended while the run registered "
    "with it; finished trials are stored: run the same command again to resume"
)
USER_ERROR = 2  # exit status
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
INTERRUPTED = 130
_BEGUN, _OVER = b"[", b"]"  # of the time in which Ray may end the process
_TOLD = b"!"  # the process was told to end, and has said so
_CRASHES = (-signal.SIGABRT, -signal.SIGSEGV)
_above: list[tuple[int, IO[bytes]]] = []  # in the child: where it writes both


def supervise() -> None:
    """Continue in a child process, while this process waits and then ends as it does.

    To be called before any thread starts. It returns in the child only.
    """
    read, write = os.pipe()
    said = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - both processes keep it
    parent = os.getpid()
    child = os.fork()
    if child:
        os.close(write)
        _end_as(child, read, said)
    os.close(read)
    die_with_parent()
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    # A group of its own: Ctrl-C reaches the parent alone, which passes it on once.
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it may still print
    _above.append((write, said))


@contextlib.contextmanager
def joining() -> Iterator[None]:
    """Mark the time in which Ray may end this process without a message."""
    if not _above:  # without a supervisor
        yield
        return
    mark, said = _above[0]
    # What is printed meanwhile is kept: the parent drops it if Ray ends the process.
    sys.stderr.flush()
    stderr = os.dup(2)
    os.dup2(said.fileno(), 2)
    os.write(mark, _BEGUN)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        os.write(mark, _OVER)
        _relay(said)


def note_interrupt() -> None:
    """Tell the parent that this process has said that it was interrupted."""
    if _above:
        os.write(_above[0][0], _TOLD)


def _relay(said: IO[bytes]) -> None:
    said.seek(0)
    with contextlib.suppress(OSError):  # nobody reads
        os.write(2, said.read())
    said.seek(0)
    said.truncate()


def _end_as(child: int, read: int, said: IO[bytes]) -> None:
    """Wait for the child and end with its status; never returns."""
    for number in (*_FORWARDED, signal.SIGTSTP):
        # A shell ignores some of them for what runs in its background.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda got, _: _pass_on(got, child))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os.set_blocking(read, False)  # a process that the child left may keep the other end
    marks = b""
    with contextlib.suppress(BlockingIOError):
        marks = os.read(read, 1000)
    if marks.endswith(_BEGUN) and code == 1:
        os.write(2, f"error: {GONE}\n".encode())
        os._exit(USER_ERROR)
    if marks.endswith(_TOLD) and code in _CRASHES:
        os._exit(INTERRUPTED)
    if marks.endswith(_BEGUN):
        _relay(said)
    if code < 0:  # a signal ended it
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _pass_on(number: int, child: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        if number != signal.SIGTSTP:
            os.kill(child, number)
            return
        os.kill(child, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        os.kill(child, signal.SIGCONT)  # when the shell continues this process
