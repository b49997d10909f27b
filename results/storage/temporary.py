"""Names of temporary files and folders that say which process writes them.

A killed process leaves what it was writing. The next run on the same machine reads in
the name that the process has ended, and deletes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import uuid
from pathlib import Path

_NAME = re.compile(r"\..+\.([0-9a-f]{8})\.([0-9]+)\.[0-9a-f]{8}\.tmp")


def beside(target: Path) -> Path:
    """Return a new temporary path beside ``target``, on the same file system."""
    owner = f"{_host()}.{os.getpid()}"
    return target.with_name(f".{target.name}.{owner}.{uuid.uuid4().hex[:8]}.tmp")


def remove_dead(folder: Path) -> int:
    """Delete in a folder what ended processes of this machine were writing.

    Args:
        folder: Its own entries only; it may be missing.

    Returns:
        How many files and folders were deleted. A name without a process, of another
        machine, or of a process that runs, is never touched.
    """
    try:
        with os.scandir(folder) as entries:
            found = [Path(e.path) for e in entries if e.name.endswith(".tmp")]
    except OSError:
        return 0
    deleted = 0
    for path in found:
        name = _NAME.fullmatch(path.name)
        # Three conditions, each of which keeps a file that another process may be
        # writing.
        if name is None or name[1] != _host() or not ended(int(name[2])):
            continue
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            deleted += 1
    return deleted


def ended(pid: int) -> bool:
    """Whether no process of this machine has this number.

    A process that has ended stays in the system's table until its parent asks how it
    ended. It counts as ended: a killed driver has the machine's first process as its
    parent, which may take seconds to ask, and in some containers never does.
    """
    import psutil

    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError):  # ValueError: below 0
        return True
    except psutil.AccessDenied:
        return False


def _host() -> str:
    """This machine, and the container on it: both number their processes."""
    text = socket.gethostname()
    with contextlib.suppress(OSError):
        text += os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(text.encode()).hexdigest()[:8]
