"""Runs plugins in processes of their own, so that no method can spoil another.

Three processes take part. The *owner*, a worker of an executor, never imports a plugin
and survives every end of one. The *template* is a Python that has imported torch and
the engine and runs nothing. A *child* is forked from the template for one key (a method
with its options, on one model and its tasks) and runs all work of that key; work of
another key gets a new child. A fork costs a few milliseconds where a new Python would
need seconds to import torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import fcntl
import gc
import importlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, Protocol

from harness.running.process_end import described, kernel_kills
from results.errors import StoreError
from results.outcomes import ErrorClass
from results.storage import logs

TAIL = 4000  # characters of a dead child's last output that a row keeps
# Third-party packages that plugins import. The template imports what a child of it
# needed before it forks the next one; it never imports a plugin.
_HEAVY = ("transformers", "datasets", "lm_eval", "sklearn", "scipy", "peft", "PIL")
_PRELOAD = "harness.running.worker", "harness.running.tasks"
OUTPUT = "SHRINKGRID_OUTPUT"  # set in a child, whose stderr is a file
_LOOK = 1.0  # seconds between two looks at what a child printed
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_TEMPLATE = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from harness.running import process
process.serve_template(int(sys.argv[1]))
"""

Work = Callable[..., Iterator[Any]]


class Log(Protocol):
    """Gets what a child prints, while it works and when its work has ended."""

    def look(self, printed: IO[bytes]) -> None:
        """Called about every second with all that was printed for this work."""

    def close(self, printed: IO[bytes]) -> None:
        """Called once, at the end."""


class Died(Exception):
    """A child ended before its work did.

    Args:
        reason: The signal or the exit status.
        output: The last lines that the child wrote, with its last Python frames.
        error_class: ``OOM`` if memory ran out, else ``CRASH``.
    """

    def __init__(self, reason: str, output: str, error_class: ErrorClass) -> None:
        super().__init__(reason)
        self.reason = reason
        self.output = output
        self.error_class = error_class


class Raised(Exception):
    """Work raised an exception in a child.

    Args:
        reason: Its type and text.
        output: Traceback of the error as text.
    """

    def __init__(self, reason: str, output: str) -> None:
        super().__init__(reason, output)  # both, so that pickling keeps them
        self.reason = reason
        self.output = output


def _new_log() -> IO[bytes]:
    """A file without a name, which is gone when the last process closes it."""
    # Not a pipe: a child that prints much would block when nobody reads, and the last
    # output of a dead child must stay readable.
    log = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - the owner keeps it
    fcntl.fcntl(log, fcntl.F_SETFL, os.O_APPEND)  # also after it was emptied
    return log


