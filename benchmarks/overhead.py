"""Trials a second of the engine, against Ray Tune running the same no-op function.

All run here, one after the other, on the same processors: 2,000 no-op trials through
plan, Ray, durable Parquet rows and the final leaderboard; and no-op trials of Ray Tune
(fewer, since each takes it a second or more). Bare Ray tasks that write one durable
Parquet file each, as many as trials, are what an engine on Ray cannot beat. Starting
and stopping Ray and importing packages is left out on both sides, and given apart. Then
20,000 trials and as many bare tasks, for the rate, the growth of the driver's memory,
of Ray's logs, and of the references that the driver still holds at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _figures import show

TOYS = Path(__file__).parent / "_noop.py"
TUNE = """
import json, time, ray
from ray import tune
ray.init(address="local", num_cpus={cpus}, include_dashboard=False,
         log_to_driver=False, logging_level="ERROR")
began = time.perf_counter()
grid = {{"seed": tune.grid_search(list(range({trials})))}}
tune.Tuner(lambda config: {{"value": 1.0}}, param_space=grid).fit()
print(json.dumps({{"seconds": time.perf_counter() - began}}))
"""
BARE = """
import json, os, sys, time, ray
ray.init(address="local", num_cpus={cpus}, include_dashboard=False,
         log_to_driver=False, logging_level="ERROR")
@ray.remote
def write(number, folder):
    import pyarrow as pa, pyarrow.parquet as pq
    stream = pa.BufferOutputStream()
    row = {{"trial": [str(number)], "metric": ["one"], "value": [1.0]}}
    pq.write_table(pa.table(row), stream, compression="none", use_dictionary=False)
    path = os.path.join(folder, f"{{number}}.parquet")
    with open(path + ".tmp", "wb") as file:
        file.write(stream.getvalue())
        os.fsync(file.fileno())
    os.replace(path + ".tmp", path)
folder = sys.argv[1]
ray.get([write.remote(-1 - i, folder) for i in range(2 * {cpus})])  # start workers
began = time.perf_counter()
ray.get([write.remote(i, folder) for i in range({tasks})])
print(json.dumps({{"seconds": time.perf_counter() - began}}))
"""
ENGINE = """
import json, os, resource, sys, time
import ray, torch
from harness.cli import _status
ray_seconds = []
def timed(call):
    def wrapped(*words, **options):
        began = time.perf_counter()
        try:
            return call(*words, **options)
        finally:
            ray_seconds.append(time.perf_counter() - began)
    return wrapped
def at_the_end():
    # What the driver holds of Ray, and the bytes of the session's logs.
    worker = ray._private.worker.global_worker
    refs = worker.core_worker.get_all_reference_counts()
    held = sum(int(r["local"]) + int(r["submitted"]) > 0 for r in refs.values())
    logs = os.path.join(ray._private.worker._global_node.get_session_dir_path(), "logs")
    sizes = [os.path.getsize(os.path.join(at, name))
             for at, _, names in os.walk(logs) for name in names]
    ended.update(refs=held, logs=sum(sizes), files=len(sizes))
ended = {}
shutdown = ray.shutdown
def leave(*words, **options):
    if ray.is_initialized():
        at_the_end()
    return shutdown(*words, **options)
ray.init, ray.shutdown = timed(ray.init), timed(leave)
began = time.perf_counter()
status = _status(["run", sys.argv[1], "--store", sys.argv[2], "--cpus", sys.argv[3]])
seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print("\\n" + json.dumps({"status": status, "peak": peak, "seconds": seconds,
                         "ray": sum(ray_seconds)} | ended))
"""


def grid(folder: Path, trials: int) -> Path:
    """A grid of no-op trials: ten ratios a seed, a bundle a seed."""
    path = folder / f"noop-{trials}.yaml"
    ratios = [round(0.05 * i, 2) for i in range(1, 11)]
    seeds = list(range(trials // len(ratios)))
    path.write_text(
        json.dumps(
            {
                "models": ["noop"],
                "methods": ["noop"],
                "tasks": ["noop"],
                "ratios": ratios,
                "seeds": seeds,
            }
        )
    )
    return path


def engine(folder: Path, trials: int, cpus: int) -> dict[str, float]:
    """Run the whole command in a process of its own."""
    store = folder / f"store-{trials}"
    environment = os.environ | {"SHRINKGRID_PLUGINS": str(TOYS)}
    line = [sys.executable, "-c", ENGINE, str(grid(folder, trials)), str(store)]
    began = time.perf_counter()
    done = subprocess.run(
        [*line, str(cpus)], capture_output=True, text=True, env=environment, check=True
    )
    whole = time.perf_counter() - began
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["status"] == 0, done.stderr
    work = said["seconds"] - said["ray"]
    told = {k: said[k] for k in ("peak", "refs", "logs", "files")}
    return {"whole": whole, "work": work, "rate": trials / work} | told


def tune(trials: int, cpus: int) -> float:
    """Seconds that Ray Tune takes for no-op function trials."""
    done = subprocess.run(
        [sys.executable, "-c", TUNE.format(trials=trials, cpus=cpus)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"RAY_AIR_NEW_OUTPUT": "0", "PYTHONWARNINGS": "ignore"},
    )
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def bare(folder: Path, tasks: int, cpus: int) -> float:
    """Seconds that bare Ray tasks take which write one Parquet file each."""
    files = folder / f"bare-{tasks}"
    files.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BARE.format(tasks=tasks, cpus=cpus), str(files)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--tune-trials", type=int, default=20)
    parser.add_argument("--many", type=int, default=20000, help="0 leaves them out")
    parser.add_argument("--cpus", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few = compared(folder, asked.trials, asked.cpus)
        if asked.tune_trials:
            theirs = asked.tune_trials / tune(asked.tune_trials, asked.cpus)
            print(f"Ray Tune  {asked.tune_trials} trials: {theirs:.2f} a second")
            times = few["rate"] / theirs
            show("trials a second beside Ray Tune", times, "x", side="least", bar=500)
        if not asked.many:
            return
        many = compared(folder, asked.many, asked.cpus)
        grown = (many["peak"] - few["peak"]) / 1e6
        what = f"driver's memory, {asked.many} trials less {asked.trials}"
        show(what, grown, "MB", side="most", bar=50)
        for count, one in ((asked.trials, few), (asked.many, many)):
            print(
                f"ray       {count} trials leave {one['refs']:.0f} references in the "
                f"driver, {one['logs'] / 1e6:.2f} MB in {one['files']:.0f} log files"
            )


def compared(folder: Path, trials: int, cpus: int) -> dict[str, float]:
    """The engine beside as many bare Ray tasks, one after the other."""
    ours = engine(folder, trials, cpus)
    print(f"engine    {trials} trials in {ours['work']:.1f} s from plan to")
    print(f"          leaderboard: {ours['rate']:.0f} a second; the whole process,")
    print(f"          imports and Ray's start and end too, {ours['whole']:.1f} s")
    rate = trials / bare(folder, trials, cpus)
    print(f"bare Ray  {trials} tasks that write a file each: {rate:.0f} a second")
    what = f"{trials} trials beside bare Ray tasks"
    show(what, ours["rate"] / rate, "x", side="least", bar=0.7)
    return ours


if __name__ == "__main__":
    main()
