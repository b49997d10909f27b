"""Bundles of trials, and the artifacts and cost classes that they have."""

import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.planning import grid as grids
from harness.planning import plan as plans

GRID = """
models: [toy]
methods: [toy_drop]
ratios: [0.25, 0.5]
tasks: [toy_sum, {name: toy_sum, by: 2}]
"""


@pytest.fixture
def bundle(toys: Path, tmp_path: Path) -> plans.Bundle:
    """Two ratios of two tasks."""
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    (made,) = plans.make(grids.read(path)).bundles
    return made


def test_bundles_that_differ_in_nothing_that_matters_have_one_cost_class(bundle):
    first, other = (
        bundle.part(tuple(t for t in bundle.trials if t.ratio == ratio))
        for ratio in (0.25, 0.5)
    )

    assert first.id != other.id
    assert first.cost_class is other.cost_class
    assert pickle.loads(pickle.dumps(first)).cost_class is first.cost_class
    assert bundle.cost_class is not first.cost_class
    assert replace(first, underestimated=1).cost_class is not first.cost_class
    assert replace(first, exclusive=True).cost_class is not first.cost_class


@pytest.fixture
def planned(toys: Path, tmp_path: Path):
    """Plan a grid; ``changes`` replace lines of the default one."""

    def makes(arguments: dict[str, Any] | None = None, **changes: str) -> plans.Plan:
        lines = {
            "models": "[toy]",
            "methods": "[toy_drop]",
            "ratios": "[0.5, 0.25]",
            "tasks": "[toy_sum, {name: toy_sum, by: 2}]",
        }
        path = tmp_path / "grid.yaml"
        path.write_text("".join(f"{k}: {v}\n" for k, v in (lines | changes).items()))
        return plans.make(grids.read(path), **arguments or {})

    return makes


def test_a_bundle_runs_by_ratio_whatever_the_grid_says(planned):
    (bundle,) = planned().bundles

    assert [t.ratio for t in bundle.trials] == [0.25, 0.25, 0.5, 0.5]
    assert [n for _, n in bundle.cost_class.tasks] == [2, 2]
    assert bundle.cost_class.ratios == 2
    # One object stands for all bundles that cost the same, whichever came first.
    assert bundle.cost_class.first.method == bundle.trials[0].method
    assert re.fullmatch("[0-9a-f]{16}", bundle.id)


def test_a_bundle_without_trials_that_ended_keeps_the_others(planned):
    (bundle,) = planned().bundles
    first, *rest = bundle.trials

    left = bundle.without([first.id, "unknown"])
    assert left is not None
    assert left.trials == tuple(rest)
    assert left.resources is bundle.resources
    assert bundle.without([t.id for t in bundle.trials]) is None


def test_one_trial_is_a_bundle_with_a_cost_class(planned):
    (bundle,) = planned(ratios="[0.5]", tasks="[toy_sum]").bundles

    assert bundle.cost_class.tasks == ((bundle.trials[0].task, 1),)


@pytest.mark.parametrize(
    ("status", "place"),
    [
        ("ok", "done"),
        ("unsupported", "done"),
        ("failed", "failed"),
        ("out_of_memory", "failed"),
        ("lost", "runs"),  # nothing was learnt from these two
        ("cancelled", "runs"),
    ],
)
def test_the_newest_attempt_decides_whether_a_trial_runs(planned, status, place):
    trial = planned().bundles[0].trials[0]

    made = planned({"statuses": {trial.id: status}})

    assert ([t.id for t in made.done] == [trial.id]) == (place == "done")
    assert ([(t.id, s) for t, s in made.failed] == [(trial.id, status)]) == (
        place == "failed"
    )
    assert made.trials == (4 if place == "runs" else 3)
    asked = {"statuses": {trial.id: status}, "retry": [status]}
    assert planned(asked).trials == 4
    stale = {"statuses": {trial.id: status}, "again": [trial.id]}
    assert planned(stale).trials == 4


def test_only_the_trials_that_were_named_are_considered(planned):
    trials = planned().bundles[0].trials

    made = planned({"only": {trials[1].id}, "statuses": {trials[2].id: "ok"}})

    assert [t.id for b in made.bundles for t in b.trials] == [trials[1].id]
    assert made.done == []


def test_what_makes_no_sense_is_listed_with_its_reason(planned):
    made = planned(methods="[svd_llm]")

    assert made.bundles == []
    (_, reason), *_ = made.unsupported
    assert reason == "method svd_llm treats a causal_lm, not a classifier"


def test_sharing_saves_loads_fits_and_compressions(planned):
    # Each has two ratios and two tasks; toy_noop has nothing to fit.
    made = planned(methods="[toy_drop, toy_noop]")

    assert [plans.has_fit(b.trials[0].method) for b in made.bundles] == [True, False]
    assert made.shared() == {
        "model loads": (2, 8),
        "fits": (1, 4),
        "compressions": (4, 8),
        "artifacts": (0, 0),
    }
    alone = planned(methods="[toy_drop]", ratios="[0.5]", tasks="[toy_sum]").shared()
    assert set(alone.values()) == {(1, 1), (0, 0)}


def test_a_model_that_is_trained_here_needs_a_checkpoint_of_each_seed(planned):
    made = planned(
        models="[mlp]", methods="[magnitude]", tasks="[digits]", seeds="[0, 1]"
    )

    assert len(made.bundles) == 2
    first, second = (b.artifacts for b in made.bundles)
    assert [str(a) for a in (*first, *second)] == [
        "dense mlp, trained on the data of digits, seed 0",
        "dense mlp, trained on the data of digits, seed 1",
    ]
    assert {a.id for a in (*first, *second)} == set(made.artifacts)
    assert all(re.fullmatch("dense-[0-9a-f]{16}", a) for a in made.artifacts)
    assert made.shared()["artifacts"] == (2, 4)


def test_artifacts_differ_by_everything_that_changes_their_content(planned):
    model = planned().bundles[0].trials[0].model
    one = plans.Artifact(kind="calibration", model=model, dtype="float32")
    others = [
        replace(one, kind="dense"),
        replace(one, model=replace(model, revision="2")),
        replace(one, dtype="float16"),
        replace(one, seed=1),
        replace(one, calibration="{}"),
        replace(one, training="digits"),
    ]

    assert len({a.id for a in (one, *others)}) == 7
    read = '{"content":"sha256:0123456789abcdef","samples":4,"text":"./a.txt"}'
    said = "calibration of toy text=a.txt@012345 samples=4"
    assert str(replace(one, calibration=read)) == said


def test_calibration_is_an_artifact_of_the_method_that_reads_it(planned):
    (trial, *_) = planned().bundles[0].trials
    (made,) = plans.needed(replace(trial, calibration='{"n": 4}'))

    assert (made.kind, made.calibration, made.task) == ("calibration", '{"n": 4}', None)
    assert plans.needed(trial) == ()


def test_tasks_on_the_same_data_share_a_checkpoint(planned):
    toy = planned().bundles[0].trials[0].task
    digits = planned(models="[mlp]", methods="[magnitude]", tasks="[digits]")
    task = digits.bundles[0].trials[0].task

    # A task without a training set of its own is known by its identity.
    assert plans.training_key(toy) != plans.training_key(replace(toy, version=2))
    assert "digits" in plans.training_key(task)


def test_models_that_are_compressed_without_a_dense_trial_are_named_once(planned):
    assert planned(methods="[toy_drop, svd]", models="[toy]").without_dense() == ["toy"]
    assert planned(methods="[toy_drop, dense]").without_dense() == []
