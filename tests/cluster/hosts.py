"""Several hosts on this machine: network namespaces on a bridge, each with its Ray."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from harness.executors import shipping

TOKEN = "0123456789abcdef" * 4
_MADE = map(chr, itertools.count(ord("a")))
BIN = str(Path(sys.executable).parent)


def impossible() -> str | None:
    """Why there can be no such hosts here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "no `ip` here (apt-get install iproute2)"
    name = f"sg{os.getpid()}try"
    words = ["ip", "netns", "add", name]
    made = subprocess.run(words, capture_output=True, text=True, check=False)
    if made.returncode:
        return f"`ip netns add` says {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return None


@dataclass(kw_only=True)
class Hosts:
    """Hosts 1, 2, ... with the addresses 10.77.0.1, ..., wired to one switch.

    The code of this checkout is hidden from all of them, so what runs there was
    shipped. The rest of the file system is shared, less what ``hidden`` names.

    Args:
        count: How many.
        hidden: Folders that are empty on the hosts.
        env: Environment of everything that runs on them.
    """

    count: int
    hidden: list[Path] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Unix sockets have short paths: pytest's own folders are too deep.
        self.folder = Path(tempfile.mkdtemp(prefix="sg"))
        self.prefix = f"sg{os.getpid()}{next(_MADE)}h"
        self._names = [f"{self.prefix}{i}" for i in range(self.count + 1)]
        own = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(self.folder)}
        # A raylet whose agents have not called within Ray's 30 seconds ends, as it does
        # on a machine with more to do than processors; the driver's own Ray waits too.
        own["RAY_agent_register_timeout_ms"] = "300000"
        self.env = {**os.environ, "OMP_NUM_THREADS": "1", **own, **self.env}
        self.env.pop("PYTHONPATH", None)

    def address(self, host: int) -> str:
        """The address of a host."""
        return f"10.77.0.{host}"

    def wire(self) -> None:
        """Make the namespaces; the one numbered 0 is the switch."""
        for name in self._names:
            _ip("netns", "add", name)
        switch = self._names[0]
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for i, name in enumerate(self._names[1:], start=1):
            peer = ["peer", "name", "eth0", "netns", name]
            _ip("-n", switch, "link", "add", f"port{i}", "type", "veth", *peer)
            _ip("-n", switch, "link", "set", f"port{i}", "master", "bridge")
            _ip("-n", switch, "link", "set", f"port{i}", "up")
            _ip("-n", name, "address", "add", f"{self.address(i)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def plug(self, host: int, *, into: bool) -> None:
        """Pull a host's cable, or put it back."""
        state = "up" if into else "down"
        _ip("-n", self._names[0], "link", "set", f"port{host}", state)

    def start(self, host: int, *words: str, log: str) -> subprocess.Popen[bytes]:
        """A program on a host, which stays until ``close``."""
        hide = [str(f) for f in (*shipping.folders(), *self.hidden)]
        script = f"hostname host{host}; for d in {' '.join(hide)}; do "
        script += 'mount -t tmpfs none "$d"; done; exec "$@"'
        line = ["ip", "netns", "exec", self._names[host], "unshare", "--mount", "--uts"]
        with (self.folder / log).open("wb") as out:
            process = subprocess.Popen(
                [*line, "bash", "-c", script, "-", *words],
                stdout=out,
                stderr=out,
                cwd="/",
                env=self.env,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def ray(self, host: int, *words: str) -> subprocess.Popen[bytes]:
        """`ray start` on a host: host 1 is the head."""
        place = ["--head", "--port=6379", "--dashboard-host=127.0.0.1"]
        if host > 1:
            place = [f"--address={self.address(1)}:6379"]
        place += [f"--node-ip-address={self.address(host)}", *words]
        place += [f"--temp-dir={self.folder}/r{host}", "--object-store-memory=80000000"]
        line = ["ray", "start", "--block", "--disable-usage-stats", *place]
        return self.start(host, *line, log=f"ray{host}.log")

    def ray_logs(self) -> str:
        """The ends of what each `ray start` printed, for a message."""
        logs = sorted(self.folder.glob("ray*.log"))
        return "\n".join(f"{log.name}: ...{log.read_text()[-2000:]}" for log in logs)

    def typed(self, host: int, *words: str, env: Mapping[str, str] | None = None):
        """The words in front of a line so that it runs on a host's network."""
        changed = [f"{key}={value}" for key, value in (env or {}).items()]
        # A suite in the background ignores these signals, and so do its children.
        env_words = ["env", "--default-signal=HUP,INT", *changed]
        return ["ip", "netns", "exec", self._names[host], *env_words, *words]

    def close(self) -> None:
        """End every process that runs on a host, then take the hosts away."""
        for name in self._names:
            words = ["ip", "netns", "pids", name]
            found = subprocess.run(words, capture_output=True, text=True, check=False)
            _end([int(pid) for pid in found.stdout.split()])
        for process in self._processes:
            process.wait()
        for name in self._names:
            subprocess.run(["ip", "netns", "delete", name], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def _end(pids: list[int]) -> None:
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(found, timeout=20)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.3)


@contextlib.contextmanager
def hosts(count: int, **options) -> Iterator[Hosts]:
    """Wired hosts that are gone afterwards."""
    made = Hosts(count=count, **options)
    try:
        made.wire()
        yield made
    finally:
        made.close()
