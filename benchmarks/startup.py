"""What a command costs a person who waits, against the imports it cannot avoid.

`--help`, `leaderboard` on a store of 1,000 rows, `list tasks`, `plan` of the quick
start and `run` of a finished grid, beside `import duckdb, pyarrow` and `import torch`;
each the median of several processes in turn. Ratios are of processor time, so that
other work on the machine counts for little.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from _figures import show

from results.storage.store import new_attempt, open_store

MAIN = "import sys; from harness.cli import main; main(sys.argv[1:])"
GRID = """
models: [{name: mlp, recipe: {epochs: 1}}]
methods: [dense, svd]
ratios: [0.5]
tasks: [digits]
"""
# Command -> beside what, and how often it may take the processor time of that. Torch
# takes 2 seconds on an idle machine of 2024.
BARS = {
    "--help": ("import torch", 0.075),
    "leaderboard": ("import duckdb, pyarrow", 2.0),
    "list tasks": ("import torch", 0.25),
    "plan quickstart": ("import torch", 0.5),
    "run, all finished": ("import torch", 0.5),
}


def fill(folder: Path, rows: int) -> None:
    """A store of finished trials, written and compacted by the project's own code."""
    from results.queries.compaction import compact

    store = open_store(folder, create=True)
    for i in range(rows):
        number = {"metric": "accuracy", "value": 0.9, "unit": "1", "goal": "max"}
        store.append(
            {
                "attempt": new_attempt(),
                "trial": f"{i:016x}",
                "method": "dense" if i % 10 == 0 else f"method{i % 10}",
                "method_options": "{}",
                "model": f"model{i % 5}",
                "model_options": "{}",
                "task": "task",
                "task_options": "{}",
                "protocol": "p",
                "ratio": (i % 10) / 10,
                "seed": i // 50,
                "status": "ok",
                "started_at": datetime.now(UTC),
                "measurements": [number],
            }
        )
    compact(store)


def spent(line: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds of one process by the clock, and of the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(line, check=True, capture_output=True, env=environment)
    clock = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        store, grid = Path(name) / "store", Path(name) / "grid.yaml"
        fill(store, asked.rows)
        grid.write_text(GRID)
        # No plan is remembered before the first round, which does not count.
        environment = os.environ | {
            "SHRINKGRID_STORE": str(store),
            "XDG_CACHE_HOME": f"{name}/cache",
        }
        ours = [sys.executable, "-c", MAIN]
        finished = [*ours, "run", str(grid), "--store", f"{name}/done"]
        spent([*finished, "--address", "inline"], environment)
        lines = {
            "import duckdb, pyarrow": [sys.executable, "-c", "import duckdb, pyarrow"],
            "import torch": [sys.executable, "-c", "import torch"],
            "--help": [*ours, "--help"],
            "leaderboard": [*ours, "leaderboard"],
            "list tasks": [*ours, "list", "tasks"],
            "plan quickstart": [*ours, "plan", "quickstart", "--store", f"{name}/no"],
            "run, all finished": finished,
        }
        taken: dict[str, list[tuple[float, float]]] = {key: [] for key in lines}
        for _ in range(asked.repeats + 1):  # the first round fills the caches
            for key, line in lines.items():
                taken[key].append(spent(line, environment))
    print("                          clock  processor, medians, in turn")
    middle = {}
    for key, values in taken.items():
        clock, middle[key] = map(statistics.median, zip(*values[1:], strict=True))
        print(f"{key:24} {clock:6.2f} s {middle[key]:6.2f} s")
    for key, (beside, bar) in BARS.items():
        what = f"processor time of {key} beside {beside}"
        show(what, middle[key] / middle[beside], "x", side="most", bar=bar)


if __name__ == "__main__":
    main()
