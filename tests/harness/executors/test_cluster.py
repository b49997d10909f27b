"""The errors for a cluster that refuses a driver, and for one whose head is gone."""

import contextlib
import os
import queue
import socket
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from harness.core import BenchError
from harness.executors import cluster
from harness.executors.cluster import Watchdog, refused


def test_other_versions_are_both_named():
    # The words of ray._private.utils.check_version_info.
    why = RuntimeError(
        "Version mismatch: The cluster was started with:\n    Ray: 2.7.0\n"
        "    Python: 3.11.7\nThis process on node 1.2.3.4 was started with:\n"
        "    Ray: 2.60.0\n    Python: 3.11.7\n"
    )

    said = str(refused("head:6379", why))

    assert "Ray: 2.7.0" in said
    assert "Ray: 2.60.0" in said
    assert "install equal ones" in said


def test_a_head_that_does_not_answer_for_long_ends_the_run(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(cluster.time, "monotonic", lambda: now[0])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        watchdog = Watchdog(address)
        now[0] = 100.0
        watchdog.check()  # it answers
    now[0] = 110.0
    watchdog.check()  # no answer, but not for long enough

    now[0] = 121.0
    with pytest.raises(BenchError, match=f"{address} has not answered for 21 s"):
        watchdog.check()


def test_a_head_out_of_reach_is_never_asked(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(cluster.time, "monotonic", lambda: now[0])
    watchdog = Watchdog("")
    now[0] = 1e6

    assert watchdog.check() is None


@pytest.mark.parametrize(
    ("user", "limit", "running", "refused"),
    [
        (1000, 400, 100, True),
        (1000, 400, 40, False),
        (1000, -1, 10**6, False),  # no limit
        (0, 400, 10**6, False),  # root
    ],
)
def test_a_user_who_may_have_too_few_threads_is_told_so(
    monkeypatch, user, limit, running, refused
):
    started = []
    monkeypatch.setattr(cluster, "_check_space", lambda: None)
    monkeypatch.setattr(cluster, "protect_token", lambda: None)
    monkeypatch.setattr(cluster, "_start", started.append)
    monkeypatch.setattr(cluster.os, "getuid", lambda: user)
    monkeypatch.setattr(cluster.resource, "getrlimit", lambda _: (limit, limit))
    monkeypatch.setattr(cluster, "_threads_of", lambda _: running)

    if refused:
        words = "may have 400 processes and threads .* has 100, and Ray needs about 360"
        with pytest.raises(BenchError, match=words):
            cluster.connect("local", cpus=8)
    else:
        cluster.connect("local", cpus=8)

    assert len(started) == (not refused)


def test_threads_of_this_user_are_counted():
    assert cluster._threads_of(os.getuid()) >= threading.active_count()
    assert cluster._threads_of(2**31) == 0


def test_ray_waits_for_its_agents_on_a_busy_machine(monkeypatch):
    name, seen = "RAY_agent_register_timeout_ms", []
    monkeypatch.setattr(cluster, "_check_space", lambda: None)
    monkeypatch.setattr(cluster, "protect_token", lambda: None)
    monkeypatch.setattr(cluster, "_start", lambda _: seen.append(os.environ[name]))
    monkeypatch.setenv(name, "40000")  # a person's own choice stays
    cluster.connect("local")
    monkeypatch.delenv(name)
    cluster.connect("local")

    assert seen[0] == "40000"
    assert int(seen[1]) >= 120_000  # importing took 25 s with six processes a core


@pytest.mark.parametrize(
    ("why", "known"),
    [
        # The words of ray._private.node.Node.
        (Exception("The current node timed out during startup. This could ..."), True),
        (RuntimeError("no port"), True),
        (Exception("a bug"), False),
    ],
)
def test_a_ray_that_does_not_start_is_one_message(monkeypatch, why, known):
    def fails(**_):
        raise why

    monkeypatch.setattr(cluster.ray, "init", fails)
    monkeypatch.setattr(cluster, "StartWatch", contextlib.nullcontext)
    with pytest.raises(BenchError if known else Exception) as raised:
        cluster._start({})

    assert isinstance(raised.value, BenchError) == known
    if known:
        assert "run the same command again" in str(raised.value)


def test_a_raylet_that_was_killed_is_noticed_at_once():
    process = subprocess.Popen(["sleep", "60"])
    watchdog = Watchdog("", psutil.Process(process.pid))
    watchdog.check()

    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, not yet reaped

    with pytest.raises(BenchError, match="Ray on this machine has ended"):
        watchdog.check()
    process.wait()
    with pytest.raises(BenchError, match="Ray on this machine has ended"):
        watchdog.check()


@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_process_of_ray_that_dies_while_ray_starts_ends_the_run(name, tmp_path):
    program = tmp_path / name
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    told = queue.Queue()

    with cluster.StartWatch(told.put):
        process = subprocess.Popen([program, "60"])
        process.kill()  # nobody waits for it yet, so that it stays as a zombie
        said = told.get(timeout=30)
        process.wait()

    assert f"its process {name} ended" in said
    assert "run the same command again" in said


def test_other_processes_may_end_while_ray_starts(tmp_path):
    told = queue.Queue()

    with cluster.StartWatch(told.put):
        subprocess.run(["sleep", "0"], check=True)
        with pytest.raises(queue.Empty):
            told.get(timeout=1.2)


def test_a_wait_for_a_port_of_ray_lets_other_threads_run(monkeypatch):
    waits = []

    def wait(folder, timeout_ms):
        waits.append((folder, timeout_ms))
        if len(waits) < 3:
            raise RuntimeError("Timed out")
        return 6379

    monkeypatch.setattr(cluster.ray_node, "wait_for_persisted_port", wait)
    with cluster.StartWatch():
        port = cluster.ray_node.wait_for_persisted_port("here", timeout_ms=30000)

    assert port == 6379
    assert waits == [("here", 1000)] * 3
    assert cluster.ray_node.wait_for_persisted_port is wait


def test_a_wait_for_a_port_of_ray_ends(monkeypatch):
    def wait(folder, timeout_ms):
        raise RuntimeError("Timed out")

    monkeypatch.setattr(cluster.ray_node, "wait_for_persisted_port", wait)
    with cluster.StartWatch(), pytest.raises(RuntimeError, match="Timed out"):
        cluster.ray_node.wait_for_persisted_port("here", timeout_ms=0)


def test_a_full_temporary_folder_is_named_before_ray_starts(monkeypatch, tmp_path):
    started = []
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(cluster, "protect_token", lambda: None)
    monkeypatch.setattr(cluster, "_start", started.append)
    usage = SimpleNamespace(free=cluster.SPACE - 1_000_000)
    monkeypatch.setattr(cluster.shutil, "disk_usage", lambda folder: usage)

    with pytest.raises(BenchError, match="has 49 MB free, and Ray needs 50 MB") as why:
        cluster.connect("local")
    assert str(tmp_path) in str(why.value)
    assert not started

    usage.free += 1_000_000
    cluster.connect("local")
    assert started
