"""The command line: exit statuses, messages, verbs."""

import json
import signal
import subprocess
import sys

import pytest

from harness import cli
from harness.cli import COMMANDS, _status
from results.queries.db import ask
from results.storage.store import open_store


def test_run_ends_with_the_leaderboard_and_again_has_nothing_to_do(shrinkgrid, grid):
    status, out, err = shrinkgrid("run", grid, "--address", "inline")

    assert status == 0
    assert "toy on toy_sum" in out
    assert "3 to run in 2 bundles" in err
    status, _, err = shrinkgrid("run", grid, "--address", "inline")
    assert status == 0
    assert "nothing to run" in err


def test_failed_trials_give_exit_status_3_and_a_reason(shrinkgrid, grid):
    grid.write_text(grid.read_text().replace("drop", "drop, toy_trouble"))
    status, _, err = shrinkgrid("run", grid, "--address", "inline")

    assert status == 3
    assert "1 trial failed" in err
    status, out, _ = shrinkgrid("status", grid)
    assert status == 3
    assert "4 done, 0 running, 1 failed, 0 missing" in out
    assert "broken on purpose" in " ".join(out.split())  # folded in its column
    by_name = shrinkgrid("status", "toys")  # the store knows the grid by its name
    assert by_name[0] == 3
    assert "4 done, 0 running, 1 failed, 0 missing" in by_name[1]


def test_what_a_failed_run_advises_works(shrinkgrid, grid):
    grid.write_text(grid.read_text().replace("drop", "drop, toy_trouble"))
    _, _, err = shrinkgrid("run", grid, "--address", "inline")
    assert "`shrinkgrid status toys` shows why" in " ".join(err.split())

    for again in (["--retry"], ["--retry", "failed"], ["--retry=all"]):
        status, _, err = shrinkgrid("run", grid, "--address", "inline", *again)
        assert status == 3
        assert "1 to run in 1 bundle" in err
    status, _, err = shrinkgrid("run", grid, "--address", "inline", "--retry", "oom")
    assert "0 to run" in err


def test_a_grid_without_dense_is_warned_about(shrinkgrid, grid):
    assert "no dense baseline" not in shrinkgrid("plan", grid)[1]
    grid.write_text(grid.read_text().replace("dense, ", ""))
    assert "no dense baseline of toy" in shrinkgrid("plan", grid)[1]


def test_status_of_a_grid_as_json(shrinkgrid, grid):
    shrinkgrid("run", grid, "--address", "inline", "--only", "ratio < 0.3")
    _, out, _ = shrinkgrid("status", grid, "--format", "json")

    counts = json.loads(out)
    assert (counts["done"], counts["missing"], counts["failed"]) == (2, 1, 0)
    assert counts["selected"] == 2
    said = shrinkgrid("status", "toys")[1]
    assert said == (
        "toys: 2 done, 0 running, 0 failed, 1 missing, 0 unsupported, 0 stale\n"
        "the last run selected 2 of 3 trials\n"
    )


def test_only_runs_what_the_condition_picks(shrinkgrid, grid, tmp_path):
    shrinkgrid("run", grid, "--address", "inline", "--only", "method == 'toy_drop'")

    rows = ask(open_store(tmp_path / "store"), "SELECT DISTINCT method FROM trials")
    assert rows.rows == [("toy_drop",)]


def test_plan_shows_a_name_as_it_is_and_why_nothing_runs(shrinkgrid, grid):
    plain = grid.read_text()
    grid.write_text(f"name: 'a [/b] [c]'\n{plain}")
    assert "a [/b] [c]: 3 to run" in shrinkgrid("plan", grid)[1]

    grid.write_text(f"{plain}\nexclude: [{{}}]\n")
    status, _, err = shrinkgrid("plan", grid)
    assert status == 2
    assert "a rule without keys drops every trial" in err


@pytest.mark.parametrize("verb", ["status", "plan", "why", "sql"])
def test_a_reader_that_finds_a_damaged_file_says_so(
    shrinkgrid, grid, tmp_path, verb, finished
):
    trial = ask(open_store(tmp_path / "store"), "SELECT trial FROM trials").rows[0][0]
    for file in (tmp_path / "store" / "trials").rglob("*.parquet"):
        file.write_bytes(file.read_bytes()[:60])
    words = {"plan": [grid], "why": [trial, "--grid", grid], "sql": ["FROM trials"]}

    _, _, err = shrinkgrid(verb, *words.get(verb, []))

    assert "warning: " in err
    assert "is damaged" in err


def test_why_names_the_first_field_that_differs(shrinkgrid, grid, finished):
    other = grid.with_name("other.yaml")
    other.write_text(grid.read_text().replace("0.5", "0.75"))
    _, out, _ = shrinkgrid("plan", other, "--json")
    missing = [r for r in map(json.loads, out.splitlines()) if r["state"] == "run"]

    status, out, _ = shrinkgrid("why", missing[0]["trial"][:10], "--grid", other)

    assert status == 0
    assert "it will run: the store has no attempt of it" in out
    assert "differs in ratio: " in out
    assert "0.75 here" in out


