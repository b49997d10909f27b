"""Commands as other users of this machine, for which one must be root."""

from __future__ import annotations

import os
import shutil

import pytest

FIRST, SECOND, OTHER, GROUP = 65533, 65532, 65531, 64242
# Reading everything lets the user import this checkout, wherever it lies. It gives no
# right to write.
_READS = "+dac_read_search"


def as_user(user: int, group: int) -> tuple[str, ...]:
    """The words in front of a command that run it as a user.

    Args:
        user: Id of the user; no such user needs to exist.
        group: Id of the only group that the user is in.

    Returns:
        Words of ``setpriv``; the test is skipped where they would not work.
    """
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("only root can become other users, with `setpriv`")
    caps = [f"--{kind}=-all,{_READS}" for kind in ("inh-caps", "bounding-set")]
    caps.append(f"--ambient-caps=-all,{_READS}")
    words = ("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups")
    return (*words, *caps)
