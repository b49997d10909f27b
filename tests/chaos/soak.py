"""Random faults over a grid with misbehaving plugins, against an undisturbed run.

Run as `make soak`. A round runs the grid in a new store, does one fault after another
to it, and runs the same command until the grid is complete. The rows of every round
must equal those of a run that nothing disturbed, to the last digit.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from bucket import Bucket
from faults import scene
from faults_of_stores import disk, fill, remounted
from scene import Run, Scene
from table import PAGE, between

from results.queries.db import ask

ROOT = Path(__file__).parents[2]
ENDS = ("exit", "interrupt", "generator_exit", "base", "silent", "full")
DEATHS = ("os_exit", "segfault", "abort", "kill")
SPOILS = ("dtype", "double", "deepcopy", "no_grad", "numpy", "directory", "stdout")
METHODS = ["toy_noop", "toy_drop", "{name: toy_spoils, how: environment}"]
METHODS += [f"{{name: toy_ends, how: {how}}}" for how in (*ENDS, *DEATHS)]
METHODS += [f"{{name: toy_spoils, how: {how}}}" for how in SPOILS]
RATIOS = (0.5, 0.1, 0.3, 0.7, 0.9)  # the methods above misbehave at 0.5, or always
LIMIT = 900.0  # seconds after which a run hangs
# 130: told to end; the signals: killed, or told to end before anything ran or twice.
ENDINGS = (0, 2, 3, 130, -signal.SIGKILL, -signal.SIGTERM)
FAULTS_PER_ROUND = 12  # afterwards the round may end
ROWS = """
SELECT trial, status, error_class, reason, (
  SELECT string_agg(metric || ' ' || value::VARCHAR, ', ' ORDER BY metric)
  FROM measurements AS m WHERE m.attempt = newest.attempt
) FROM newest ORDER BY trial
"""
Done = Callable[["Round", Run], bool]


@dataclass(kw_only=True)
class Round:
    """One store that is harmed until its grid is complete."""

    it: Scene
    rng: random.Random
    bucket: Bucket | None = None
    place: Path | None = None
    counts: Counter[str] = field(default_factory=Counter)
    seen: set[str] = field(default_factory=set)

    def complete(self, deadline: float) -> None:
        """Run the command again and again; harm it until the deadline."""
        while True:
            run = self.it.start()
            while run.process.poll() is None:
                with contextlib.suppress(Exception):
                    run.process.wait(self.rng.uniform(1.0, 8.0))
                few = sum(self.counts.values()) < FAULTS_PER_ROUND
                if few and time.monotonic() < deadline and run.process.poll() is None:
                    self._harm(run)
                else:
                    break
            code = run.end()
            assert code in ENDINGS, f"exit {code}: {run.said}"
            assert "Traceback" not in run.said, run.said
            now = self.it.finished()
            assert not self.seen - set(now), "finished trials are gone"
            assert set(now.values()) <= {1}, "finished trials ran twice"
            self.seen = set(now)
            if code in (0, 3) and "stopped early" not in run.said and not self._open():
                return

    def _harm(self, run: Run) -> None:
        name = self.rng.choice(sorted(FAULTS))
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if FAULTS[name](self, run):
                self.counts[name] += 1
                sys.stdout.write(f"  {name}\n")
                sys.stdout.flush()

    def _open(self) -> bool:
        """Whether trials of the grid were never tried to their end."""
        store = self.it.opened()
        assert store is not None
        # A trial that dies by itself stays lost; one that was killed runs again.
        query = "SELECT count(*) FROM newest WHERE status IN ('lost', 'cancelled')"
        dies = f"method_options NOT SIMILAR TO '.*({'|'.join(DEATHS)}).*'"
        tried = "SELECT count(DISTINCT trial) FROM trials"
        left = ask(store, f"{query} AND ({dies} OR ratio <> 0.5)").rows[0][0]
        return bool(left) or ask(store, tried).rows[0][0] < len(self.it.trials())


def _one_of(run: Run, rng: random.Random, program: str) -> psutil.Process | None:
    family = psutil.Process(run.process.pid).children(recursive=True)
    found = [p for p in family if program in p.name()]
    return rng.choice(found) if found else None


def _kill(program: str) -> Done:
    def harm(it: Round, run: Run) -> bool:
        victim = _one_of(run, it.rng, program)
        if victim is not None:
            victim.kill()
        return victim is not None

    return harm


def _kill_driver(it: Round, run: Run) -> bool:
    run.kill()
    return True


def _end_driver(it: Round, run: Run) -> bool:
    run.process.send_signal(signal.SIGTERM)
    return True


def _of_a_trial(it: Round, do: Callable[[int], None]) -> bool:
    workers = it.it.running()
    if workers:
        do(it.rng.choice(workers)[0].pid)
    return bool(workers)


def _stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(3)
    os.kill(pid, signal.SIGCONT)


def _kill_compaction(it: Round, run: Run) -> bool:
    process = it.it.verb("compact")
    time.sleep(it.rng.uniform(0.5, 4.0))
    if process.poll() is not None:
        return False
    process.kill()
    process.wait()
    return True


def _disk_full(it: Round, run: Run) -> bool:
    if it.place is None:
        return False
    with fill(it.place):
        run.process.wait(120)
    return True


def _read_only(it: Round, run: Run) -> bool:
    if it.place is None or not remounted(it.place, "ro"):
        return False
    time.sleep(5)
    return remounted(it.place, "rw")


def _bucket_fails(it: Round, run: Run) -> bool:
    if it.bucket is not None:
        it.bucket.fail_for(it.rng.uniform(1.0, 10.0))
    return it.bucket is not None


FAULTS: dict[str, Done] = {
    "driver killed": _kill_driver,
    "driver told to end (SIGTERM)": _end_driver,
    "process of a trial killed": lambda it, _: _of_a_trial(
        it, lambda pid: os.kill(pid, signal.SIGKILL)
    ),
    "process of a trial stopped for 3 s": lambda it, _: _of_a_trial(it, _stop),
    "worker of Ray killed": _kill("ray::"),
    "raylet killed": _kill("raylet"),
    "GCS killed": _kill("gcs_server"),
    "compaction killed": _kill_compaction,
    "disk full": _disk_full,
    "disk read-only": _read_only,
    "object store answers 503": _bucket_fails,
}


@contextlib.contextmanager
def _place(kind: str, folder: Path) -> Iterator[dict[str, object]]:
    """Where a round stores: a folder, a small disk, or a bucket."""
    if kind == "bucket":
        with Bucket() as bucket:
            yield {"bucket": bucket, "store": bucket.uri}
    elif kind == "disk":
        with disk(folder, megabytes=64) as place:
            yield {"place": place, "store": f"{place}/store"}
    else:
        yield {"store": str(folder / "store")}


def _rows(it: Scene) -> list[tuple[object, ...]]:
    store = it.opened()
    assert store is not None
    return [_comparable(row) for row in ask(store, ROWS).rows]


def _comparable(row: tuple[object, ...]) -> tuple[object, ...]:
    """A row without the ids of processes that a reason may name."""
    trial, status, error_class, reason, measured = row
    return trial, status, error_class, re.sub(r"\d+", "#", str(reason)), str(measured)


def grid_text(ratios: int) -> str:
    """The grid with so many ratios; 40 trials each."""
    return (
        f"{{models: [toy], methods: [{', '.join(METHODS)}],"
        f" ratios: {list(RATIOS[:ratios])},"
        " tasks: [{name: toy_sum, by: 3.7}, {name: toy_slow, seconds: 0.2}]}"
    )


def soak(
    seconds: float, seed: int, grid: str, folder: Path
) -> tuple[Counter[str], int, int]:
    """Harm round after round.

    Args:
        seconds: After which no further fault is done.
        seed: Of the choice of faults.
        grid: As YAML.
        folder: For everything.

    Returns:
        Faults by kind, rounds, and trials of a round.
    """
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    (folder / "calm").mkdir()
    with scene(folder / "calm", grid_text=grid, limit=LIMIT) as calm:
        assert calm.start().end() == 3  # the plugins that misbehave fail
        expected = _rows(calm)
    assert len(expected) == len(calm.trials()), len(expected)
    sys.stdout.write(f"{len(expected)} trials without a fault\n")
    deadline = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < deadline or rounds == 0:
        here = folder / f"round-{rounds}"
        here.mkdir()
        kind = ("folder", "disk", "bucket")[rounds % 3]
        sys.stdout.write(f"round {rounds + 1}, in a {kind}\n")
        with _place(kind, here) as place:
            store = str(place.pop("store"))
            with scene(here, grid_text=grid, store=store, limit=LIMIT) as it:
                one = Round(it=it, rng=rng, **place)  # type: ignore[arg-type]
                one.complete(deadline)
                assert _rows(it) == expected, "rows differ from the undisturbed run"
        counts += one.counts
        rounds += 1
    return counts, rounds, len(expected)


def main() -> None:
    """Soak, then write the table of the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ratios", type=int, default=len(RATIOS), choices=range(1, 6))
    options = parser.parse_args()
    os.environ["SHRINKGRID_PLUGINS"] = str(ROOT / "tests/toys")
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TOY_COUNTS"] = folder
        text = grid_text(options.ratios)
        counts, rounds, trials = soak(options.seconds, options.seed, text, Path(folder))
    lines = [f"| {name} | {count} |" for name, count in sorted(counts.items())]
    lines += [
        f"| faults together | {counts.total()} |",
        f"| rounds of {trials} trials | {rounds} |",
        f"| trials compared with the undisturbed run | {rounds * trials} |",
        "| rows lost | 0 |",
        "| rows doubled | 0 |",
        "| rows different | 0 |",
    ]
    text = "| what | count |\n|---|---:|\n" + "\n".join(lines) + "\n"
    PAGE.write_text(between("soak", text, PAGE.read_text()))
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