def test_why_a_finished_trial_will_not_run(shrinkgrid, grid, finished):
    _, out, _ = shrinkgrid("sql", "select trial from newest limit 1", "--format", "csv")

    _, out, _ = shrinkgrid("why", out.split()[-1])

    assert "it will not run: it is finished" in out


def test_stale_rows_are_named_and_run_again_when_told(
    shrinkgrid, grid, monkeypatch, finished
):
    monkeypatch.setattr("harness.running.rows.code_digest", lambda *_: "f" * 16)

    _, out, _ = shrinkgrid("plan", grid)
    assert "3 finished trials were made by other code than this" in out
    _, _, err = shrinkgrid("run", grid, "--address", "inline", "--refresh", "stale")
    assert "3 to run" in err
    _, out, _ = shrinkgrid("plan", grid)
    assert "made by other code" not in out


def test_gc_lists_first_and_deletes_only_with_apply(
    shrinkgrid, grid, tmp_path, finished
):
    litter = tmp_path / "store" / "scratch" / "old"
    litter.mkdir(parents=True)
    (litter / "checkpoint").write_bytes(b"x" * 1000)

    _, out, _ = shrinkgrid("gc")
    assert str(litter) in out
    assert litter.exists()
    shrinkgrid("gc", "--apply")
    assert not litter.exists()
    status, _, _ = shrinkgrid("leaderboard")
    assert status == 0


def test_gc_deletes_links_and_never_what_they_point_to(
    shrinkgrid, grid, tmp_path, finished
):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_bytes(b"x" * 5_000_000)
    store = tmp_path / "store"
    links = {"artifacts/folder": precious, "scratch/file": precious / "file"}
    links |= {"scratch/dangling": tmp_path / "nothing"}
    for name, target in links.items():
        (store / name).parent.mkdir(exist_ok=True)
        (store / name).symlink_to(target)

    status, out, err = shrinkgrid("gc", "--artifacts", "--apply")

    assert status == 0, err
    assert "5.0 MB" not in out, "the size of a link is its own"
    assert not any((store / name).is_symlink() for name in links)
    assert (precious / "file").stat().st_size == 5_000_000


def test_doctor_says_what_this_machine_has(shrinkgrid):
    status, out, _ = shrinkgrid("doctor")

    assert status == 0
    for word in ("torch", "ray", "duckdb", "disk", "store", "methods"):
        assert word in out


@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_every_verb_has_help(shrinkgrid, verb):
    status, out, _ = shrinkgrid(verb, "--help")

    assert status == 0
    assert "Usage:" in out


@pytest.mark.parametrize(
    "what", ["methods", "models", "tasks", "grids", "papers", "families", "family"]
)
def test_list_shows_every_name(shrinkgrid, what):
    status, out, _ = shrinkgrid("list", what, "--format", "json")

    rows = json.loads(out)
    assert status == 0
    assert len(rows) >= 1
    if what == "methods":
        assert {"dense", "svd", "magnitude"} <= {r["method"] for r in rows}


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from harness.cli import _status; _status(['--help']);"
        "heavy = {'torch', 'ray', 'transformers', 'duckdb', 'pyarrow', 'numpy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        (KeyboardInterrupt(), 130),
        (SystemExit(int(signal.SIGTERM)), 130),  # what Ray's handler of SIGTERM raises
    ],
)
def test_a_run_that_is_told_to_end_while_ray_starts_says_so(
    monkeypatch, capsys, ending, status
):
    def ends(*_words, **_options):
        signal.alarm(60)  # Ray's library sets one, which aborts the process
        raise ending

    monkeypatch.setattr(cli, "cli", ends)

    assert _status(["run", "grid.yaml"]) == status
    assert signal.alarm(0) == 0
    assert capsys.readouterr().err == "interrupted: finished trials are stored\n"


def test_set_replaces_keys_of_the_grid_and_of_its_blocks(shrinkgrid, grid):
    text = grid.read_text()
    grid.write_text(f"{text}blocks: [{{seeds: [3]}}, {{ratios: [0.1]}}]\n")

    words = ("--set", "ratios=[0.7]", "--set", "seeds=[1]", "--json")
    status, out, _ = shrinkgrid("plan", grid, *words)

    trials = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert {t["ratio"] for t in trials} == {0.0, 0.7}
    assert {t["seed"] for t in trials} <= {0, 1}


def test_status_is_shown_again_until_ctrl_c(shrinkgrid, grid, monkeypatch):
    from harness.cli import look

    shrinkgrid("run", grid, "--address", "inline", "--only", "ratio < 0.3", "--quiet")
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(look.time, "sleep", sleep)

    status, out, _ = shrinkgrid("status", grid, "--watch", "2")

    assert status == 0
    assert waits == [2.0] * 3
    assert out.count("toys: 2 done") == 3
    assert out.count("Ctrl-C ends this") == 3
