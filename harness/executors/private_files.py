"""Files that Ray leaves on this machine: its token, and folders of killed runs."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import stat
import sys
from pathlib import Path

from results.storage.temporary import ended

OWNER = "shrinkgrid.json"  # in a session folder of Ray: which process started it


def protect_token() -> None:
    """Make Ray's token before Ray does, readable by this user only.

    Ray writes it readable by everybody, and everybody who has the
    token can run code in the cluster.
    An existing token that others can read gets the same mode, with a warning.
    """
    chosen = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    mode = os.environ.get("RAY_AUTH_MODE", "token").lower()
    if mode != "token" or any(name in os.environ for name in chosen):
        return
    path = Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):  # then Ray says what is wrong
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            # Created with its final mode. ``chmod`` afterwards would leave a moment in
            # which others could read the token; O_EXCL also refuses a link that another
            # user placed there.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with os.fdopen(os.open(path, flags, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
            return
        # ``lstat``: the mode of a link's target is not ours to change.
        found = path.lstat()
        regular = stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid()
        if regular and found.st_mode & 0o077:
            path.chmod(0o600)
            sys.stderr.write(
                f"warning: other users could read {path}; its mode is 0600 now\n"
            )


def claim_session(folder: str | Path) -> None:
    """Note in a session folder of Ray that this process started it.

    Args:
        folder: The session folder.
    """
    owner = {"host": socket.gethostname(), "pid": os.getpid()}
    with contextlib.suppress(OSError):
        Path(folder, OWNER).write_text(json.dumps(owner))


def remove_dead_sessions(root: str | Path) -> int:
    """Delete session folders that a run of this user left when it was killed.

    Args:
        root: The folder of all sessions.

    Returns:
        How many were deleted. A folder without a note, of another user or machine, or
        of a process that runs, is never touched.
    """
    deleted = 0
    for note in Path(root).glob(f"session_*/{OWNER}"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if note.lstat().st_uid != os.getuid() or note.parent.is_symlink():
                continue
            owner = json.loads(note.read_text())
            pid = int(owner["pid"])
            # No process has a number below 1, so such a note is damaged and says of no
            # process that it ended.
            if pid > 0 and owner["host"] == socket.gethostname() and ended(pid):
                shutil.rmtree(note.parent, ignore_errors=True)
                deleted += 1
    return deleted
