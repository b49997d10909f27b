"""Cold queries over stores of 10^4 to 10^6 trials: `python benchmarks/query.py`.

Each verb runs in a fresh process, as a user types it; stores are made by the
project's own writer, with ten measurements a trial, and kept under --folder.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from _figures import show

from results.storage.store import Store, open_store

METHODS = [f"method_{i:02d}" for i in range(19)]
SQL = (
    "SELECT method, ratio, avg(recovery) AS kept FROM recovery "
    "WHERE task = 'task_0' GROUP BY ALL ORDER BY kept DESC LIMIT 10"
)
VERBS = {
    "leaderboard": ["leaderboard", "--format", "csv"],
    "sql": ["sql", SQL],
    "status": ["status"],
    "compact": ["compact"],
}
# (trials, files) -> seconds and MB that the leaderboard may take.
BARS = {
    (10_000, "uncompacted"): (3, 1500),
    (1_000_000, "compacted"): (2, 1500),
    (10_000_000, "compacted"): (3, 1000),
}
# What any leaderboard must read, without versions, repeats or errors: the mean of each
# metric over seeds, of the same files.
BARE = """
SELECT task, protocol, m.metric, model, ratio, method, method_options,
       avg(m.value), stddev_samp(m.value), count(*)
FROM (SELECT *, unnest(measurements) AS m
      FROM read_parquet('{}/trials/compacted/*.parquet') WHERE status = 'ok')
WHERE m.goal <> 'none' GROUP BY ALL ORDER BY ALL
"""


def trials(count: int) -> Iterator[dict[str, Any]]:
    """Rows of a grid of methods x ratios x models x tasks x seeds."""
    draw = random.Random(0)
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    seeds = -(-count // (20 * 10 * 5 * 4))
    points = itertools.product(
        range(seeds), range(5), range(4), ["dense", *METHODS], range(10)
    )
    for i, (seed, model, task, method, tenth) in enumerate(points):
        if i == count:
            return
        ratio = 0.0 if method == "dense" else 0.05 + tenth * 0.09
        value = 0.9 - ratio * draw.random()
        names = ("accuracy", "perplexity", *(f"diagnostic_{j}" for j in range(8)))
        goals = ("max", "min", *["none"] * 8)
        yield {
            # As long, and as unlike one another, as the engine's own.
            "attempt": f"{0x19A0000000 + 40 * i:012x}{draw.getrandbits(48):012x}",
            "trial": f"{draw.getrandbits(64):016x}",
            "grid": "bench",
            "bundle": f"b{i // 10:07d}",
            "method": method,
            "method_options": "{}" if method != "dense" else f'{{"again":{tenth}}}',
            "model": f"model_{model}",
            "model_options": "{}",
            "task": f"task_{task}",
            "task_options": "{}",
            "protocol": f"p{task}",
            "protocol_fields": '{"window":2048}',
            "ratio": round(ratio, 4),
            "ratio_of": "weights",
            "seed": seed,
            "dtype": "float32",
            "status": "failed" if i % 97 == 0 else "ok",
            "started_at": start + dt.timedelta(seconds=i),
            "seconds": 1.5,
            "params": int(1e6 * (1 - ratio)),
            "achieved_ratio": ratio,
            "measurements": [
                {"metric": n, "value": value + j, "unit": "1", "goal": g, "n": 100}
                for j, (n, g) in enumerate(zip(names, goals, strict=True))
            ],
        }


def fill(store: Store, count: int, batch: int) -> float:
    """Write ``count`` trials and their plan; rows a second."""
    start = time.perf_counter()
    rows = trials(count)
    keys = ("grid", "trial", "bundle", "method", "method_options", "model", "task")
    keys += ("task_options", "ratio", "seed")
    number = 0
    while chunk := list(itertools.islice(rows, max(batch, 1000))):
        plan = {"plan": f"plan{number:05d}", "planned_at": chunk[0]["started_at"]}
        store.record_plan([plan | {k: row[k] for k in keys} for row in chunk])
        for i in range(0, len(chunk), batch):
            store.append_all(chunk[i : i + batch])
        number += 1
    return count / (time.perf_counter() - start)


def measure(words: list[str], store: Path) -> tuple[float, float, float]:
    """Seconds, processor seconds and peak MB of one verb in a fresh process."""
    code = "from harness.cli import main; main(sys.argv[1:])"
    return fresh(code, *words, "--store", str(store))


def fresh(code: str, *words: str) -> tuple[float, float, float]:
    """As ``measure``, of any code that is given words."""
    code = (
        f"import resource, sys\ntry: {code}\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,"
        " file=sys.stderr)"
    )
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - spent.ru_utime - spent.ru_stime
    return seconds, cpu, int(done.stderr.strip().splitlines()[-1]) / 1024


def beside_duckdb(store: Path, repeats: int = 3) -> float:
    """Processor time of the leaderboard, as often as DuckDB takes for bare means."""
    bare = "import duckdb; duckdb.sql(sys.argv[1]).fetchall()"
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(measure(VERBS["leaderboard"], store)[1])
        theirs.append(fresh(bare, BARE.format(store))[1])
    return median(ours) / median(theirs)


def main() -> None:
    """Print one line a store and verb."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--folder", type=Path, help="keep the stores here")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="shrinkgrid-query-"))
    print("   trials  files        verb          seconds     CPU      MB")
    for size in given.sizes:
        path = folder / str(size)
        if not path.exists():
            # One file a trial up to 10^4, as `run` writes them; more in batches.
            batch = 1 if size <= 10**4 else 5_000
            rate = fill(open_store(path, create=True), size, batch)
            print(f"{size:9,}  {rate:,.0f} rows/s appended, {batch} a file")
        for verb in ("leaderboard", "compact", "leaderboard", "sql", "status"):
            small = any((path / "trials").glob("*.parquet"))
            if verb == "compact" and not small:
                continue
            seconds, cpu, megabytes = measure(VERBS[verb], path)
            kind = "uncompacted" if small else "compacted"
            print(
                f"{size:9,}  {kind:11}  {verb:11}  {seconds:8.2f}  {cpu:6.2f}"
                f"  {megabytes:6,.0f}"
            )
            if verb == "leaderboard" and (size, kind) in BARS:
                what = f"leaderboard of {size:,} trials, {kind}"
                bars = BARS[size, kind]
                show(what, seconds, "s", side="most", bar=bars[0])
                show(f"{what}, memory", megabytes, "MB", side="most", bar=bars[1])
        if size >= 10**6:
            what = f"leaderboard of {size:,} trials beside bare means in DuckDB"
            show(what, beside_duckdb(path), "x", side="most", bar=1.5)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"the writer's own peak: {peak:,.0f} MB")


if __name__ == "__main__":
    main()
