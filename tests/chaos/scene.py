"""A running grid that can be harmed, and the store checked against the grid."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path

import psutil

from harness.planning import grid as grids
from harness.running.recovery import committed
from results.errors import StoreError
from results.queries.db import ask
from results.storage import leases
from results.storage.store import Store, open_store

GRID = """
models: [toy]
methods: [{methods}]
ratios: [0.1, 0.3, 0.5]
tasks: [{{name: toy_slow, seconds: {seconds}}}]
seeds: [0, 1, 2, 3]
resources: {{{resources}}}
"""
LONG = 200.0  # seconds after which a run hangs, whatever it does
INLINE = ("--address", "inline")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a fault cost.

    Args:
        finished: Trials that were finished when the harm was done.
        lost: Those of them without a finished row afterwards.
        doubled: Trials with more than one ``ok`` row.
        missing: Trials of the grid without an ``ok`` row at the very end.
        ended: How the harmed run ended.
        again: What typing the line again did.
        seconds: From the harm, or from typing the line again where the run had ended,
            to the end of the first trial that started since; of those that were hurt,
            where the harm was done to one of several workers.
        statuses: Attempts by status.
    """

    finished: int
    lost: int
    doubled: int
    missing: int
    ended: str
    again: str
    seconds: float
    statuses: Mapping[str, int]


