"""SIGKILL at random moments loses nothing that was finished, and doubles nothing."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from results.queries.db import ask
from results.storage import leases
from results.storage.store import Store, open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
GRID = """
models: [toy]
methods: [toy_noop]
ratios: [0.1, 0.2, 0.3, 0.4, 0.5]
tasks: [{name: toy_slow, seconds: 0.4}]
seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
"""
TRIALS = 60


@pytest.fixture
def command(tmp_path: Path, toys: Path) -> list[str]:
    """The line that a person types, and types again."""
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    line = [sys.executable, "-c", "from harness.cli import main; main()"]
    line += ["run", str(path), "--store", str(tmp_path / "store"), "--cpus", "2"]
    return [*line, "--quiet"]


def store_of(command: list[str]) -> Store | None:
    folder = Path(command[command.index("--store") + 1])
    return open_store(folder) if (folder / "format.json").exists() else None


def finished(store: Store | None) -> Counter[str]:
    """How many ``ok`` rows each trial has."""
    if store is None:
        return Counter()
    rows = ask(
        store, "SELECT trial, count(*) FROM trials WHERE status = 'ok' GROUP BY 1"
    )
    return Counter(dict(rows.rows))


def start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for(store_folder: list[str], count: int, process: subprocess.Popen[bytes]):
    """Until so many trials are finished, or the run has ended."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if len(finished(store_of(store_folder))) >= count:
            return
        time.sleep(0.2)


def test_sigkill_of_the_driver_at_random_moments(command):
    rng = random.Random(7)
    before: Counter[str] = Counter()
    for _ in range(4):
        process = start(command)
        wait_for(command, len(before) + rng.randint(1, 5), process)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.communicate()
        now = finished(store_of(command))
        assert all(now[trial] == 1 for trial in before), "a finished trial was lost"
        assert set(now.values()) <= {1}, "a finished trial ran again"
        before = now
    assert 0 < len(before) < TRIALS, "the kills came too late to mean anything"

    last = start(command)
    said = last.communicate()[1]

    assert last.returncode == 0, said.decode()
    assert set(finished(store_of(command)).values()) == {1}
    assert len(finished(store_of(command))) == TRIALS
    assert not leases.read_all(store_of(command))


def freeze(command: list[str]) -> tuple[set[int], set[str]]:
    """Stop every worker; their processes, and the trials that each was at."""
    store = store_of(command)
    found = [m for m in leases.read_all(store) if m.alive()] if store else []
    for lease in found:
        os.kill(lease.pid, signal.SIGSTOP)
    done = (
        {a for (a,) in ask(store, "SELECT attempt FROM trials").rows} if store else {}
    )
    left = [[trial for a, trial in m.attempts if a not in done] for m in found]
    return {m.pid for m in found}, {trials[0] for trials in left if trials}


def test_a_machine_that_goes_down_leaves_a_lost_row_for_each_running_trial(command):
    process = start(command)
    wait_for(command, 2, process)
    workers, running = freeze(command)
    while not running and process.poll() is None:  # between two bundles
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.1)
        workers, running = freeze(command)
    for pid in {process.pid, *workers}:
        os.kill(pid, signal.SIGKILL)
    process.communicate()

    assert running
    last = start(command)
    said = last.communicate()[1]

    assert last.returncode == 0, said.decode()
    lost = ask(store_of(command), "SELECT trial FROM trials WHERE status = 'lost'")
    assert sorted(lost.rows) == sorted((trial,) for trial in running)
    assert set(finished(store_of(command)).values()) == {1}
    assert len(finished(store_of(command))) == TRIALS


def test_sigkill_of_workers_at_random_moments(command):
    rng = random.Random(11)
    process = start(command)
    # A trial whose worker dies twice is given up, so that each is harmed once.
    harmed: set[str] = set()
    killed = 0
    while process.poll() is None and killed < 5:
        time.sleep(rng.uniform(0.3, 1.0))
        workers, running = freeze(command)
        if workers and running.isdisjoint(harmed):
            os.kill(rng.choice(sorted(workers)), signal.SIGKILL)
            harmed |= running
            killed += 1
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    said = process.communicate()[1]

    assert killed >= 3
    assert process.returncode == 0, said.decode()
    assert set(finished(store_of(command)).values()) == {1}
    assert len(finished(store_of(command))) == TRIALS


def test_the_first_interrupt_drains_and_the_same_line_goes_on(command):
    process = start(command)
    wait_for(command, 3, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    done = len(finished(store_of(command)))

    assert process.returncode == 130
    assert 3 <= done < TRIALS
    assert not leases.read_all(store_of(command))

    again = start(command)
    again.communicate()
    assert again.returncode == 0
    assert len(finished(store_of(command))) == TRIALS


def test_the_second_interrupt_stops_within_seconds_and_leaves_no_process(command):
    slow = [w.replace("grid.yaml", "slow.yaml") for w in command]
    grid = next(Path(w) for w in command if w.endswith("grid.yaml"))
    grid.with_name("slow.yaml").write_text(GRID.replace("0.4}", "120}"))
    process = start(slow)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        store = store_of(slow)
        if store is not None and leases.read_all(store):
            break
        time.sleep(0.2)
    family = psutil.Process(process.pid).children(recursive=True)

    process.send_signal(signal.SIGINT)
    time.sleep(1)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    took = time.monotonic() - began

    assert process.returncode == 130
    assert took < 10, f"took {took:.1f} s"
    assert family
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive


def test_a_second_driver_is_told_who_holds_the_trials(command):
    process = start(command)
    wait_for(command, 1, process)
    # The driver is a child of the process that was typed.
    (driver,) = psutil.Process(process.pid).children()

    second = subprocess.run(command, capture_output=True, text=True, check=False)

    assert second.returncode == 2
    assert f"process {driver.pid} on " in second.stderr
    assert "of these trials" in second.stderr
    process.communicate()
    assert process.returncode == 0
    assert set(finished(store_of(command)).values()) == {1}
