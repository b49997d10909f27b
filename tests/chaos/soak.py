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
FAULTS_PER_ROUND = 12  # afterwards the round may end; each kind occurs at least once
FOLDER, DISK, BUCKET = PLACES = ("folder", "disk", "bucket")
ROWS = """
SELECT trial, status, error_class, reason, (
  SELECT string_agg(metric || ' ' || value::VARCHAR, ', ' ORDER BY metric)
  FROM measurements AS m WHERE m.attempt = newest.attempt
) FROM newest ORDER BY trial
"""
Done = Callable[["Round", Run], bool]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of fault.

    Args:
        do: Does it; False if it was not possible at that moment.
        places: Where the store may lie.
    """

    do: Done
    places: tuple[str, ...] = PLACES


@dataclass(kw_only=True)
class Round:
    """One store that is harmed until its grid is complete."""

    it: Scene
    rng: random.Random
    kind: str = FOLDER
    bucket: Bucket | None = None
    place: Path | None = None
    counts: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    seen: set[str] = field(default_factory=set)
    _left: list[str] = field(default_factory=list)

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
            self._check_end(run)
            now = self.it.finished()
            assert not self.seen - set(now), "finished trials are gone"
            assert set(now.values()) <= {1}, "finished trials ran twice"
            self.seen = set(now)
            whole = run.end() in (0, 3) and "stopped early" not in run.said
            if whole and not self._open():
                return

    def _check_end(self, run: Run) -> None:
        """The run ended in a known way, and said why in one message."""
        self.runs += 1
        code, errors = run.end(), re.findall("^error: .*", run.said, flags=re.M)
        assert code in ENDINGS, f"exit {code}: {run.said}"
        assert "Traceback" not in run.said, run.said
        assert len(errors) == (code == 2), f"exit {code}: {run.said}"
        _say(f"  exit {code}", *errors)

    def _harm(self, run: Run) -> None:
        """Do the next fault that is possible; each kind before any occurs again."""
        if not self._left:
            self._left = [n for n in sorted(FAULTS) if self.kind in FAULTS[n].places]
            self.rng.shuffle(self._left)
        for name in list(self._left):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if FAULTS[name].do(self, run):
                    self._left.remove(name)
                    self.counts[name] += 1
                    _say(f"  {name}")
                    return

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


def _say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


def _one_of(run: Run, rng: random.Random, program: str) -> psutil.Process | None:
    found = [p for p in run.family()[1:] if program in p.name()]
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
    lock = Path(it.it.store, "scratch", "compact.lock")
    while process.poll() is None and not _is_locked(lock):
        time.sleep(0.005)
    time.sleep(it.rng.uniform(0.0, 0.2))
    ended = process.poll() is not None
    process.kill()
    process.wait()
    return not ended


def _is_locked(path: Path) -> bool:
    """Whether a compaction has begun its work."""
    # From the kernel's list: to try the lock would keep the compaction from it.
    with contextlib.suppress(FileNotFoundError):
        return f":{path.stat().st_ino} " in Path("/proc/locks").read_text()
    return False


def _disk_full(it: Round, run: Run) -> bool:
    assert it.place is not None
    with fill(it.place):
        run.process.wait(120)
    return True


def _read_only(it: Round, run: Run) -> bool:
    assert it.place is not None
    if not remounted(it.place, "ro"):
        return False
    time.sleep(5)
    return remounted(it.place, "rw")


def _bucket_fails(it: Round, run: Run) -> bool:
    assert it.bucket is not None
    it.bucket.fail_for(it.rng.uniform(1.0, 10.0))
    return True


FAULTS = {
    "driver killed": Kind(do=_kill_driver),
    "driver told to end (SIGTERM)": Kind(do=_end_driver),
    "process of a trial killed": Kind(
        do=lambda it, _: _of_a_trial(it, lambda pid: os.kill(pid, signal.SIGKILL))
    ),
    "process of a trial stopped for 3 s": Kind(do=lambda it, _: _of_a_trial(it, _stop)),
    "worker or agent of Ray killed": Kind(do=_kill("ray::")),
    "raylet killed": Kind(do=_kill("raylet")),
    "GCS killed": Kind(do=_kill("gcs_server")),
    "compaction killed": Kind(do=_kill_compaction, places=(FOLDER, DISK)),
    "disk full": Kind(do=_disk_full, places=(DISK,)),
    "disk read-only": Kind(do=_read_only, places=(DISK,)),
    "object store answers 503": Kind(do=_bucket_fails, places=(BUCKET,)),
}


@contextlib.contextmanager
def _place(kind: str, folder: Path) -> Iterator[dict[str, object]]:
    """Where a round stores: a folder, a small disk, or a bucket."""
    if kind == BUCKET:
        with Bucket() as bucket:
            yield {"bucket": bucket, "store": bucket.uri}
    elif kind == DISK:
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


@dataclass(frozen=True, kw_only=True)
class Soaked:
    """What was done and compared.

    Args:
        counts: Faults by kind.
        rounds: Stores that were harmed until their grid was complete.
        runs: How often the command was run.
        trials: Trials of a round, all of which were compared.
    """

    counts: Counter[str]
    rounds: int
    runs: int
    trials: int

    def table(self) -> str:
        """The table of the page; a row that was lost would have ended the soak."""
        lines = [f"| {name} | {count} |" for name, count in sorted(self.counts.items())]
        lines += [
            f"| faults together | {self.counts.total()} |",
            f"| rounds of {self.trials} trials | {self.rounds} |",
            f"| runs of the command | {self.runs} |",
            f"| trials compared with the calm run | {self.rounds * self.trials} |",
            "| rows lost | 0 |",
            "| rows doubled | 0 |",
            "| rows different | 0 |",
        ]
        return "| what | count |\n|---|---:|\n" + "\n".join(lines) + "\n"


def soak(seconds: float, seed: int, grid: str, folder: Path) -> Soaked:
    """Harm round after round.

    Args:
        seconds: After which no further fault is done.
        seed: Of the choice of faults.
        grid: As YAML.
        folder: For everything.

    Returns:
        What was done, if no row was lost, doubled or different.
    """
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    (folder / "calm").mkdir()
    with scene(folder / "calm", grid_text=grid, limit=LIMIT) as calm:
        # No fault after a deadline that is over; Ray may fail to start by itself.
        Round(it=calm, rng=rng).complete(deadline=0.0)
        expected = _rows(calm)
    assert len(expected) == len(calm.trials()), len(expected)
    _say(f"{len(expected)} trials without a fault")
    deadline = time.monotonic() + seconds
    rounds = runs = 0
    while time.monotonic() < deadline or rounds == 0:
        here = folder / f"round-{rounds}"
        here.mkdir()
        kind = PLACES[rounds % 3]
        _say(f"round {rounds + 1}, in a {kind}")
        with _place(kind, here) as place:
            store = str(place.pop("store"))
            with scene(here, grid_text=grid, store=store, limit=LIMIT) as it:
                one = Round(it=it, rng=rng, kind=kind, **place)  # type: ignore[arg-type]
                one.complete(deadline)
                different = set(_rows(it)) ^ set(expected)
                assert not different, f"rows differ from the calm run: {different}"
        counts += one.counts
        runs += one.runs
        rounds += 1
    return Soaked(counts=counts, rounds=rounds, runs=runs, trials=len(expected))


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
        text = soak(options.seconds, options.seed, text, Path(folder)).table()
    PAGE.write_text(between("soak", text, PAGE.read_text()))
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
