"""Grids of toys that run in the process of the test."""

from pathlib import Path

import pytest
from toy_runs import GRID, TWICE, Silent

from harness.executors.inline import Inline
from harness.planning import grid as grids
from harness.planning import plan as plans
from harness.running.driver import Driver
from results.queries.attempts import read_statuses
from results.storage.store import open_store


@pytest.fixture
def run(tmp_path: Path, toys: Path):
    """Run a grid of the given methods; returns the store and the outcome."""

    def runs(
        methods: str, limit: str = "2m", task: str = TWICE, *, keep=False, **options
    ):
        path = tmp_path / "grid.yaml"
        path.write_text(GRID.format(methods=methods, limit=limit, task=task))
        store = open_store(tmp_path / "store", create=True)
        plan = plans.make(grids.read(path), statuses=read_statuses(store), **options)
        driver = Driver(
            plan=plan,
            store=store,
            executor=Inline(),
            watcher=Silent(),
            keep_models=keep,
        )
        return store, plan, driver.run()

    return runs
