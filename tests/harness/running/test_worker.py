"""Plan, bundles and rows, run in this process."""

import contextlib
import json
import mmap
import socket
from pathlib import Path

import pytest
import torch
from toy_runs import GRID, TWICE, Silent

from harness.core import Measurement
from harness.executors.inline import Inline
from harness.planning import grid as grids
from harness.planning import plan as plans
from harness.planning.messages import ArtifactJob
from harness.planning.plan import Artifact
from harness.planning.trial import PluginSpec
from harness.registry import find
from harness.running import networks, worker
from harness.running.artifacts import produce
from harness.running.driver import Driver
from harness.running.recovery import reconcile
from harness.running.step_sign import StepSign
from harness.running.steps import Steps
from harness.toolkit import devices
from results.queries.attempts import read_statuses
from results.queries.compaction import compact
from results.queries.db import ask
from results.storage import leases
from results.storage.store import open_store


def steps(toys: Path) -> dict[str, int]:
    """How often each step of the toy plugins ran."""
    names = [p.name.split("-")[0] for p in toys.iterdir()]
    return {name: names.count(name) for name in set(names)}


def test_a_bundle_loads_once_fits_once_and_compresses_once_a_ratio(run, toys):
    _, plan, outcome = run("toy_drop")

    assert outcome.counts == {"ok": 6}
    assert steps(toys) == {"load": 1, "fit": 1, "compress": 3, "evaluate": 6}
    assert plan.shared()["compressions"] == (3, 6)


def test_what_saving_a_network_takes_is_no_peak_of_its_trial(run, monkeypatch):
    size = 300_000_000

    def keep(store, attempt, trial, model, shape):
        with mmap.mmap(-1, size) as held:
            for page in range(0, size, mmap.PAGESIZE):
                held[page] = 1
        return f"network-{attempt}"

    monkeypatch.setattr(networks, "keep", keep)
    store, _, _ = run("toy_drop", keep=True)

    rows = ask(store, "SELECT network, peak_memory_bytes FROM trials").rows
    devices.reset_peaks(torch.device("cpu"))
    now = devices.peak_memory()
    assert all(name.startswith("network-") for name, _ in rows)
    # Two tasks measure each network of three ratios, which is stored once.
    assert len({name for name, _ in rows}) == 3
    assert max(peak for _, peak in rows) < now + size / 2


def test_each_step_is_said_with_its_trial(run, monkeypatch):
    said = []

    @contextlib.contextmanager
    def during(self, trial, step):
        said.append((trial, step))
        yield

    monkeypatch.setattr(StepSign, "during", during)
    store, plan, _ = run("toy_drop")

    (bundle,) = plan.bundles
    first = bundle.trials[0].id
    names = ["loading", "fitting", "compressing", "evaluating"]
    assert said[:4] == [(first, name) for name in names]
    assert said[4:6] == [
        (bundle.trials[1].id, "evaluating"),
        (bundle.trials[2].id, "compressing"),
    ]
    assert store.folder.names("running") == []


def test_rows_hold_what_was_asked_and_what_was_achieved(run):
    store, _, _ = run("toy_drop")

    row = ask(
        store,
        "SELECT * FROM trials JOIN measurements USING (attempt) "
        "WHERE ratio = 0.5 AND task_options = '{}'",
    ).dicts()[0]
    # 32 weights 1..32; half of them, 1..16, are zeroed: 528 - 136 = 392 is left.
    assert (row["metric"], row["value"]) == ("total", 392)
    assert row["params"] == row["params_dense"] == 32
    assert row["params_nonzero"] == 16
    assert row["achieved_ratio"] == 0.5
    assert row["achieved_params"] == 0
    assert row["macs"] == row["macs_dense"] == 32
    assert row["bytes"] == row["bytes_dense"]
    assert row["status"] == "ok"
    assert row["chance"] == 1.5
    assert (row["trained_epochs"], row["trained_samples"]) == (3, 96)  # fit, compress
    assert row["seconds"] >= row["evaluate_seconds"] >= 0
    assert row["peak_memory_bytes"] > 10**7
    assert len(row["code_digest"]) == 24
    assert json.loads(row["versions"])["torch"]


@pytest.mark.parametrize(
    ("value", "goal", "stderr", "chance", "guesses"),
    [
        (0.5, "max", 0.1, 0.25, False),
        (0.5, "max", 0.125, 0.25, True),  # two standard errors above, not more
        (40.0, "min", None, 50.0, False),
        (50.0, "min", None, 50.0, True),
        (0.1, "max", 0.2, None, False),
    ],
)
def test_a_number_is_at_chance_within_two_standard_errors(
    value, goal, stderr, chance, guesses
):
    one = Measurement(metric="m", value=value, goal=goal, stderr=stderr, chance=chance)
    assert worker.at_chance(one) is guesses


