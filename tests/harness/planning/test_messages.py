"""Messages between the driver and its workers, and what a trial took."""

import pytest

from harness.planning.messages import Job, took
from harness.planning.plan import Bundle
from harness.planning.resources import Resources
from harness.planning.trial import PluginSpec, Trial


def trial(seed: int) -> Trial:
    part = PluginSpec(name="toy", plugin="toy")
    return Trial(method=part, model=part, task=part, ratio=0.5, seed=seed)


def test_a_job_is_named_by_its_run_and_its_first_attempt():
    trials = (trial(0), trial(1))
    job = Job(
        bundle=Bundle(trials=trials, artifacts=(), resources=Resources()),
        attempts={trials[0].id: "x", trials[1].id: "y"},
        store="",
        grid="",
        run="r",
    )
    assert (job.key, job.name) == ("x", "r-x")
    assert [job.trial(t.id) for t in trials] == list(trials)


ROW = {
    "seconds": 10.0,
    "fit_seconds": 3.0,
    "compress_seconds": 2.0,
    "evaluate_seconds": 1.0,
    "threads": 4,
    "params_dense": None,
    "reason": "of no prediction",
}
READ = {"evaluate_seconds": 1.0, "threads": 4.0}


@pytest.mark.parametrize(
    ("change", "first", "new_ratio", "numbers"),
    [
        # 10 - 3 - 2 - 1 of loading.
        ({}, True, True, {"fit": 3.0, "load": 4.0, "compress": 2.0}),
        ({}, True, False, {"fit": 3.0, "load": 4.0, "compress": 2.0}),
        # Steps that overlap leave nothing for loading.
        ({"seconds": 5.0}, True, True, {"fit": 3.0, "load": 0.0, "compress": 2.0}),
        ({"fit_seconds": None}, True, True, {"fit": 0.0, "load": 7.0, "compress": 2.0}),
        ({"compress_seconds": None}, True, True, {"fit": 3, "load": 6, "compress": 0}),
        # Later trials of a bundle: all but the evaluation is compression.
        ({}, False, True, {"compress": 9.0}),
        ({"seconds": 2.5}, False, True, {"compress": 2.0}),
        ({"compress_seconds": None}, False, True, {"compress": 9.0}),
        ({}, False, False, {}),
    ],
)
def test_the_seconds_of_a_trial_are_split_into_its_steps(
    change, first, new_ratio, numbers
):
    wanted = READ | {f"{step}_seconds": value for step, value in numbers.items()}
    assert took(ROW | change, first=first, new_ratio=new_ratio) == wanted


def test_a_trial_without_an_evaluation_is_all_compression():
    row = ROW | {"evaluate_seconds": None}
    found = took(row, first=False, new_ratio=True)
    assert found == {"threads": 4.0, "compress_seconds": 10.0}
    found = took(row, first=True, new_ratio=True)
    assert found["load_seconds"] == 5.0
