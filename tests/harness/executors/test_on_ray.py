"""The Ray executor: equal rows, dead workers, code found from any folder."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from ray import exceptions

from harness.cli import _status
from harness.core import BenchError
from harness.executors.on_ray import GRACE, OnRay, _crash, _Running
from harness.planning import grid as grids
from harness.planning import plan as plans
from harness.planning.messages import Job
from harness.planning.resources import ResourceRequest
from harness.scheduling.hardware import Cluster
from harness.scheduling.packing import Packer
from results.queries.db import ask
from results.storage.store import open_store

GRID = """
models: [toy]
methods: [{methods}]
ratios: [0.25, 0.5, 0.75]
tasks: [toy_sum]
resources: {{time: 60s}}
"""


def shrinkgrid(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, away from the checkout."""
    return subprocess.run(
        [sys.executable, "-c", "from harness.cli import main; main()", *words],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_a_ray_that_ended_is_no_fault_of_what_the_grid_requests(toys, tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(GRID.format(methods="toy_drop"))
    executor = object.__new__(OnRay)  # without a cluster
    executor._local = True
    executor.packer = Packer(cluster=Cluster(nodes=()))

    with pytest.raises(BenchError, match="Ray on this machine has ended"):
        executor.check(plans.make(grids.read(path)).bundles, "store")


@pytest.fixture
def grid(tmp_path: Path, toys: Path):
    """Write a grid of the given methods."""

    def writes(methods: str) -> Path:
        path = tmp_path / "grid.yaml"
        path.write_text(GRID.format(methods=methods))
        return path

    return writes


def test_ray_writes_the_rows_that_inline_writes_and_survives_a_killed_worker(
    grid, tmp_path
):
    once = tmp_path / "killed-once"
    path = grid(
        f"dense, toy_drop, {{name: toy_trouble, how: kill, once: {once}}}, "
        "{name: toy_trouble, how: raise}"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    store = str(tmp_path / "ray")

    done = shrinkgrid("run", str(path), "--store", store, "--cpus", "2", cwd=elsewhere)

    assert done.returncode == 3, done.stderr
    rows = ask(open_store(store), "FROM trials ORDER BY method_options, ratio").dicts()
    lost = [r for r in rows if r["status"] == "lost"]
    assert len(lost) == 1
    assert lost[0]["ratio"] == 0.5
    assert lost[0]["error_class"] == "crash"
    assert lost[0]["reason"] == "its process was killed by SIGKILL"
    # The rest of the bundle ran, the killed trial too, each exactly once.
    newest = ask(open_store(store), "FROM newest ORDER BY trial").dicts()
    assert sum(r["status"] == "ok" for r in newest) == 1 + 3 + 3 + 2
    assert sum(r["status"] == "ok" for r in rows) == 9
    assert [r["reason"] for r in newest if r["status"] == "failed"] == [
        "RuntimeError: broken on purpose"
    ]

    inline = str(tmp_path / "inline")
    once.touch()
    shrinkgrid("run", str(path), "--store", inline, "--address", "inline", cwd=tmp_path)
    query = (
        "SELECT trial, status, metric, value, params_nonzero, bytes, macs, protocol "
        "FROM newest LEFT JOIN measurements USING (attempt) ORDER BY ALL"
    )
    assert ask(open_store(store), query).rows == ask(open_store(inline), query).rows


def test_a_method_that_dies_or_spoils_its_process_harms_no_other(tmp_path, toys):
    path = tmp_path / "grid.yaml"
    path.write_text(
        GRID.replace("toy_sum", "toy_judge")
        .replace("[0.25, 0.5, 0.75]", "[0.5]")
        .format(
            methods="toy_drop, {name: toy_ends, how: segfault}, "
            "{name: toy_ends, how: os_exit}, {name: toy_spoils, how: thread}"
        )
    )
    store = str(tmp_path / "s")

    done = shrinkgrid("run", str(path), "--store", store, "--cpus", "1", cwd=tmp_path)

    assert done.returncode == 3, done.stderr
    rows = ask(open_store(store), "FROM trials ORDER BY method, method_options").dicts()
    assert [(r["method"], r["status"]) for r in rows] == [
        ("toy_drop", "ok"),
        *[("toy_ends", "lost")] * 4,  # each of the two is tried twice
        ("toy_spoils", "failed"),
    ]
    exited, killed = rows[1:3], rows[3:5]
    assert {r["reason"] for r in exited} == {"its process ended with exit status 7"}
    assert {r["reason"] for r in killed} == {"its process was killed by SIGSEGV"}
    assert all(r["traceback"].startswith("last words") for r in exited + killed)
    assert all("hostile.py" in r["traceback"] for r in killed)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "nothing answers at 127.0.0.1:1"),
        ("nowhere", "is not one of 'local', 'auto', 'inline', HOST:PORT"),
        ("127.0.0.1:99999", "99999"),
    ],
)
def test_no_ray_at_the_address_is_one_clear_message(
    grid, tmp_path, capsys, address, reason
):
    store = ["--store", str(tmp_path / "s")]

    assert _status(["run", str(grid("dense")), *store, "--address", address]) == 2

    assert reason in capsys.readouterr().err