@dataclass(kw_only=True)
class Run:
    """One `shrinkgrid run` in a process of its own."""

    process: subprocess.Popen[bytes]
    log: Path
    limit: float = LONG

    @property
    def said(self) -> str:
        """Its stderr so far."""
        return self.log.read_text(errors="replace")

    def family(self) -> list[psutil.Process]:
        """It and every process under it."""
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def child(self, program: str) -> psutil.Process:
        """A process under it that runs a program, once there is one."""
        deadline = time.monotonic() + LONG
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                for one in self.family()[1:]:
                    if program in one.name():
                        return one
            time.sleep(0.02)
        raise AssertionError(f"no {program} was started; it said: {self.said}")

    def end(self) -> int:
        """Its exit status, once it has ended."""
        try:
            return self.process.wait(self.limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the run hangs; it said: {self.said}") from None

    def kill(self) -> None:
        """SIGKILL to the driver, and to nothing else."""
        self.process.kill()
        self.process.wait()


@dataclass(kw_only=True)
class Scene:
    """A grid, a store, and the line that runs the one into the other.

    Args:
        folder: For everything that the scene writes.
        methods: Of the grid, as YAML.
        seconds: That a trial takes.
        resources: Of the grid, as YAML.
        grid_text: The whole grid, in place of the three.
        words: Options of `run`.
        store: Path or URI; a folder beside the grid by default.
        env: Added to the environment of every run.
        before: Words in front of the line, as those that make another user of it.
        clock: How far the clock of the line typed again is ahead, in seconds.
        limit: Seconds after which a run hangs.
    """

    folder: Path
    methods: str = "toy_noop"
    seconds: float = 0.4
    resources: str = "cpus: 1"
    grid_text: str = ""
    words: tuple[str, ...] = ("--cpus", "2")
    store: str = ""
    env: dict[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    clock: float = 0.0
    limit: float = LONG
    _runs: list[Run] = field(default_factory=list)
    _before: Counter[str] = field(default_factory=Counter)
    _hurt: set[str] = field(default_factory=set)
    _harmed_at: float = 0.0
    _again_at: float = 0.0
    _recovered: float | None = None
    _ended: str = ""
    _again: str = ""

    def __post_init__(self) -> None:
        self.store = self.store or str(self.folder / "store")
        self.grid = self.folder / "grid.yaml"
        made = GRID.format(
            methods=self.methods, seconds=self.seconds, resources=self.resources
        )
        self.grid.write_text(self.grid_text or made)

    def start(self, *words: str, env: Mapping[str, str] | None = None) -> Run:
        """Type the line.

        Args:
            *words: Options beside the scene's own.
            env: Variables of this run alone.
        """
        line = [*self.before, sys.executable, "-c"]
        line += ["from harness.cli import main; main()", "run"]
        line += [str(self.grid), "--store", self.store, "--quiet", *self.words, *words]
        log = self.folder / f"run-{len(self._runs)}.log"
        with log.open("wb") as err:
            process = subprocess.Popen(
                line,
                stdout=subprocess.DEVNULL,
                stderr=err,
                cwd=self.folder,
                env={**os.environ, **self.env, **(env or {})},
            )
        run = Run(process=process, log=log, limit=self.limit)
        self._runs.append(run)
        return run

    def verb(self, name: str) -> subprocess.Popen[bytes]:
        """Another command on the store."""
        line = [sys.executable, "-m", "harness", name, "--store", self.store]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            line, stdout=quiet, stderr=quiet, cwd=self.folder, env=os.environ | self.env
        )

    def trials(self) -> set[str]:
        """The ids of the grid's trials."""
        return {p.trial.id for p in grids.read(self.grid).points()}

    def opened(self) -> Store | None:
        """The store, once a run has made it."""
        try:
            return open_store(self.store)
        except StoreError as why:
            if "no store at" in str(why):
                return None
            raise

    def finished(self) -> Counter[str]:
        """How many ``ok`` rows each trial has."""
        store = self.opened()
        if store is None:
            return Counter()
        query = "SELECT trial, count(*) FROM trials WHERE status = 'ok' GROUP BY 1"
        return Counter(dict(ask(store, query).rows))

    def until(self, true: Callable[[], object], run: Run | None = None) -> None:
        """Wait until something is so; fails where it never is, or the run ends."""
        deadline = time.monotonic() + LONG
        while not true():
            assert time.monotonic() < deadline, "waited in vain"
            ended = run is not None and run.process.poll() is not None
            assert not ended, f"the run ended too soon; it said: {run and run.said}"
            time.sleep(0.1)

    def under_way(self, count: int = 3, env: Mapping[str, str] | None = None) -> Run:
        """Start a run and wait until ``count`` trials are finished."""
        run = self.start(env=env)
        self.until(lambda: len(self.finished()) >= count, run)
        return run

    def running(self) -> list[tuple[leases.Lease, str]]:
        """Each lease of this machine with the trial that its worker is running."""
        store = self.opened()
        found = []
        for lease in leases.read_all(store) if store else []:
            left = (t for a, t in lease.attempts if not committed(store, a))
            trial = next(left, None)
            if trial is not None and lease.host == socket.gethostname():
                found.append((lease, trial))
        return found

    def worker(
        self, run: Run, among: Callable[[int], bool] = lambda pid: True
    ) -> tuple[int, str]:
        """Process and trial of a worker that is running one."""
        found: list[tuple[int, str]] = []

        def seen() -> bool:
            found[:] = [(m.pid, t) for m, t in self.running() if among(m.pid)]
            return bool(found)

        self.until(seen, run)
        return found[0]

    def harmed(self, *hurt: str) -> None:
        """Note what was finished when the harm was done, and which trials were hurt."""
        self._harmed_at = time.time()
        self._before = self.finished()
        self._hurt = set(hurt)

    def recovered(self, run: Run) -> None:
        """Wait for the next finished trial; where committing is what takes long."""
        before = sum(self._before.values())
        self.until(lambda: sum(self.finished().values()) > before, run)
        self._recovered = time.time() - self._harmed_at

    def ended(self, run: Run, status: int | str) -> None:
        """The harmed run ends as it should.

        Args:
            run: The run.
            status: Its exit status; words for one that was killed.
        """
        if isinstance(status, str):
            self._ended = status
            return
        code = run.end()
        assert code == status, f"exit {code}, not {status}; it said: {run.said}"
        assert "Traceback" not in run.said, run.said
        self._ended = f"exit {code}" if code else "goes on, exit 0"

    def again(self, *words: str) -> Run:
        """Type the line again; it ends well."""
        earlier = sum(self.finished().values())
        if self._ended != "goes on, exit 0":
            self._again_at = time.time()
        run = self.start(*words)
        code = run.end()
        assert code == 0, f"exit {code}; it said: {run.said}"
        ran = sum(self.finished().values()) - earlier
        line = f"`{' '.join(words)}` " if words else ""
        self._again = f"{line}runs {ran} trials" if ran else "finds nothing to do"
        return run

    def outcome(self) -> Outcome:
        """Check the store against the grid."""
        store = self.opened()
        assert store is not None
        assert self._ended, "a scene says how the harmed run ended"
        wanted = self.trials()
        now = self.finished()
        assert not leases.read_all(store), "a lease was left behind"
        assert not set(now) - wanted, "the store has trials that the grid has not"
        counted = ask(store, "SELECT status, count(*) FROM trials GROUP BY 1").rows
        return Outcome(
            finished=len(self._before),
            lost=len(set(self._before) - set(now)),
            doubled=sum(count > 1 for count in now.values()),
            missing=len(wanted - set(now)),
            ended=self._ended,
            again=self._again,
            seconds=self._recovery(store),
            statuses=dict(counted),
        )

    def _recovery(self, store: Store) -> float:
        if self._recovered is not None:
            return self._recovered
        since = (self._again_at or self._harmed_at) + self.clock
        query = "SELECT trial, started_at, seconds FROM trials WHERE status = 'ok'"
        rows = [
            (trial, started.replace(tzinfo=UTC).timestamp() - since, took)
            for trial, started, took in ask(store, query).rows
        ]
        wanted = self._hurt or {trial for trial, _, _ in rows} - set(self._before)
        ends = [
            late + took for trial, late, took in rows if trial in wanted and late > 0
        ]
        return min(ends, default=0.0)

    def close(self) -> None:
        """End what still runs."""
        for run in self._runs:
            if run.process.poll() is None:
                run.kill()
