"""Artifacts and data are those of the plan, whole, at the time when they are used."""

import json
from pathlib import Path

import pytest

from harness.core import BenchError
from harness.executors.inline import Inline
from harness.planning import grid as grids
from harness.planning import plan as plans
from harness.running import artifacts
from harness.running.driver import Driver
from harness.running.failures import classify
from results.queries.attempts import read_statuses
from results.queries.db import ask
from results.storage import artifacts as shelf
from results.storage.store import open_store

TRAINED = """
models: [{name: mlp, recipe: {epochs: 1}}]
methods: [dense, magnitude]
ratios: [%s]
tasks: [{name: digits, limit: 100}]
"""


class Quiet:
    """A watcher that shows nothing."""

    def event(self, job, trial, event) -> None:
        """Nothing."""


@pytest.fixture
def run(tmp_path: Path, toys: Path):
    """Run a grid inline; returns the store and its plan."""

    def runs(text: str):
        path = tmp_path / "grid.yaml"
        path.write_text(text)
        store = open_store(tmp_path / "store", create=True)
        plan = plans.make(grids.read(path), statuses=read_statuses(store))
        Driver(plan=plan, store=store, executor=Inline(), watcher=Quiet()).run()
        return store, plan

    return runs


def endings(store):
    return ask(store, "SELECT status, error_class, reason FROM newest").rows


def test_a_checkpoint_that_was_cut_off_is_trained_again(run):
    store, plan = run(TRAINED % "0.2")
    (artifact,) = plan.artifacts
    weights = store.here("artifacts") / artifact / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])

    store, plan = run(TRAINED % "0.4")

    assert list(plan.artifacts) == [artifact]
    assert {status for status, *_ in endings(store)} == {"ok"}
    assert weights.read_bytes() == whole


@pytest.mark.parametrize("damage", ["cut off", "renamed tensor"])
def test_a_checkpoint_that_was_stored_damaged_is_a_setup_error(run, damage):
    store, plan = run(TRAINED % "0.2")
    (artifact,) = plan.artifacts
    folder = store.here("artifacts") / artifact
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    if damage == "cut off":
        weights.write_bytes(content[:-100])
    else:  # the header keeps its length
        weights.write_bytes(content.replace(b".weight", b".wright"))
    stated = shelf.manifest(folder)
    stated["sha256"]["model.safetensors"] = shelf._sha256(weights)
    (folder / "manifest.json").write_text(json.dumps(stated))

    (bundle, *_) = plan.bundles
    (dense,) = bundle.artifacts
    with pytest.raises(BenchError, match=r"model\.safetensors") as caught:
        artifacts.load_model(dense.model, "float32", store, dense)
    assert classify(caught.value).error_class == "setup"


def toy_file(path, append=""):
    task = json.dumps({"name": "toy_file", "path": str(path), "append": append})
    return f"models: [toy]\nmethods: [toy_drop]\nratios: [0.2, 0.4]\ntasks: [{task}]\n"


def test_no_number_of_a_file_that_changed_during_the_run_is_stored(run, tmp_path):
    path = tmp_path / "data.txt"
    path.write_text("one")
    store, _ = run(toy_file(path, append="!"))
    found = endings(store)
    assert [row[:2] for row in found] == [("failed", "setup")] * 2
    assert all("and sha256:" in reason for *_, reason in found)

    store, _ = run(toy_file(path))
    assert sorted(row[0] for row in endings(store)) == ["failed"] * 2 + ["ok"] * 2


def test_nothing_is_trained_on_other_data_than_the_plan_says(tmp_path, toys):
    path, file = tmp_path / "grid.yaml", tmp_path / "data.txt"
    file.write_text("one")
    path.write_text(toy_file(file))
    task = plans.make(grids.read(path)).bundles[0].trials[0].task
    file.write_text("two")
    with pytest.raises(BenchError, match=r"the data of toy_file is sha256"):
        artifacts.task_data(task)
    file.write_text("one")
    assert artifacts.task_data(task) == "one"
