"""A cgroup with little memory, in which the kernel kills what takes more."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Limits = Callable[[int], dict[str, int]]  # megabytes -> file and its content


@contextlib.contextmanager
def memory_group(megabytes: int) -> Iterator[tuple[str, ...]]:
    """A cgroup of either version, below the one that this process is in.

    Args:
        megabytes: What all processes in it may have together.

    Yields:
        The words in front of a command that run it in the group. The test is skipped
        where no such group can be made.
    """
    if os.geteuid():
        pytest.skip("only root makes a cgroup")
    parent, limits = _parent()
    group = parent / f"shrinkgrid-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as why:
        pytest.skip(f"no cgroup can be made here: {why}")
    try:
        for name, value in limits(megabytes).items():
            if (group / name).exists():
                (group / name).write_text(str(value))
        into = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        yield ("sh", "-c", into, "-")
    finally:
        _remove(group)


def _parent() -> tuple[Path, Limits]:
    """Where the group goes, and the files with its limits."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    own = {
        names: path
        for _, names, path in (
            line.split(":", 2)
            for line in Path("/proc/self/cgroup").read_text().splitlines()
        )
    }
    for _, place, kind, options, *_ in mounts:
        if kind == "cgroup" and "memory" in options.split(","):
            return Path(place) / own.get("memory", "/").lstrip("/"), _version_1
        if kind == "cgroup2":
            # At the top: below a group with processes the kernel allows no limits.
            given = Path(place, "cgroup.subtree_control")
            if "memory" in given.read_text().split():
                return Path(place), _version_2
    pytest.skip("no cgroup here limits memory")


def _version_1(megabytes: int) -> dict[str, int]:
    size = megabytes * 2**20
    return {"memory.limit_in_bytes": size, "memory.memsw.limit_in_bytes": size}


def _version_2(megabytes: int) -> dict[str, int]:
    return {"memory.max": megabytes * 2**20, "memory.swap.max": 0}


def _remove(group: Path) -> None:
    """End what is left in the group; only then can it be removed."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.2)
    raise AssertionError(f"{group} is still in use")
