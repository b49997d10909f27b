"""A bundle that runs long gives trials to an idle slot, each of which runs once."""

from collections import Counter
from pathlib import Path

import pytest

from harness.executors.on_ray import OnRay
from harness.planning import grid as grids
from harness.planning import plan as plans
from harness.planning.messages import Event, Job
from harness.running import worker
from harness.running.driver import Clock, Driver
from harness.scheduling import work_stealing
from harness.scheduling.hardware import parse
from harness.scheduling.packing import Packer
from harness.scheduling.simulation import Simulated
from harness.scheduling.work_stealing import WorkStealing
from results.queries.db import ask
from results.storage import leases
from results.storage.store import new_attempt, open_store

LOAD, EACH = 10.0, 100.0


class Silent:
    """A watcher that shows nothing."""

    def event(self, job, trial, event) -> None:
        """Nothing."""


class Uncut(Simulated):
    """Bundles as planned."""

    def arrange(self, bundles):
        return list(bundles)


class World:
    """A dense trial takes a second, every other 100 and its bundle 10 to load."""

    def __init__(self, crashes: str = "") -> None:
        self.crashes = crashes  # a trial whose worker dies the first time
        self.began: list[tuple[str, ...]] = []

    def build(self, artifact) -> float:
        return 0.0

    def job(self, job, asked, node):
        self.began.append(tuple(t.id for t in job.bundle.trials))
        events = []
        for index, trial in enumerate(job.bundle.trials):
            slow = trial.method.name != "dense"
            load = 0.0 if index else LOAD * slow
            each = EACH if slow else 1.0
            numbers = {"evaluate_seconds": each, "compress_seconds": 0.0}
            if not index:
                numbers |= {"load_seconds": load, "fit_seconds": 0.0}
            if trial.id == self.crashes:
                self.crashes = ""
                crash = Event(what="crashed", status="lost", error_class="infra")
                events.append(crash)
                break
            ended = Event(
                what="ended",
                trial=trial.id,
                status="ok",
                seconds=load + each,
                numbers=numbers,
            )
            events.append(ended)
        seconds = sum(e.seconds for e in events) + EACH * (events[-1].what == "crashed")
        return seconds, events

    def outages(self):
        return []


def run(plan, executor, tmp_path):
    """The driver in virtual time; how often each trial ended well."""
    ended = Counter()

    class Counts:
        def event(self, job, trial, event) -> None:
            ended[trial.id] += event.what == "ended" and event.status == "ok"

    driver = Driver(
        plan=plan,
        store=open_store(tmp_path / "store", create=True),
        executor=executor,
        watcher=Counts(),
        clock=Clock(executor.now, executor.sleep),
    )
    driver.run()
    return ended


def test_the_idle_slot_takes_as_much_as_ends_both_together(plan, tmp_path):
    # Trial 1 ends at 110 and shows how long the others take, trial 2 at 210. Of the six
    # that are left three go to the second processor, which loads and ends at 520.
    made, world = plan("dense, toy_drop", ratios=8, tasks="[toy_sum]"), World()
    executor = Uncut(parse("2xCPU"), world)

    ended = run(made, executor, tmp_path)

    assert executor.time == pytest.approx(210 + LOAD + 3 * EACH)
    slow = next(b for b in made.bundles if b.trials[0].method.name == "toy_drop")
    assert world.began[-1] == tuple(t.id for t in slow.trials[-3:])
    assert set(ended.values()) == {1}
    assert len(ended) == made.trials


def test_with_enough_idle_slots_each_trial_that_is_given_back_has_its_own(
    plan, tmp_path
):
    # Of the six behind trial 2, which ends at 210, one stays; five slots load first.
    made, world = plan("dense, toy_drop", ratios=8, tasks="[toy_sum]"), World()
    executor = Uncut(parse("8xCPU"), world)

    ended = run(made, executor, tmp_path)

    assert executor.time == pytest.approx(210 + LOAD + EACH)
    slow = next(b for b in made.bundles if b.trials[0].method.name == "toy_drop")
    assert world.began[-5:] == [(t.id,) for t in slow.trials[-5:]]
    assert set(ended.values()) == {1}
    assert len(ended) == made.trials


def test_a_worker_that_dies_after_it_gave_back_repeats_only_what_it_kept(
    plan, tmp_path
):
    made = plan("dense, toy_drop", ratios=8, tasks="[toy_sum]")
    slow = next(b for b in made.bundles if b.trials[0].method.name == "toy_drop")
    world = World(crashes=slow.trials[3].id)

    ended = run(made, Uncut(parse("2xCPU"), world), tmp_path)

    assert set(ended.values()) == {1}
    assert len(ended) == made.trials


def test_nothing_is_asked_back_while_every_slot_is_busy_or_nothing_is_known(plan):
    (only,) = plan("toy_drop", ratios=8, tasks="[toy_sum]").bundles
    waits = WorkStealing(Packer(cluster=parse("1xCPU")))
    waits.add("a", only)
    assert waits.due(100.0) == {}

    guesses = WorkStealing(Packer(cluster=parse("2xCPU")))
    guesses.add("a", only)
    assert guesses.due(100.0) == {}