def test_a_bundle_that_asks_for_more_than_the_cluster_has_is_refused(tmp_path, toys):
    path = tmp_path / "grid.yaml"
    path.write_text(GRID.format(methods="dense").replace("time: 60s", "gpus: 3"))

    done = shrinkgrid(
        "run", str(path), "--store", str(tmp_path / "s"), "--cpus", "1", cwd=tmp_path
    )

    assert done.returncode == 2
    assert "requests 1 CPU, 3 GPUs" in done.stderr
    assert "no node has that (" in done.stderr
    assert "with 1 CPU, no GPU" in done.stderr


def test_plan_prints_every_trial_as_json(grid, tmp_path, capsys):
    path = grid("dense, toy_drop")
    store = ["--store", str(tmp_path / "s")]

    assert _status(["plan", str(path), *store, "--json"]) == 0

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r["state"], r["method"], r["ratio"]) for r in rows] == [
        ("run", "dense", 0.0),
        ("run", "toy_drop", 0.25),
        ("run", "toy_drop", 0.5),
        ("run", "toy_drop", 0.75),
    ]
    assert not (tmp_path / "s").exists()


BUILDER_DIED = exceptions.RayTaskError("f", "tb", exceptions.WorkerCrashedError())


@pytest.mark.parametrize(
    ("why", "status", "error_class"),
    [
        (exceptions.WorkerCrashedError(), "lost", "infra"),
        (exceptions.OutOfMemoryError("node"), "out_of_memory", "oom"),
        (exceptions.RayTaskError("f", "tb", ValueError("ours")), "failed", "bug"),
        (BUILDER_DIED, "lost", "infra"),  # no fault of the trials that wait for it
    ],
)
def test_what_ended_a_worker_says_what_becomes_of_its_trial(why, status, error_class):
    crash = _crash(why, overstayed=False)
    assert (crash.status, crash.error_class) == (status, error_class)


@pytest.mark.parametrize(
    ("store", "late", "killed"),
    [
        ("/store", GRACE + 1, True),
        ("s3://bucket/store", GRACE + 1, False),  # it may be waiting for the bucket
        ("s3://bucket/store", GRACE + 61, True),
        ("/store", GRACE - 9, False),
    ],
)
def test_a_worker_that_waits_for_its_store_has_not_overstayed(
    store, late, killed, monkeypatch, toys, tmp_path
):
    path = tmp_path / "grid.yaml"
    path.write_text(
        "models: [toy]\nmethods: [dense]\nratios: [0]\ntasks: [toy_sum]\n"
        "resources: {time: 10s}\n"
    )
    (bundle,) = plans.make(grids.read(path)).bundles
    job = Job(bundle=bundle, attempts={"t": "a"}, store=store, grid="g", run="r")
    one = _Running(job=job, request=ResourceRequest(cpus=1), stream="stream", trial="t")
    one.since = time.monotonic() - 10 - late
    ended = []
    monkeypatch.setattr(ray, "cancel", lambda stream, force: ended.append(stream))
    executor = object.__new__(OnRay)  # without a cluster
    executor._running = {"stream": one}

    executor._enforce_limits()

    assert ended == (["stream"] if killed else [])
    assert one.overstayed is killed
