"""Ray nodes as processes of this machine, which can be killed."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "c4a05" * 13}


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Node:
    """`ray start`, which stays with its processes until it is killed.

    Args:
        *words: Of `ray start`.
        version: What it says of its own version of Ray; None for the truth.
    """

    def __init__(self, *words: str, version: str | None = None) -> None:
        lie = "" if version is None else f"ray.__version__ = {version!r}; "
        code = f"import ray; {lie}from ray.scripts.scripts import main; main()"
        line = [sys.executable, "-c", code, "start", "--block", *words]
        line += ["--disable-usage-stats"]
        self.process = subprocess.Popen(
            line,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **TOKEN},
        )

    def has(self, pid: int) -> bool:
        """Whether a process is one of this node's."""
        return any(p.pid == pid for p in self._family())

    def wait_for(self, program: str, seconds: float = 60) -> None:
        """Until it has such a process."""
        deadline = time.monotonic() + seconds
        while not any(program in p.name() for p in self._family()):
            assert time.monotonic() < deadline, f"no {program} comes up"
            time.sleep(0.2)

    def _family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        return []

    def kill(self) -> None:
        """SIGKILL to `ray start` and to every process under it."""
        family = self._family()
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(family, timeout=20)
        self.process.wait()


@contextlib.contextmanager
def head(port: int, cpus: int = 1, version: str | None = None) -> Iterator[Node]:
    """The head of a cluster on loopback, up."""
    words = ("--head", f"--port={port}", f"--num-cpus={cpus}")
    words += ("--include-dashboard=false",)
    made = Node(*words, version=version)
    try:
        _wait_for(port)
        yield made
    finally:
        made.kill()


@contextlib.contextmanager
def node(port: int, cpus: int = 1) -> Iterator[Node]:
    """Another node of the cluster whose head listens on ``port``."""
    made = Node(f"--address=127.0.0.1:{port}", f"--num-cpus={cpus}")
    try:
        made.wait_for("raylet")
        yield made
    finally:
        made.kill()


def _wait_for(port: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"nothing listens on port {port}")
