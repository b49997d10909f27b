"""Somebody at a terminal of a cluster of several hosts."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hosts import Hosts, until

from results.queries.db import ask
from results.storage import leases
from results.storage.store import open_store

CHECKOUT = Path(__file__).parents[2]
TOYS = CHECKOUT / "tests" / "toys" / "toys.py"
# What must be in no row, no log and no file: the cluster's token, keys of the object
# store, and a token in the environment of the machine that submits.
AWS_SECRET, HUB_SECRET = "planted-key-of-the-bucket", "hf_plantedTokenOfTheHub"
BUCKET = "http://10.77.0.1:5005"
AWS = {
    "AWS_ENDPOINT_URL": BUCKET,
    "AWS_ACCESS_KEY_ID": "planted",
    "AWS_SECRET_ACCESS_KEY": AWS_SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
GRID = """
models: [toy]
methods: [{methods}]
ratios: [0.1, 0.2, 0.5]
tasks: [{{name: toy_slow, seconds: {seconds}}}]
seeds: {seeds}
resources: {{gpus: 1, time: 100s}}
"""


@dataclass(kw_only=True)
class Lab:
    """Three hosts with a Ray each, and somebody at a terminal of host 1.

    Args:
        hosts: The hosts.
        laptop: The working directory at that terminal; the hosts do not see it.
        shared: A folder that all see.
    """

    hosts: Hosts
    laptop: Path
    shared: Path

    def grid(self, name: str, *, methods: str = "toy_noop", **more: object) -> str:
        """Write a grid file; its name."""
        path = self.laptop / f"{name}.yaml"
        values = {"methods": methods, "seconds": 0.5, "seeds": [0, 1], **more}
        path.write_text(GRID.format(**values))
        return path.name

    def start(self, *words: str, env: dict[str, str] | None = None):
        """Type a line at the terminal."""
        known = {
            "SHRINKGRID_PLUGINS": str(self.laptop / "toys.py"),
            "PYTHONPATH": str(CHECKOUT),
            "HF_TOKEN": HUB_SECRET,
        }
        line = [sys.executable, "-m", "harness", *words]
        return subprocess.Popen(
            self.hosts.typed(1, *line, env={**known, **(env or {})}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.laptop,
            env=self.hosts.env,
        )

    def type(self, *words: str, env: dict[str, str] | None = None):
        """Type a line and wait; exit status, stdout, stderr."""
        process = self.start(*words, env=env)
        out, err = process.communicate(timeout=240)
        assert "Traceback" not in err, err
        return process.returncode, out, err


def start_rays(lab: Lab) -> None:
    """A Ray on each host, one processor and one device each, and wait for all.

    Ray gives a node 30 seconds to join, which nothing changes and which a machine with
    more to do than processors exceeds; then that node is started again.
    """
    hosts = lab.hosts
    place = ["--num-cpus=1", "--num-gpus=1"]
    rays, starts = {1: hosts.ray(1, *place)}, 1

    def standing() -> None:
        nonlocal starts
        for host, ray in rays.items():
            if ray.poll() is None:
                continue
            # The first is not replaced once the others know it.
            assert host > 1 or len(rays) == 1, hosts.ray_logs()
            assert starts < 5 * hosts.count, hosts.ray_logs()
            rays[host], starts = hosts.ray(host, *place), starts + 1

    def joined() -> bool:
        standing()
        return answers(lab, "127.0.0.1", 8265) and alive(lab) == len(rays)

    until(joined, 600, "the first host and its dashboard")
    rays |= {host: hosts.ray(host, *place) for host in range(2, hosts.count + 1)}
    until(joined, 600, "the other hosts")


def answers(lab: Lab, address: str, port: int, host: int = 1) -> bool:
    """Whether a connection from a host is accepted."""
    code = f"import socket; socket.create_connection(({address!r}, {port}), 2)"
    words = lab.hosts.typed(host, sys.executable, "-c", code)
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def alive(lab: Lab) -> int:
    """How many nodes the cluster has."""
    words = lab.hosts.typed(1, "ray", "status", "--address", "10.77.0.1:6379")
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env=lab.hosts.env
    )
    return done.stdout.count(" 1 node_")


def rows(store: str) -> list[dict[str, object]]:
    return ask(open_store(store), "FROM trials").dicts()


def running_jobs(store: str) -> int:
    """How many workers are running a trial."""
    there = Path(store, "format.json").exists()
    return len(leases.read_all(open_store(store))) if there else 0


def finished(store: str) -> set[str]:
    if not Path(store, "format.json").exists():
        return set()
    return {str(r["attempt"]) for r in rows(store) if r["status"] == "ok"}