def test_a_bundle_is_asked_once_and_again_when_it_gave(plan):
    (only,) = plan("toy_drop", ratios=8, tasks="[toy_sum]").bundles
    packer = Packer(cluster=parse("2xCPU"))
    _, events = World().job(_job(only), None, 0)
    stealing = WorkStealing(packer)
    stealing.add("a", only)
    packer.predictor.learn(only.trials[0], events[0].numbers, "CPU")
    stealing.observe("a", events[:1])

    first = stealing.due(100.0)["a"]
    assert first == tuple(t.id for t in only.trials[-3:])
    assert stealing.due(200.0) == {}
    returned = [Event(what="returned", trials=first)]
    assert stealing.observe("a", returned) == returned  # one slot is idle
    assert stealing.due(300.0)["a"] == (only.trials[4].id,)  # 3 are left behind trial 2
    assert stealing.drop("a")


def _job(one, store="", run="r"):
    attempts = {t.id: new_attempt() for t in one.trials}
    return Job(bundle=one, attempts=attempts, store=store, grid="g", run=run)


def test_a_worker_gives_back_what_it_has_not_begun_and_nothing_else(plan, tmp_path):
    (only,) = plan("toy_drop", ratios=8, tasks="[toy_sum]").bundles
    store = open_store(tmp_path / "store", create=True)
    job = _job(only, store.uri)
    ids = [t.id for t in only.trials]
    leases.request_trials(store, job.name, [ids[0], *ids[5:], "a stranger"])

    events = list(worker.run(job))

    assert events[0] == Event(what="returned", trials=tuple(ids[5:]))
    assert [e.trial for e in events if e.what == "ended"] == ids[:5]
    assert store.folder.names("running") == []
    rows = ask(store, "SELECT trial FROM trials").rows
    assert sorted(rows) == sorted((i,) for i in ids[:5])


@pytest.mark.parametrize("text", [b"", b"{", b"3", b'{"a": 1}', b"[3, null]"])
def test_a_damaged_request_asks_for_nothing(tmp_path, text):
    store = open_store(tmp_path / "store", create=True)
    store.folder.write("running/r-b.back", text)
    assert leases.requested_trials(store, "r-b") == frozenset()


@pytest.fixture
def read(tmp_path: Path, toys: Path):
    """Plan a grid file of the given text."""

    def reads(text: str) -> plans.Plan:
        path = tmp_path / "slow.yaml"
        path.write_text(text)
        return plans.make(grids.read(path))

    return reads


@pytest.mark.slow
def test_on_ray_the_last_bundle_is_shared_with_the_idle_worker(
    read, tmp_path, monkeypatch
):
    monkeypatch.setattr(work_stealing, "SAVES", 0.5)
    monkeypatch.setattr(work_stealing, "EVERY", 0.2)
    # The second worker must have started before the first has little left: on a busy
    # machine that takes ten seconds, of 28.
    text = f"""
blocks:
  - {{models: [toy], methods: [dense], tasks: [{{name: toy_slow, seconds: 0.01}}]}}
  - {{models: [toy], methods: [toy_drop], tasks: [{{name: toy_slow, seconds: 0.7}}],
      ratios: {[n / 50 for n in range(1, 41)]}}}
"""
    made = read(text)
    store = open_store(tmp_path / "store", create=True)
    executor = OnRay("local", cpus=2)
    monkeypatch.setattr(executor, "arrange", list)
    try:
        driver = Driver(plan=made, store=store, executor=executor, watcher=Silent())
        outcome = driver.run()
    finally:
        executor.close()

    assert outcome.counts == {"ok": made.trials}
    rows = ask(store, "SELECT bundle, trial FROM trials WHERE method = 'toy_drop'").rows
    assert len(rows) == len({trial for _, trial in rows}) == 40
    assert len({bundle for bundle, _ in rows}) > 1
    assert store.folder.names("running") == []


def test_a_worker_that_was_taken_for_dead_stores_nothing_more(plan, tmp_path):
    (only,) = plan("toy_drop", ratios=8, tasks="[toy_sum]").bundles
    store = open_store(tmp_path / "store", create=True)
    job = _job(only, store.uri)
    ended = 0
    for event in worker.run(job):
        ended += event.what == "ended"
        if ended == 2:
            leases.delete(store, f"{job.name}.json")

    assert ended == 2
    assert ask(store, "SELECT count(*) FROM trials").rows == [(2,)]


def test_a_worker_that_was_taken_for_dead_lets_the_next_one_be(plan, tmp_path):
    # Nothing had been stored, so the very same bundle is with another worker now.
    (only,) = plan("toy_drop", ratios=8, tasks="[toy_sum]").bundles
    store = open_store(tmp_path / "store", create=True)
    cut_off, again = _job(only, store.uri), _job(only, store.uri)
    first, second = worker.run(cut_off), worker.run(again)
    assert next(first).what == "started"
    leases.delete(store, f"{cut_off.name}.json")
    assert next(second).what == "started"

    (said,) = first
    assert (said.what, said.status) == ("crashed", "lost")

    assert sum(e.what == "ended" for e in second) == 8
    query = "SELECT count(*), count(DISTINCT trial) FROM trials"
    assert ask(store, query).rows == [(8, 8)]
