"""Whatever a plugin returns, raises or changes: its trial fails and the run goes on."""

import gc
import json
import sys
import weakref
from pathlib import Path

import pytest
import torch

from harness.core import BenchError
from harness.executors.inline import Inline
from harness.planning import grid as grids
from harness.planning import plan as plans
from harness.registry import find
from harness.running.driver import Driver
from harness.running.failures import classify
from results.queries.db import ask
from results.storage.store import open_store

GRID = """
models: [toy]
methods: [{methods}]
ratios: [0.25, 0.5, 0.75]
tasks: [{tasks}]
"""
sys.path.append(str(Path(__file__).parents[2] / "toys"))
from _hostile import ENDS, NONSENSE, SENSE  # noqa: E402 - a plugin, not a module


class Quiet:
    """A watcher that shows nothing."""

    def event(self, job, trial, event) -> None:
        """Nothing."""


@pytest.fixture
def run(tmp_path: Path, toys: Path):
    """Run a grid inline; returns the rows of its trials by ratio."""

    def runs(methods: str, tasks: str = "toy_sum") -> list[dict]:
        path = tmp_path / "grid.yaml"
        path.write_text(GRID.format(methods=methods, tasks=tasks))
        store = open_store(tmp_path / "store", create=True)
        plan = plans.make(grids.read(path))
        outcome = Driver(
            plan=plan, store=store, executor=Inline(), watcher=Quiet()
        ).run()
        assert outcome.stopped is None
        return ask(
            store,
            "SELECT *, (SELECT list(value ORDER BY metric) FROM measurements m WHERE "
            "m.attempt = newest.attempt) AS numbers FROM newest ORDER BY ratio, task",
        ).dicts()

    return runs


def every(hows) -> str:
    return ", ".join(f"{{name: toy_nonsense, how: {how}}}" for how in hows)


def test_nonsense_fails_its_trial_and_nothing_of_it_is_stored(run):
    rows = run("dense", f"{every(NONSENSE)}, toy_sum")

    *bad, good = sorted(rows, key=lambda r: r["task"])
    assert good["status"] == "ok"
    found = {json.loads(r["task_options"])["how"]: r for r in bad}
    assert found.keys() == NONSENSE.keys()
    for how, row in found.items():
        assert row["status"] == "failed", how
        assert NONSENSE[how][1] in row["reason"]
        assert row["numbers"] is None
        assert row["error_class"] == ("nan" if how[:3] in ("nan", "inf") else "bug")


def test_numbers_of_other_packages_are_numbers(run):
    rows = run("dense", every(SENSE))

    assert {r["status"] for r in rows} == {"ok"}
    assert sorted(r["numbers"][0] for r in rows) == [0.5, 0.5, 0.5, 1.0]


@pytest.mark.parametrize("when", ["fit", "compress"])
@pytest.mark.parametrize("how", ["infinite", "text", "twice", "not_one"])
def test_what_a_method_records_is_checked_too(run, how, when):
    rows = run(f"{{name: toy_records, how: {how}, when: {when}}}")

    fails = [0.5] if when == "compress" else [0.25, 0.5, 0.75]
    assert [r["ratio"] for r in rows if r["status"] == "failed"] == fails
    assert all(NONSENSE[how][1] in r["reason"] for r in rows if r["status"] == "failed")


@pytest.mark.parametrize("how", ENDS)
def test_every_end_of_a_plugin_is_a_row_that_says_which(run, how):
    rows = run(f"{{name: toy_ends, how: {how}}}")

    assert [r["status"] for r in rows] == ["ok", "failed", "ok"]
    row = rows[1]
    assert row["error_class"] == "bug"
    assert ENDS[how][1] in row["reason"]
    assert "hostile.py" in row["traceback"]
    assert not set(row["reason"] + row["traceback"]) & set("\x1b\a")


def test_what_a_task_declares_of_the_machine_is_checked_where_it_runs(run, monkeypatch):
    judge = find("task", "toy_judge").cls
    monkeypatch.setattr(judge, "place", lambda self: {"host": {1}}, raising=False)

    rows = run("dense", "toy_judge, toy_sum")

    bad, good = sorted(rows, key=lambda r: r["task"])
    assert (bad["status"], bad["error_class"]) == ("failed", "bug")
    assert "place() is not plain data: host is {1}, a set" in bad["reason"]
    assert good["status"] == "ok"
    assert good["ratio_of"] == "none"
    assert good["code_digest"]


def test_a_process_that_cannot_be_put_back_runs_no_further_trial(
    run, tmp_path, monkeypatch
):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    with pytest.raises(BenchError, match="the working directory of this process, whi"):
        run("{name: toy_spoils, how: here}, toy_drop")

    assert not here.exists()
    monkeypatch.chdir(tmp_path)
    rows = ask(open_store(tmp_path / "store"), "SELECT status FROM trials").rows
    assert rows == [("ok",)]  # of the trial that removed it


def test_an_end_in_fit_fails_the_bundle_with_one_reason(run):
    rows = run("{name: toy_ends, how: exit, when: fit}")

    assert {(r["status"], r["reason"]) for r in rows} == {("failed", "SystemExit: 7")}


@pytest.mark.parametrize(
    ("what", "where"),
    [
        ("fitted", "fitted['weight']"),
        ("list", "fitted['ranks'][0]"),
        ("numpy", "fitted['array']"),
        ("dense", "dense.fc.weight"),
        ("data", "dense.fc.weight"),
        ("hook", "dense.fc (hooks)"),
        ("mode", "dense (mode)"),
    ],
)
def test_a_method_that_changes_what_ratios_share_fails_and_they_do_not(
    run, what, where
):
    rows = run(f"{{name: toy_damages, what: {what}}}")

    assert [r["status"] for r in rows] == ["ok", "failed", "ok"]
    assert f"the compress of toy_damages changed {where}" in rows[1]["reason"]
    assert rows[0]["numbers"] == rows[2]["numbers"] == [528.0]  # 1 + 2 + ... + 32


def test_a_fit_that_changes_the_dense_network_fails(run):
    rows = run("{name: toy_damages, what: fit}")

    assert {r["status"] for r in rows} == {"failed"}
    assert "the fit of toy_damages changed dense.fc.weight" in rows[0]["reason"]


@pytest.mark.parametrize("method", ["toy_drop", "toy_noop"])  # noop: the dense network
def test_a_task_that_changes_the_network_does_not_change_the_next_task(run, method):
    alone = {r["ratio"]: r["numbers"] for r in run(method, "toy_sum")}
    rows = run(method, "toy_rewrites, {name: toy_sum, by: 1}, {name: toy_sum, by: 2}")

    bad = [r for r in rows if r["task"] == "toy_rewrites"]
    assert {r["status"] for r in bad} == {"failed"}
    assert all("evaluation of toy_rewrites changed network" in r["reason"] for r in bad)
    good = [r for r in rows if r["task"] == "toy_sum" and r["task_options"] == "{}"]
    assert {r["ratio"]: r["numbers"] for r in good} == alone


def test_a_stored_failure_keeps_no_tensor_alive():
    alive = []

    def fails() -> None:
        tensor = torch.ones(3)
        alive.append(weakref.ref(tensor))
        try:
            raise ValueError("first")
        except ValueError as first:
            raise RuntimeError("second") from first

    try:
        fails()
    except RuntimeError as error:
        kept = error
    failure = classify(kept)
    gc.collect()

    assert alive[0]() is None
    assert "ValueError: first" in failure.traceback
    assert failure.reason == "RuntimeError: second"
