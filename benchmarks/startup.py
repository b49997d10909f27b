"""How long a person waits for the command line, against the imports it cannot avoid.

`shrinkgrid --help`, and `shrinkgrid leaderboard` on a store of 1,000 rows beside
`python -c "import duckdb, pyarrow"`, each the median of several processes in turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from results.storage.store import new_attempt, open_store

MAIN = "import sys; from harness.cli import main; main(sys.argv[1:])"


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


def seconds(line: list[str], environment: dict[str, str]) -> float:
    """Wall time of one process."""
    began = time.perf_counter()
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rows", type=int, default=1000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        store = Path(name) / "store"
        fill(store, asked.rows)
        lines = {
            "help": [sys.executable, "-c", MAIN, "--help"],
            "imports": [sys.executable, "-c", "import duckdb, pyarrow"],
            "leaderboard": [sys.executable, "-c", MAIN, "leaderboard"],
        }
        environment = os.environ | {"SHRINKGRID_STORE": str(store)}
        taken: dict[str, list[float]] = {key: [] for key in lines}
        for _ in range(asked.repeats + 1):  # the first round fills the file cache
            for key, line in lines.items():
                taken[key].append(seconds(line, environment))
    middle = {key: statistics.median(values[1:]) for key, values in taken.items()}
    ratios = [
        a / b
        for a, b in zip(taken["leaderboard"][1:], taken["imports"][1:], strict=True)
    ]
    print(f"shrinkgrid --help          {middle['help']:.2f} s")
    print(f"import duckdb, pyarrow     {middle['imports']:.2f} s")
    print(
        f"shrinkgrid leaderboard     {middle['leaderboard']:.2f} s, {asked.rows} rows"
    )
    print(f"ratio to the imports       {statistics.median(ratios):.2f}, taken in turn")


if __name__ == "__main__":
    main()