def test_rows_say_what_is_left_of_each_layer(run):
    store, _, _ = run("toy_drop")

    rows = ask(
        store,
        "SELECT ratio, count(*), any_value(layer), any_value(role), "
        "any_value(l.params_dense), any_value(l.params), any_value(nonzero) "
        "FROM layers AS l JOIN trials USING (attempt) GROUP BY ratio ORDER BY ratio",
    ).rows
    # Two tasks measure each network.
    assert rows == [
        (0.25, 2, "fc", "linear", 32, 32, 24),
        (0.5, 2, "fc", "linear", 32, 32, 16),
        (0.75, 2, "fc", "linear", 32, 32, 8),
    ]


def test_what_the_members_of_a_chain_train_is_added_up(run):
    store, _, _ = run("{chain: [toy_drop, {name: toy_drop, ratio: 0.75}]}")

    found = ask(
        store,
        "SELECT DISTINCT ratio, status, trained_epochs, trained_samples FROM trials "
        "WHERE ratio > 0 ORDER BY ratio",
    ).rows
    # Each of the two fits and compresses.
    assert found == [(ratio, "ok", 6, 192) for ratio in (0.25, 0.5, 0.75)]


def test_a_model_whose_files_change_while_it_is_measured_fails_its_trial(
    run, monkeypatch
):
    # Weights may be mapped from these files.
    toy, task = find("model", "toy").cls, find("task", "toy_sum").cls
    measure, calls, files = task.evaluate, [], ["1"]

    def changing(self, model):
        calls.append(model)
        if len(calls) == 2:
            files[0] = "2"
        return measure(self, model)

    # Patched before the run: what a trial patches is put back after it.
    monkeypatch.setattr(toy, "revision", lambda self: files[0])
    monkeypatch.setattr(task, "evaluate", changing)

    store, _, outcome = run("toy_drop", task="toy_sum")

    rows = ask(store, "SELECT status, reason FROM trials ORDER BY ratio").rows
    assert [status for status, _ in rows] == ["ok", "failed", "failed"]
    assert "is 2 on this node, and 1 in the plan" in rows[1][1]
    assert outcome.counts == {"ok": 1, "failed": 2}


def test_the_same_run_again_does_nothing(run, toys):
    run("toy_drop")
    before = steps(toys)
    _, plan, outcome = run("toy_drop")

    assert plan.trials == 0
    assert len(plan.done) == 6
    assert not outcome.counts
    assert steps(toys) == before


def test_a_grid_that_grows_runs_only_what_is_new(run, toys):
    run("toy_drop")
    _, plan, _ = run("toy_drop, dense")

    assert plan.trials == 2
    assert {t.method.name for b in plan.bundles for t in b.trials} == {"dense"}


@pytest.mark.parametrize(
    ("how", "status", "error_class", "reason"),
    [
        ("raise", "failed", "bug", "RuntimeError: broken on purpose"),
        ("nan", "failed", "nan", "total is nan"),
        ("oom", "out_of_memory", "oom", "Tried to allocate 7 PiB"),
        ("unsupported", "unsupported", "unsupported", "nothing here"),
        ("sleep", "timed_out", "timeout", "limit of 2 s"),
    ],
)
def test_a_trial_that_fails_is_a_row_and_the_rest_goes_on(
    run, how, status, error_class, reason
):
    limit = "2s" if how == "sleep" else "2m"
    store, _, outcome = run(f"{{name: toy_trouble, how: {how}}}", limit)

    rows = ask(store, "SELECT * FROM newest ORDER BY ratio, task_options").dicts()
    assert [r["status"] for r in rows] == ["ok"] * 2 + [status] * 2 + ["ok"] * 2
    assert {r["error_class"] for r in rows if r["ratio"] == 0.5} == {error_class}
    assert all(reason in r["reason"] for r in rows if r["ratio"] == 0.5)
    assert outcome.counts["ok"] == 4
    assert bool(outcome.failures) is (status != "unsupported")
    has_traceback = {bool(r["traceback"]) for r in rows if r["ratio"] == 0.5}
    assert has_traceback == {error_class == "bug"}


def test_a_sample_that_is_no_number_fails_its_trial_and_not_the_run(run):
    store, _, outcome = run("dense", task="toy_samples")

    assert outcome.stopped is None
    rows = ask(store, "SELECT task, status, error_class, reason FROM newest").rows
    told = "a sample's m is not a finite number"
    assert {row for row in rows if row[0] == "toy_samples"} == {
        ("toy_samples", "failed", "nan", told)
    }
    assert outcome.counts == {"ok": 1, "failed": 1}


def test_failed_trials_run_again_only_when_asked(run):
    run("{name: toy_trouble, how: raise}")
    _, plain, _ = run("{name: toy_trouble, how: raise}")
    _, asked, _ = run("{name: toy_trouble, how: raise}", retry=["failed"])

    assert (plain.trials, len(plain.failed)) == (0, 2)
    assert asked.trials == 2


