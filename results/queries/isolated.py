"""Runs a function in a process of its own, with bounded time, memory and disk space.

DuckDB can be asked to stop, and its buffers have a limit. But some of its functions
(``range`` of a huge number, ``repeat``, ``list_transform``) look neither at the request
nor at the limit until they have finished. A process can always be killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from results.errors import StoreError

T = TypeVar("T")
TIMEOUT = 60.0  # seconds; SHRINKGRID_SQL_TIMEOUT in the environment is another default
_MARGIN = 2**29  # bytes that Python, DuckDB and pyarrow need beside the data
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from results.queries.isolated import _child; _child()"
)


def _default_timeout() -> float:
    text = os.environ.get("SHRINKGRID_SQL_TIMEOUT", "")
    try:
        seconds = float(text or TIMEOUT)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise StoreError(f"SHRINKGRID_SQL_TIMEOUT is {text!r}, not a number of seconds")
    return seconds


def _quarter_of_memory() -> int:
    """A quarter of the memory that this process may use, in bytes."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # cgroup v2 and v1; "max" is not a number, and a machine has no file at all.
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of a container
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int((Path("/sys/fs/cgroup") / name).read_text()))
    return total // 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one query of a person may use.

    Args:
        seconds: Wall time from the start to the last row.
        memory_bytes: Memory of DuckDB; a quarter of the machine by default. DuckDB may
            also write temporary files of up to four times this size.
    """

    seconds: float = field(default_factory=_default_timeout)
    memory_bytes: int = field(default_factory=_quarter_of_memory)

    @classmethod
    def of(cls, seconds: float | None, gibibytes: float | None) -> Limits:
        """The given limits, and the defaults for those that are None."""
        given: dict[str, Any] = {}
        if seconds is not None:
            given["seconds"] = seconds
        if gibibytes is not None:
            given["memory_bytes"] = int(gibibytes * 2**30)
        return cls(**given)

    def settings(self, folder: str) -> dict[str, str]:
        """DuckDB's settings for these limits.

        Args:
            folder: An empty folder for temporary files.

        Returns:
            Setting -> value, as ``duckdb.connect`` takes them.
        """
        disk = min(4 * self.memory_bytes, shutil.disk_usage(folder).free // 2)
        return {
            "memory_limit": f"{self.memory_bytes}B",
            "temp_directory": folder,
            "max_temp_directory_size": f"{disk}B",
        }


def call(function: Callable[..., T], *args: Any, limits: Limits) -> T:
    """Calls a function in a process of its own, and ends the process with the call.

    Args:
        function: A function of a module. It is called with ``args`` and, at the end,
            DuckDB's settings for the limits.
        *args: Values that can be pickled.
        limits: Ctrl-C ends the call at any time, too.

    Returns:
        The function's result.

    Raises:
        StoreError: If the function raised one, or a limit was reached.
        RuntimeError: If the function raised anything else; has its traceback.
    """
    with tempfile.TemporaryDirectory(prefix="shrinkgrid-sql-") as folder:
        request = pickle.dumps((function, args, limits, folder))
        child = subprocess.Popen(
            # ``-P``: the current folder is not searched for modules, which a person may
            # own.
            [sys.executable, "-P", "-c", _CHILD, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal reaches this process only
        )
        try:
            answer, said = child.communicate(request, timeout=limits.seconds)
        except subprocess.TimeoutExpired as why:
            raise StoreError(
                f"the query took longer than {limits.seconds:g} s and was stopped; "
                "narrow it, or allow more time with --timeout SECONDS or "
                "SHRINKGRID_SQL_TIMEOUT"
            ) from why
        finally:
            # Also after Ctrl-C, and after an answer: the child may have threads that do
            # not end.
            child.kill()
            child.wait()
    return _result(answer, said, child.returncode, limits)


def _result(answer: bytes, said: bytes, status: int, limits: Limits) -> Any:
    """The result of a call from what its process wrote, or the error to raise."""
    if status == 0:
        kind, value = pickle.loads(answer)  # our own process wrote it
        if kind == "result":
            return value
        if kind == "errors":
            raise StoreError(*value)
        if kind == "traceback":
            raise RuntimeError(f"a query's process failed:\n{value}")
    gigabytes = limits.memory_bytes / 2**30
    # 0 with the answer "memory"; SIGKILL and SIGABRT are how the kernel and DuckDB end
    # a process that asks for too much.
    limit = f"its limit of {gigabytes:.1f} GiB"
    advice = "select fewer rows or columns, aggregate, or raise --memory"
    if status in (0, -signal.SIGKILL, -signal.SIGABRT):  # also by the kernel
        raise StoreError(f"the query needs more memory than {limit}; {advice}")
    if status == -signal.SIGSEGV:  # a library may not look whether it got memory
        raise StoreError(
            "the query's process crashed, which happens where it needs more memory "
            f"than {limit}; {advice}"
        )
    last = said.decode(errors="replace").strip().rpartition("\n")[2]
    raise StoreError(f"the query's process ended with status {status}: {last}")


def _child() -> None:
    """Runs the request that stands on stdin, and writes its result to stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The answer goes through a copy of stdout, and descriptor 1 then leads to stderr.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is not part of the result
    function, args, limits, folder = pickle.load(sys.stdin.buffer)
    signal.setitimer(signal.ITIMER_REAL, limits.seconds + 5)  # if the parent is killed
    # Twice: DuckDB's buffers, which its own limit bounds, and what its functions
    # allocate beside them.
    most = 2 * limits.memory_bytes + _MARGIN
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    # A crash must not write gigabytes of memory to the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer: tuple[str, Any]
    try:
        answer = ("result", function(*args, limits.settings(folder)))
        written = pickle.dumps(answer)
    except MemoryError:
        written = pickle.dumps(("memory", None))
    except StoreError as why:
        written = pickle.dumps(("errors", list(why.errors)))
    except Exception:
        written = pickle.dumps(("traceback", traceback.format_exc()))
    out.write(written)
    out.flush()
    os._exit(0)  # without waiting for threads that cannot be stopped
