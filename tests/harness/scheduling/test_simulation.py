"""Virtual time against schedules that were worked out by hand."""

import pytest

from harness.planning.messages import Job
from harness.planning.plan import Artifact
from harness.scheduling.hardware import parse
from harness.scheduling.simulation import Simulated


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