def test_an_attempt_that_ran_out_of_memory_is_tried_twice_in_one_run(run):
    store, _, _ = run("{name: toy_trouble, how: oom}")

    tries = ask(
        store, "SELECT count(*) AS n FROM trials WHERE ratio = 0.5 GROUP BY trial"
    )
    assert [n for (n,) in tries.rows] == [2, 2]


def test_secrets_of_the_environment_reach_no_row(run, monkeypatch):
    monkeypatch.setenv("TOY_API_TOKEN", "hunter2-very-secret")
    store, _, _ = run("{name: toy_trouble, how: raise}")

    rows = ask(store, "SELECT reason, traceback FROM newest WHERE ratio = 0.5").rows
    assert all("<TOY_API_TOKEN>" in reason for reason, _ in rows)
    assert "hunter2" not in str(rows)
    for path in Path(store.uri).rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes()


def test_stop_after_the_first_failure_leaves_the_rest_missing(tmp_path, toys):
    path = tmp_path / "grid.yaml"
    methods = "{name: toy_trouble, how: raise}, toy_drop"
    path.write_text(GRID.format(methods=methods, limit="2m", task=TWICE))
    store = open_store(tmp_path / "store", create=True)
    plan = plans.make(grids.read(path))
    outcome = Driver(
        plan=plan,
        store=store,
        executor=Inline(),
        watcher=Silent(),
        max_failures=1,
    ).run()

    assert outcome.stopped == "1 trial failed"
    assert outcome.failures == 1
    assert sum(outcome.counts.values()) < plan.trials
    again = plans.make(grids.read(path), statuses=read_statuses(store))
    assert again.trials + len(again.done) + len(again.failed) == 12


def test_numbers_with_and_without_sharing_are_equal(run, tmp_path):
    shared, plan, _ = run("toy_drop, magnitude")
    alone = open_store(tmp_path / "alone", create=True)
    for bundle in plan.bundles:
        for trial in bundle.trials:
            one = bundle.without(t.id for t in bundle.trials if t.id != trial.id)
            single = plans.Plan(grid=plan.grid, bundles=[one])
            Driver(plan=single, store=alone, executor=Inline(), watcher=Silent()).run()

    query = (
        "SELECT trial, metric, value FROM measurements m JOIN newest USING (attempt)"
    )
    query += " WHERE metric = 'total' ORDER BY ALL"
    rows = ask(shared, query).rows
    assert len(rows) == 12
    assert ask(alone, query).rows == rows


def test_what_a_dead_worker_was_running_becomes_lost_once_also_after_compaction(
    run, tmp_path
):
    store, plan, _ = run("toy_drop")
    trials = [t.id for b in plan.bundles for t in b.trials]
    done = ask(store, "SELECT attempt FROM trials WHERE trial = ?", [trials[0]]).rows
    compact(store)
    lease = {"run": "r", "host": socket.gethostname(), "pid": 2**22 + 1}
    lease |= {"started_at": 1.0}
    lease["attempts"] = [[done[0][0], trials[0]], ["a" * 24, trials[1]]]
    store.folder.write("running/r-b.json", json.dumps(lease).encode())

    assert reconcile(store) == 1
    assert reconcile(store) == 0
    rows = ask(store, "SELECT attempt, trial, status FROM trials WHERE status = 'lost'")
    assert rows.rows == [("a" * 24, trials[1], "lost")]
    assert read_statuses(store)[trials[1]] == "ok"  # an ok row is never hidden


def test_an_artifact_that_nobody_will_use_is_not_begun(tmp_path, toys):
    store = open_store(tmp_path / "store", create=True)
    artifact = Artifact(
        kind="dense", model=PluginSpec(name="toy", plugin="toy"), dtype="f"
    )
    leases.request_stop(store, "stopped")

    built = produce(ArtifactJob(artifact=artifact, store=store.uri, run="stopped"))

    assert built.error == "not begun: the run was asked to stop"
    assert built.error_class == "infra"


def test_trials_behind_an_error_that_spoils_cuda_run_in_a_new_process(run, monkeypatch):
    seen = []
    compress = Steps.compressed

    def spoilt(self, trial):
        seen.append(self)  # kept, so that no later one has its address
        if trial.ratio == 0.25:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return compress(self, trial)

    monkeypatch.setattr(Steps, "compressed", spoilt)

    store, _, outcome = run("toy_drop", task="toy_sum")

    rows = ask(store, "SELECT ratio, status, error_class FROM trials ORDER BY ratio")
    assert rows.rows == [
        (0.25, "failed", "bug"),
        (0.5, "ok", None),
        (0.75, "ok", None),
    ]
    assert outcome.counts == {"failed": 1, "ok": 2}
    first, *others = seen
    assert all(one is not first for one in others), "a new job runs the rest"
