"""A hundred kills in a row of one grid's driver, at any moment of its life."""

import multiprocessing
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from harness.planning import grid as grids
from results.queries.attempts import read_statuses
from results.queries.db import ask
from results.storage import leases
from results.storage.store import Store, open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
KILLS = 100
GRID = """
models: [toy]
methods: [toy_noop]
ratios: [0.1, 0.2, 0.3, 0.4, 0.5]
tasks: [{name: toy_slow, seconds: 0.05}]
seeds: [%s]
"""


def typed(grid: str, store: str) -> None:
    """`shrinkgrid run` in a process whose imports are done."""
    from harness.cli import main

    words = ["run", grid, "--store", store, "--quiet", "--address", "inline"]
    main(words)


def rows(store: Store) -> dict[str, int]:
    """How many ``ok`` rows each finished trial has."""
    query = "SELECT trial, count(*) FROM trials WHERE status = 'ok' GROUP BY 1"
    return dict(ask(store, query).rows)


def wait_for_a_trial(store: Store, process: BaseProcess) -> None:
    """Wait until a process is running a trial, or has ended."""
    while process.is_alive():
        if process.pid in {lease.pid for lease in leases.read_all(store)}:
            return
        time.sleep(0.02)


def test_a_hundred_kills_in_a_row_lose_nothing_and_double_nothing(tmp_path, toys):
    grid, folder = tmp_path / "grid.yaml", tmp_path / "store"
    grid.write_text(GRID % ", ".join(map(str, range(100))))
    store = open_store(folder, create=True)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(
        ["harness.cli.run", "harness.running.session", "harness.running.worker"]
    )
    rng = random.Random(5)
    before: dict[str, int] = {}

    for _ in range(KILLS):
        process = processes.Process(target=typed, args=(str(grid), str(folder)))
        process.start()
        if rng.random() < 0.7:  # else while it starts, reconciles, plans or claims
            wait_for_a_trial(store, process)
        time.sleep(rng.uniform(0.0, 0.4))
        alive = process.is_alive()
        process.kill()
        process.join()
        assert alive, "the grid was too small for a hundred kills"
        now = rows(store)
        assert all(now.get(trial) == 1 for trial in before), "lost, or ran again"
        assert set(now.values()) <= {1}, "a trial has two rows of its own making"
        before = now

    assert len(before) > KILLS / 10, "the kills hit no trial"
    grid.write_text(GRID % ", ".join(map(str, range(len(before) // 5 + 2))))
    last = processes.Process(target=typed, args=(str(grid), str(folder)))
    last.start()
    last.join()
    assert last.exitcode == 0
    assert {p.trial.id for p in grids.read(grid).points()} <= set(rows(store))
    assert set(rows(store).values()) == {1}
    assert not leases.read_all(store)
    assert _lost(store), "no trial was ever running"


def _lost(store: Store) -> int:
    found = ask(store, "SELECT count(*) FROM trials WHERE status = 'lost'").rows
    return int(found[0][0])


def test_what_the_kills_leave_beside_the_rows_is_no_row(tmp_path):
    store = open_store(tmp_path / "store", create=True)
    folder = Path(store.uri) / "trials"
    folder.mkdir()
    (folder / ".half.parquet.1234.tmp").write_bytes(b"PAR1 half of a file")

    assert read_statuses(store) == {}
    assert not store.warnings
