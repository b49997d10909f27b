"""Virtual time against schedules that were worked out by hand."""

from dataclasses import replace

import pytest

from harness.planning.messages import Event, Job
from harness.planning.plan import Artifact
from harness.scheduling.hardware import parse
from harness.scheduling.simulation import Simulated, _Work


class Fixed:
    """A world in which a trial takes a second and an artifact 100."""

    def build(self, artifact: Artifact) -> float:
        return 100.0

    def job(self, job, request, node):
        return float(len(job.bundle.trials)), []

    def outages(self):
        return [(1.0, 0, 5.0)]


def test_simulated_time_is_that_of_a_hand_worked_schedule(plan):
    # Four bundles of 8 trials, a second each, on two processors; the node fails after
    # 1 s for 5 s. Two bundles had begun, crash, and are not run again here (that is the
    # driver's): the other two run from 6 to 14.
    (bundle,) = plan(ratios=4).bundles
    jobs = (
        Job(bundle=bundle, attempts={"a": str(i)}, store="", grid="", run="")
        for i in range(4)
    )
    executor = Simulated(parse("2xCPU"), Fixed())

    ended = [
        (job.attempts["a"], [e.what for e in events], executor.time)
        for job, events in executor.run(iter(jobs))
    ]

    assert sorted((a, t) for a, whats, t in ended if whats) == [("0", 1.0), ("1", 1.0)]
    assert [(a, t) for a, whats, t in ended if not whats] == [("2", 14.0), ("3", 14.0)]
    assert executor.busy == pytest.approx(2 * 1 + 2 * 8)


def jobs_of(bundle, count: int):
    return [
        Job(bundle=bundle, attempts={"a": str(i)}, store="", grid="", run="")
        for i in range(count)
    ]


def test_a_job_waits_for_its_artifact_which_is_built_once(plan):
    # 100 s for the artifact on one of two processors, then 8 s each, side by side.
    (bundle,) = plan(ratios=4).bundles
    model = bundle.trials[0].model
    artifact = Artifact(kind="dense", model=model, dtype="float32")

    class Calm(Fixed):
        def outages(self):
            return []

    executor = Simulated(parse("2xCPU"), Calm())
    jobs = jobs_of(replace(bundle, artifacts=(artifact,)), 2)

    ended = [executor.time for _ in executor.run(iter(jobs))]

    assert ended == [108, 108]
    assert executor.busy == 100 + 2 * 8


def test_an_artifact_of_a_node_that_fails_is_built_again(plan):
    # It is lost at 1 s, the node is back at 6 s, the artifact is built at 106 s.
    (bundle,) = plan(ratios=4).bundles
    model = bundle.trials[0].model
    artifact = Artifact(kind="dense", model=model, dtype="float32")
    executor = Simulated(parse("1xCPU"), Fixed())
    (job,) = jobs_of(replace(bundle, artifacts=(artifact,)), 1)

    ended = [(executor.time, events) for _, events in executor.run(iter([job]))]

    assert ended == [(114, [])]
    assert executor.busy == 1 + 100 + 8


def test_events_of_trials_come_at_their_own_times(plan):
    # Three of 2 s each in a job of 20 s: the rest of the time passes before the last.
    (bundle,) = plan(ratios=4).bundles
    three = bundle.part(bundle.trials[:3])

    class Three(Fixed):
        def job(self, job, request, node):
            events = [
                Event(what="ended", trial=t.id, status="ok", seconds=2.0)
                for t in job.bundle.trials
            ]
            return 20.0, events

        def outages(self):
            return []

    executor = Simulated(parse("1xCPU"), Three())
    seen = [
        (executor.time, [e.trial for e in events])
        for _, events in executor.run(iter(jobs_of(three, 1)))
    ]

    ids = [t.id for t in three.trials]
    assert seen == [(2, [ids[0]]), (4, [ids[1]]), (20, [ids[2]])]


def test_a_crash_has_the_seconds_of_the_trial_that_was_running(plan):
    (bundle,) = plan(ratios=4).bundles

    class Early(Fixed):
        def job(self, job, request, node):
            first = Event(
                what="ended", trial=job.bundle.trials[0].id, status="ok", seconds=0.25
            )
            return 8.0, [first, replace(first, trial=job.bundle.trials[1].id)]

    executor = Simulated(parse("1xCPU"), Early())
    *_, (_, (crash,)) = executor.run(iter(jobs_of(bundle, 1)))

    assert (crash.what, crash.status, crash.error_class) == ("crashed", "lost", "infra")
    assert crash.seconds == 0.75  # it began at 0.25 s, and the node failed at 1 s


def test_trials_are_given_back_only_behind_the_one_that_begins(plan):
    (bundle,) = plan(ratios=2).bundles
    ids = [t.id for t in bundle.trials]
    executor = Simulated(parse("1xCPU"), Fixed())
    (job,) = jobs_of(bundle, 1)
    work = _Work(request=executor.packer.request(bundle), job=job)
    work.ahead.extend((1.0, trial, None) for trial in ids[1:])
    work.back = frozenset((ids[0], ids[1], ids[3]))
    executor._stealing.add(work, bundle)

    ((given_by, (event,)),) = executor._give_back(work)

    assert given_by is work
    assert (event.what, event.trials) == ("returned", (ids[3],))
    assert [trial for _, trial, _ in work.ahead] == [ids[1], ids[2]]
    work.back = frozenset((ids[2],))
    ((_, (event,)),) = executor._give_back(work)
    assert event.trials == (ids[2],)
    assert list(executor._give_back(work)) == []
