"""What is tried again, how often, after how long: the driver in virtual time."""

import os
import random
import signal
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from harness.planning import grid as grids
from harness.planning import plan as plans
from harness.planning.messages import Event, Job
from harness.planning.plan import Bundle
from harness.planning.resources import ResourceRequest
from harness.running import driver
from harness.running.driver import Clock, Driver, Outcome
from harness.running.failures import Interrupted
from harness.running.rows import base_row
from harness.scheduling.hardware import parse
from harness.scheduling.simulation import Simulated
from results.outcomes import ErrorClass
from results.queries.db import ask
from results.storage.pending import Pending
from results.storage.store import Store, open_store


class Silent:
    """A watcher that shows nothing."""

    def event(self, job, trial, event) -> None:
        """Nothing."""


class World:
    """Every job ends at once, as a function of how many came before says."""

    def __init__(self, ends: Callable[[Job, int], list[Event]]) -> None:
        self.ends = ends
        self.now: Callable[[], float] = lambda: 0.0
        self.times: list[float] = []
        self.jobs: list[Job] = []
        self.requests: list[ResourceRequest] = []

    def build(self, artifact) -> float:
        return 0.0

    def job(
        self, job: Job, asked: ResourceRequest, node: int
    ) -> tuple[float, list[Event]]:
        self.times.append(self.now())
        self.jobs.append(job)
        self.requests.append(asked)
        return 0.0, self.ends(job, len(self.jobs))

    def outages(self) -> list[tuple[float, int, float]]:
        return []


class Uncut(Simulated):
    """Leaves the one bundle as it was planned."""

    def arrange(self, bundles: Sequence[Bundle]) -> list[Bundle]:
        return list(bundles)


@pytest.fixture
def run(tmp_path: Path, toy_grid):
    """Run one bundle of three trials in a world."""
    path = toy_grid()

    def runs(world: World) -> tuple[Store, Outcome]:
        store = open_store(tmp_path / "store", create=True)
        executor = Uncut(parse("1xH100"), world)
        driver = Driver(
            plan=plans.make(grids.read(path)),
            store=store,
            executor=executor,
            watcher=Silent(),
            clock=Clock(executor.now, executor.sleep),
        )
        world.now = executor.now
        return store, driver.run()

    return runs


def ended(job: Job, status: str, error_class: str | None = None) -> list[Event]:
    return [
        Event(what="ended", trial=t.id, status=status, error_class=error_class)
        for t in job.bundle.trials
    ]


def crashed(status: str, error_class: str, node: str = "") -> list[Event]:
    return [Event(what="crashed", status=status, error_class=error_class, node=node)]


def test_trials_that_ran_out_of_memory_go_again_together_with_the_device_alone(run):
    world = World(
        lambda job, n: (
            ended(job, "out_of_memory", "oom") if n == 1 else ended(job, "ok")
        )
    )
    _, outcome = run(world)

    assert [len(job.bundle.trials) for job in world.jobs] == [3, 3]
    assert [job.bundle.underestimated for job in world.jobs] == [0, 1]
    assert world.requests[0].gpus < 1
    assert world.requests[1].gpus == 1
    assert outcome.counts == {"ok": 3}


def test_memory_that_never_suffices_is_tried_twice(run):
    world = World(lambda job, n: ended(job, "out_of_memory", "oom"))
    _, outcome = run(world)

    assert len(world.jobs) == 2
    assert outcome.counts == {"out_of_memory": 3}


def test_a_bug_is_never_tried_again(run):
    world = World(lambda job, n: ended(job, "failed", "bug"))
    _, outcome = run(world)

    assert len(world.jobs) == 1
    assert outcome.counts == {"failed": 3}


def test_a_bundle_that_is_put_back_keeps_its_tries_of_other_classes(run):
    # Put back four times, lost twice: neither uses up the other's tries.
    ends = {n: crashed("cancelled", "insufficient_memory") for n in (1, 2, 4, 5)}
    ends |= {n: crashed("lost", "infra", "node-7") for n in (3, 6)}
    world = World(lambda job, n: ends.get(n) or ended(job, "ok"))
    store, outcome = run(world)

    assert outcome.counts == {"ok": 3}
    rows = ask(
        store,
        "SELECT error_class, count(*), max(node) FROM trials GROUP BY 1 ORDER BY 1",
    ).rows
    assert rows == [("infra", 2, "node-7"), ("insufficient_memory", 4, None)]


@pytest.mark.parametrize("wait", [False, True])
def test_what_was_stored_before_a_worker_died_counts_as_its_row_says(run, wait):
    stored = [("failed", "bug"), ("out_of_memory", "oom")]

    def ends(job, n):
        if n > 1:
            return ended(job, "ok")
        rows = Pending(open_store(job.store), job.name)
        for trial, (status, error_class) in zip(
            job.bundle.trials, stored, strict=False
        ):
            row = {"status": status, "error_class": error_class, "measurements": []}
            rows.append(base_row(job, trial) | row, [], [], wait=wait)
        return crashed("lost", "infra")

    world = World(ends)
    store, outcome = run(world)

    assert outcome.counts == {"failed": 1, "ok": 2}
    assert [len(job.bundle.trials) for job in world.jobs] == [3, 1, 1]
    query = "SELECT status FROM trials WHERE error_class IS NOT NULL ORDER BY 1"
    assert ask(store, query).rows == [("failed",), ("lost",), ("out_of_memory",)]
    assert store.folder.names("running") == []


def test_who_stops_while_the_queue_is_arranged_starts_nothing_more(tmp_path, toy_grid):
    path = toy_grid()
    world = World(lambda job, n: ended(job, "ok"))

    class Interrupted(Uncut):
        def arrange(self, bundles: Sequence[Bundle]) -> list[Bundle]:
            parts = [b.part((t,)) for b in bundles for t in b.trials]
            if world.jobs:
                driver.drain()  # as a first Ctrl-C does in this moment
            return parts

        def stale(self) -> bool:
            return bool(world.jobs)

    executor = Interrupted(parse("1xCPU"), world)
    driver = Driver(
        plan=plans.make(grids.read(path)),
        store=open_store(tmp_path / "store", create=True),
        executor=executor,
        watcher=Silent(),
        clock=Clock(executor.now, executor.sleep),
    )

    outcome = driver.run()

    assert len(world.jobs) == outcome.counts["ok"] == 1
    assert outcome.drained


def test_waits_double_with_jitter_up_to_a_minute(run, monkeypatch):
    draws: list[tuple[float, float]] = []
    monkeypatch.setattr(ErrorClass.INFRA, "tries", 9)
    monkeypatch.setattr(
        random, "uniform", lambda low, high: draws.append((low, high)) or 1.0
    )
    world = World(
        lambda job, n: crashed("lost", "infra") if n < 9 else ended(job, "ok")
    )
    run(world)

    waits = [round(after - before) for before, after in pairwise(world.times)]
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]
    assert set(draws) == {(0.5, 1.0)}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_arrives_twice_at_once_drains_and_ends_nothing(
    monkeypatch, number
):
    drained = []
    with driver._DrainOnInterrupt(lambda: drained.append(1)):
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert drained == [1]

        monkeypatch.setattr(driver, "ONCE", 0.0)
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
    assert drained == [1]