@dataclass(slots=True)
class Owner:
    """Starts children and passes their results on; one per worker of an executor.

    Args:
        dumps: Pickles work and its arguments for ``pickle.loads``.
    """

    dumps: Callable[[Any], bytes] = pickle.dumps
    _template: subprocess.Popen[bytes] | None = None
    _control: socket.socket | None = None
    _child: Connection | None = None
    _key: str = ""
    _log: IO[bytes] = field(default_factory=_new_log)
    _warm: set[str] = field(default_factory=set)
    _kills: int = 0  # by the kernel, before the running work began

    def run(
        self, key: str, work: Work, *arguments: Any, log: Log | None = None
    ) -> Iterator[Any]:
        """Run work in the child of a key.

        Args:
            key: Names the code that runs; work of equal keys may share a process.
            work: A generator function that the child can import.
            *arguments: Arguments of the function; must survive pickling.
            log: Gets what the child prints.

        Yields:
            What the work yields.

        Raises:
            Died: If the child ended first, or cannot be started.
            Raised: If the work raised.
            StoreError: If the work raised that.
        """
        child = self._child_of(key)
        # One file for all work of this owner. A child keeps its descriptor, and appends
        # at the new end.
        self._log.truncate(0)
        self._kills = kernel_kills()
        try:
            # An answer is ("yielded", value), ("done", imported packages) or ("raised",
            # exception).
            child.send_bytes(self.dumps((work, arguments)))
            while True:
                if log is not None:
                    self._wait(child, log)
                what, value = child.recv()
                if what == "yielded":
                    yield value
                elif what == "done":
                    # Packages that this work imported; the template imports them before
                    # its next fork, and later children need not.
                    self._warm.update(value)
                    return
                else:
                    raise value
        except (EOFError, ConnectionError):
            raise self._death() from None
        except GeneratorExit:  # nobody wants the rest
            self.close_child()
            raise
        finally:
            if log is not None:
                log.close(self._log)

    def _wait(self, child: Connection, log: Log) -> None:
        """Show the log what is printed until the child sends something."""
        log.look(self._log)
        while not child.poll(_LOOK):
            log.look(self._log)

    def _child_of(self, key: str) -> Connection:
        if self._child is not None and key == self._key:
            return self._child
        self.close_child()
        if self._template is None or self._template.poll() is not None:
            self._start_template()
        assert self._control is not None
        ours, theirs = socket.socketpair()
        # The environment of now: the executor changes it between two jobs (node,
        # device).
        message = {"environment": dict(os.environ), "warm": sorted(self._warm)}
        data = json.dumps(message).encode()
        # Closed here after sending: otherwise the end of the child would never show as
        # end of file.
        with theirs:
            # The first message carries the length and the two descriptors (socket of
            # the child, log); the JSON follows, since ``send_fds`` may send a long
            # message in parts.
            header = len(data).to_bytes(8, "big")
            descriptors = [theirs.fileno(), self._log.fileno()]
            socket.send_fds(self._control, [header], descriptors)
            self._control.sendall(data)
        self._child, self._key = Connection(ours.detach()), key
        return self._child

    def _start_template(self) -> None:
        ours, theirs = socket.socketpair()
        path = json.dumps(sys.path)
        with theirs:
            try:
                self._template = subprocess.Popen(
                    [sys.executable, "-c", _TEMPLATE, str(theirs.fileno()), path],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                )
            except OSError as why:  # not a fault of the plugin: the trial runs again
                ours.close()
                said = f"no process can be started: {why.strerror} (see `ulimit -u`)"
                raise Died(said, "", ErrorClass.CRASH) from why
        self._control = ours

    def close_child(self) -> None:
        """End the child, if there is one, and wait until it is gone."""
        if self._child is not None:
            self._child.close()
            self._child = None
            self._status()

    def close(self) -> None:
        """End the child and the template."""
        self.close_child()
        if self._control is not None:
            self._control.close()
        if self._template is not None:
            self._template.wait()
        self._template = self._control = None

    def _status(self) -> int | None:
        """The wait status of the child that ended; None if the template died too."""
        assert self._control is not None
        with contextlib.suppress(OSError):
            data = self._control.recv(8, socket.MSG_WAITALL)
            if len(data) == 8:
                return int.from_bytes(data, "big")
        return None

    def _death(self) -> Died:
        assert self._child is not None
        self._child.close()
        self._child = None
        kills = kernel_kills() - self._kills
        reason, error_class = described(self._status(), kills)
        return Died(reason, self._tail(), error_class)

    def _tail(self) -> str:
        self._log.seek(0)
        text = logs.without_marks(self._log.read().decode(errors="replace"))
        # ``faulthandler`` ends with a list of all extension modules, which would push
        # the frames out of the last characters.
        return text.partition("\n\nExtension modules:")[0][-TAIL:]


