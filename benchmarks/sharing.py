"""What sharing saves: a grid on SmolLM2 against its trials, each in its own process.

Both sides use Ray-less processes of one thread, one after the other, so that the ratio
is of work done and not of cores; seconds are the processes' own processor time, so that
other work on the machine counts for little. Equal numbers are checked, not assumed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _figures import show

BARS = {"engine": 3.0, "lowrank": 6.0}
MAIN = "import sys; from harness.cli import main; main(sys.argv[1:])"
TASK = {"name": "pydoc-512", "limit": 1}
GRIDS: dict[str, dict[str, Any]] = {
    # Two methods x four ratios x two tasks.
    "engine": {
        "models": ["smollm2-135m"],
        "methods": ["svd", "magnitude"],
        "ratios": [0.1, 0.2, 0.3, 0.4],
        "tasks": [TASK, {"name": "pydoc-512", "limit": 2}],
    },
    # Five methods x five ratios x perplexity, with calibration.
    "lowrank": {
        "models": ["smollm2-135m"],
        "methods": ["svd", "joint_rank_k", "svd_llm", "basis_sharing", "wanda"],
        "ratios": [0.1, 0.2, 0.3, 0.4, 0.5],
        "tasks": [TASK],
        "calibration": {"samples": 16, "length": 256},
    },
}
QUERY = "SELECT trial, metric, value FROM measurements JOIN newest USING (attempt)"


def run(grid: Path, store: Path, *only: str) -> float:
    """Processor seconds of one command on a grid, in a process of its own."""
    line = [sys.executable, "-c", MAIN, "run", str(grid), "--store", str(store)]
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [*line, "--address", "inline", "--quiet", *only],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime


def numbers(store: Path) -> list[tuple[Any, ...]]:
    """Every measured number of a store, in order."""
    from results.queries.db import ask
    from results.storage.store import open_store

    return ask(open_store(store), f"{QUERY} ORDER BY ALL").rows


def main() -> None:
    """Print the table."""
    from harness.planning import grid as grids

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("grid", choices=sorted(GRIDS), nargs="?", default="engine")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"{asked.grid}.yaml"
        path.write_text(json.dumps(GRIDS[asked.grid]))
        together = run(path, Path(name) / "shared")
        alone = 0.0
        trials = [p.trial.id for p in grids.read(path).points()]
        for i, trial in enumerate(trials):
            # A store of its own, so that not even an artifact is shared.
            store = Path(name) / f"alone-{i}"
            alone += run(path, store, "--only", f"trial = '{trial}'")
        separate = sorted(
            row
            for i in range(len(trials))
            for row in numbers(Path(name) / f"alone-{i}")
        )
        equal = separate == sorted(numbers(Path(name) / "shared"))
    print(f"{asked.grid}: {len(trials)} trials on SmolLM2-135M, one thread")
    print(f"in bundles       {together:8.1f} s")
    print(f"a process each   {alone:8.1f} s")
    print(f"numbers          {'equal' if equal else 'DIFFERENT'}")
    if not equal:
        sys.exit(1)
    what = f"{asked.grid}: a process for each trial, beside bundles"
    show(what, alone / together, "x", side="least", bar=BARS[asked.grid])


if __name__ == "__main__":
    main()
