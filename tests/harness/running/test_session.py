"""The session: plan against a store, claim trials, give way to other drivers."""

import socket
import time
from pathlib import Path

import pytest

from harness.core import BenchError
from harness.executors.inline import Inline
from harness.running import session
from harness.running.grid_status import grid_status
from harness.running.session import Selection
from results.boards import page_data
from results.boards.running_now import running_now
from results.queries import grids
from results.queries.db import ask
from results.storage import leases
from results.storage.store import Store, open_store


class Silent:
    """A watcher that shows nothing."""

    def event(self, job, trial, event) -> None:
        """Nothing."""


@pytest.fixture
def grid(toy_grid) -> str:
    return str(toy_grid(methods=["dense", "toy_drop"], ratios=[0.25, 0.5]))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store", create=True)


def run(grid: str, store: Store, selection: Selection | None = None):
    with session.claim(grid, store, selection or Selection()) as claimed:
        return session.drive(claimed, store, Inline(), Silent())


def test_a_run_claims_records_its_plan_and_leaves_no_lease(grid, store):
    with session.claim(grid, store, Selection()) as claimed:
        owners = leases.owners(store)
        outcome = session.drive(claimed, store, Inline(), Silent())

    assert [owner.run for owner in owners] == [claimed.run_id]
    assert outcome.counts == {"ok": 3}
    assert leases.owners(store) == []
    assert ask(store, "SELECT count(*) FROM plans").rows == [(3,)]


def test_a_finished_grid_is_neither_claimed_nor_recorded_again(grid, store):
    run(grid, store)
    with session.claim(grid, store, Selection()) as claimed:
        assert claimed.planned.plan.bundles == []
        assert leases.owners(store) == []

    assert ask(store, "SELECT count(DISTINCT plan) FROM plans").rows == [(1,)]


def test_two_drivers_do_not_run_the_same_trials(grid, store):
    with session.claim(grid, store, Selection()):
        # The other driver has settled, so this one gives way whatever its id is.
        with pytest.raises(BenchError, match="has been running 3 of these trials"):
            run(grid, store)
        with session.claim(grid, store, Selection(), take_over=True) as claimed:
            assert claimed.planned.plan.trials == 3


def test_drivers_of_other_trials_run_side_by_side(grid, store):
    with session.claim(grid, store, Selection(only="ratio = 0.5")):
        outcome = run(grid, store, Selection(only="ratio = 0.25"))

    assert outcome.counts == {"ok": 1}


def test_trials_that_end_while_a_run_claims_are_not_run_again(grid, store, monkeypatch):
    rest = Selection(only="ratio = 0.5")
    hold = leases.claim

    def meanwhile(*arguments):
        monkeypatch.setattr(leases, "claim", hold)
        assert run(grid, store, rest).counts == {"ok": 1}
        return hold(*arguments)

    monkeypatch.setattr(leases, "claim", meanwhile)
    with session.claim(grid, store, Selection()) as claimed:
        assert claimed.planned.plan.trials == 2


def test_a_plan_reads_the_attempts_once(grid, store, monkeypatch):
    run(grid, store)
    reads = []
    read = session.read_attempts
    monkeypatch.setattr(
        session, "read_attempts", lambda store: reads.append(1) or read(store)
    )

    session.prepare(grid, store)
    assert len(reads) == 1


def test_recovery_gives_trials_of_dead_workers_a_row(grid, store):
    gone = 2**22 + 1  # above the largest process id of Linux
    path = "running/job.json"
    text = (
        f'{{"run": "r", "host": "{socket.gethostname()}", "pid": {gone}, '
        f'"started_at": {time.time()}, "attempts": [["a", "t"]]}}'
    )
    store.folder.write(path, text.encode())

    assert session.recover(store) == 1
    assert ask(store, "SELECT trial, status FROM trials").rows == [("t", "lost")]


def test_only_a_store_of_many_files_is_compacted(grid, store, monkeypatch):
    run(grid, store)
    assert session.compact(store) is None
    assert len(store.files("trials")) == 3

    monkeypatch.setattr(session, "MANY_FILES", 2)
    assert session.compact(store) is None
    assert len(store.files("trials")) == 1


def whole(store: Store) -> tuple[int, int, int | None]:
    """What the status of the grid by its name says: done, missing, selected."""
    found = grid_status("grid", store)
    return found.counts["done"], found.counts["missing"], found.selected


QUARTER, HALF = Selection(only="ratio = 0.25"), Selection(only="ratio = 0.5")


@pytest.mark.parametrize("parts", [(QUARTER, HALF), (HALF, QUARTER)])
def test_after_a_part_the_status_is_that_of_the_whole_grid(grid, store, parts):
    for done, part in enumerate(parts, start=1):
        run(grid, store, part)
        assert whole(store) == (done, 3 - done, 1)
        assert grid_status(grid, store).counts["missing"] == 3 - done
        assert grid_status(grid, store).selected == 1

    run(grid, store)
    assert whole(store) == (3, 0, None)


def test_after_a_part_all_overviews_count_the_whole_grid(grid, store):
    run(grid, store, HALF)

    (of_store,) = grids.overview(store).dicts()
    assert (of_store["trials"], of_store["done"], of_store["missing"]) == (3, 1, 2)
    (of_page,) = page_data.overview(store)["grids"]
    assert (of_page["planned"], of_page["ok"]) == (3, 1)
    cells = [(c["ratio"], c["planned"], c["ok"]) for c in page_data.coverage(store)]
    assert cells == [(0.0, 1, 0), (0.25, 1, 0), (0.5, 1, 1)]


def test_after_a_run_with_other_values_the_grid_is_still_that_of_its_file(grid, store):
    run(grid, store, Selection(changed={"ratios": [0.75], "methods": ["toy_drop"]}))

    assert whole(store) == (1, 3, 1)


def test_other_values_may_replace_what_is_not_there(grid, store, toy_grid):
    name = str(toy_grid(models=["no_such_model"]))

    run(name, store, Selection(changed={"models": ["toy"], "ratios": [0.5]}))

    assert whole(store) == (1, 0, None)


def test_the_progress_of_a_part_counts_that_part_alone(grid, store):
    with session.claim(grid, store, QUARTER) as claimed:
        run(grid, store, HALF)
        (now,) = running_now(store)["runs"]
        assert claimed.planned.plan.trials == 1

    assert now["done"] == 0