def serve_template(descriptor: int) -> None:
    """Fork children on request until the owner is gone; the template's main loop.

    Args:
        descriptor: Of the socket to the owner.
    """
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver
    for name in _PRELOAD:
        importlib.import_module(name)
    with socket.socket(fileno=descriptor) as control:
        while True:
            # An empty header is end of file: the owner closed its end or died.
            header, found, _, _ = socket.recv_fds(control, 8, 2)
            if not header:
                return
            size = int.from_bytes(header, "big")
            message = json.loads(control.recv(size, socket.MSG_WAITALL))
            for name in message["warm"]:
                # A package that does not import here fails again in the child, where it
                # is reported.
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
            # What is imported stays: a child need not search it for garbage, and does
            # not write to (and so copy) the pages that it shares with the template.
            gc.freeze()
            # The template never uses CUDA: a process that is forked after the first use
            # cannot use it.
            pid = os.fork()
            if pid == 0:
                control.close()
                _serve_child(found[0], found[1], message["environment"])
            for one in found:
                os.close(one)
            # One child at a time. Its status reaches the owner even if a signal killed
            # it.
            _, status = os.waitpid(pid, 0)
            control.sendall(status.to_bytes(8, "big"))


def _serve_child(descriptor: int, log: int, environment: dict[str, str]) -> None:
    """Run work until the owner closes its end; never returns."""
    die_with_parent()
    os.environ.clear()
    os.environ.update(environment | {OUTPUT: "stderr"})
    # At the level of descriptors, so that also C code and subprocesses print into the
    # log.
    os.dup2(log, 1)
    os.dup2(log, 2)
    # Line by line: a signal leaves no time to flush.
    sys.stdout = os.fdopen(1, "w", buffering=1, errors="replace", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="replace", closefd=False)
    faulthandler.enable(2)
    connection = Connection(descriptor)
    # Whatever gets here, this process must not return into the loop of the template.
    with contextlib.suppress(BaseException):
        while True:
            work, arguments = pickle.loads(connection.recv_bytes())
            connection.send(_run(connection, work, arguments))
    os._exit(0)


def _run(connection: Connection, work: Work, arguments: Sequence[Any]) -> Any:
    try:
        # Values are sent as they are made, so that the driver sees progress.
        for value in work(*arguments):
            connection.send(("yielded", value))
    # Rebuilt from its texts, since an exception's cause may not be picklable.
    except StoreError as why:
        return "raised", StoreError(*why.errors)
    except Exception as why:  # a bug of ours: plugins are caught further down
        reason = f"{type(why).__name__}: {why}"
        return "raised", Raised(reason, "".join(traceback.format_exception(why)))
    return "done", [m for m in sys.modules if m.split(".")[0] in _HEAVY]


def begin_attempt(attempt: str, trial: str) -> None:
    """Mark in the output of a child where an attempt begins; nothing outside a child.

    Args:
        attempt: Id of the attempt.
        trial: Id of its trial.
    """
    if OUTPUT in os.environ:
        _flush()
        # Past Python's buffers, which were flushed just before: marks and output stay
        # in order.
        os.write(2, logs.begun(attempt, trial).encode())


def output_size() -> int | None:
    """How much this process has written so far; None outside a child."""
    return os.fstat(2).st_size if OUTPUT in os.environ else None


def output_folder() -> Path | None:
    """The folder of the file that a child prints to; None outside a child."""
    if OUTPUT not in os.environ:
        return None
    return Path(os.readlink("/proc/self/fd/2")).parent  # the file has no name


def output_since(size: int | None) -> str:
    """What this process has written since then, the last ``TAIL`` characters.

    Args:
        size: Earlier size in bytes, from ``output_size``.

    Returns:
        The text; empty outside a child.
    """
    if size is None:
        return ""
    _flush()
    with open("/proc/self/fd/2", "rb") as file:
        # A character of UTF-8 has at most four bytes.
        file.seek(max(size, os.fstat(2).st_size - 4 * TAIL))
        return file.read().decode(errors="replace")[-TAIL:]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a plugin may have replaced it
            stream.flush()


def die_with_parent() -> None:
    """Ask Linux to kill this process when the process that started it ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
