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
    """Whether a process of this machine is known to have ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return pid > 0
    # A process of another user, or a number that is too large: not known to have ended.
    except (OSError, OverflowError):
        return False
    return False


def _host() -> str:
    """This machine, and the container on it: both number their processes."""
    text = socket.gethostname()
    with contextlib.suppress(OSError):
        text += os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(text.encode()).hexdigest()[:8]
