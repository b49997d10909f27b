"""Runs of experiment trackers, read back from what their clients wrote."""

import contextlib
import sqlite3
import sys
from types import SimpleNamespace

import pytest
from synthetic import row

from results import publish, trackers
from results.errors import StoreError

PERPLEXITY = {"metric": "perplexity", "value": 12.25, "unit": "1", "goal": "min"}
FINAL = {**PERPLEXITY, "stderr": 0.5, "n": 340}
OPTIONS = {"method_options": '{"bits":4}', "protocol_fields": '{"window":32}'}


@pytest.fixture
def rows(empty):
    """A trial with a curve of two steps, and one without."""
    curve = [{**PERPLEXITY, "value": v, "step": n} for n, v in ((0, 40.0), (5, 20.0))]
    empty.append(row("aa", task="wiki", measurements=[*curve, FINAL], **OPTIONS))
    empty.append(row("bb", task="wiki", ratio=0.5, measurements=[FINAL]))
    return publish.finished(empty, ["aa", "bb"], curves=True)


def test_the_last_step_has_the_final_numbers(rows):
    final = {"perplexity": 12.25, "perplexity_stderr": 0.5}

    assert [trackers.steps(one) for one in rows] == [
        [(0, {"perplexity": 40.0}), (5, {"perplexity": 20.0}), (6, final)],
        [(0, final)],
    ]


def test_the_configuration_says_what_was_run(rows):
    said = trackers.config(rows[0])

    assert said["trial"] == "aa"
    assert said["method_options"] == {"bits": 4}
    assert said["protocol"] == {"window": 32}
    assert (said["ratio"], said["seed"]) == (0.2, 0)
    assert trackers.name(rows[0]) == "mlp svd bits=4 0.2 wiki aa"


def test_curves_are_left_out_of_model_cards(empty, rows):
    (one,) = publish.finished(empty, ["aa"])
    assert [m["step"] for m in one["measurements"]] == [None]


class Recorded:
    """A client that keeps what it is given."""

    def __init__(self):
        self.runs, self.logged = [], []

    def init(self, **options):
        self.runs.append(options)
        return contextlib.nullcontext(self.run())

    def run(self):
        return SimpleNamespace(
            log=lambda numbers, step: self.logged.append((step, numbers)),
            settings=SimpleNamespace(sync_dir="wandb/offline-run"),
        )

    def Settings(self, **options):
        return options


def test_wandb_is_asked_for_offline_runs(rows, monkeypatch):
    client = Recorded()
    monkeypatch.setitem(sys.modules, "wandb", client)

    assert trackers.write(rows, "wandb", "mine") == ["wandb/offline-run"] * 2

    first, second = client.runs
    assert first["mode"] == second["mode"] == "offline"
    assert first["project"] == "mine"
    assert first["id"] == rows[0]["attempt"] != second["id"]
    assert first["config"] == trackers.config(rows[0])
    assert client.logged == [*trackers.steps(rows[0]), *trackers.steps(rows[1])]


def test_a_missing_client_is_named(monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StoreError, match=r"pip install 'shrinkgrid\[wandb\]'"):
        trackers.check_package("wandb")


def test_trackio_has_the_runs_on_this_machine(rows, tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    from trackio import utils
    from trackio.sqlite_storage import SQLiteStorage

    monkeypatch.setattr(utils, "TRACKIO_DIR", tmp_path)
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path)
    monkeypatch.setenv("TRACKIO_SPACE_ID", "someone/space")  # nothing goes there

    said = trackers.write(rows, "trackio", "mine")

    assert said == [f"project mine, run {trackers.name(one)}" for one in rows]
    for one in rows:
        logs = SQLiteStorage.get_logs("mine", trackers.name(one))
        wanted = trackers.steps(one)
        assert [log["step"] for log in logs] == [step for step, _ in wanted]
        found = [
            {key: log[key] for key in numbers}
            for log, (_, numbers) in zip(logs, wanted, strict=True)
        ]
        assert found == [numbers for _, numbers in wanted]
        stored = SQLiteStorage.get_run_config("mine", trackers.name(one))
        assert stored["trial"] == one["trial"]
    (path,) = tmp_path.glob("*.db")
    with contextlib.closing(sqlite3.connect(path)) as store:
        assert store.execute("SELECT count(*) FROM metrics").fetchone()[0] == 4
