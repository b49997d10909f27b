"""The command line: exit statuses, messages, verbs."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import cli
from harness.cli import COMMANDS, _status
from results.queries.db import ask
from results.storage.store import open_store

GRID = """
models: [toy]
methods: [dense, toy_drop{more}]
ratios: [0.25, 0.5]
tasks: [toy_sum]
"""


@pytest.fixture
def grid(tmp_path: Path, toys: Path) -> Path:
    path = tmp_path / "toys.yaml"
    path.write_text(GRID.format(more=""))
    return path


@pytest.fixture
def shrinkgrid(tmp_path: Path, monkeypatch, capsys):
    """Run a command here; returns its exit status, stdout and stderr."""
    monkeypatch.setenv("SHRINKGRID_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)

    def runs(*words: str) -> tuple[int, str, str]:
        status = _status([str(w) for w in words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return runs


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the store of ``finished`` is kept for the other tests."""
    return tmp_path_factory.mktemp("finished") / "store"


@pytest.fixture
def finished(shrinkgrid, grid, tmp_path: Path, kept: Path) -> None:
    """The store of the test has the grid, all of which ran; it runs once."""
    if kept.exists():
        shutil.copytree(kept, tmp_path / "store")
        return
    assert shrinkgrid("run", grid, "--address", "inline")[0] == 0
    shutil.copytree(tmp_path / "store", kept)


def test_run_ends_with_the_leaderboard_and_again_has_nothing_to_do(shrinkgrid, grid):
    status, out, err = shrinkgrid("run", grid, "--address", "inline")

    assert status == 0
    assert "toy on toy_sum" in out
    assert "3 to run in 2 bundles" in err
    status, _, err = shrinkgrid("run", grid, "--address", "inline")
    assert status == 0
    assert "nothing to run" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--address", "inlin"], "address 'inlin' is not one of 'local', 'auto'"),
        (["--only", "method = 'no'"], "selects none of 3 trials"),
        (["--retry", "no"], "--retry 'no' is not a status"),
    ],
)
def test_an_error_in_the_words_makes_no_store(shrinkgrid, grid, tmp_path, words, said):
    status, _, err = shrinkgrid("run", grid, *words)

    assert status == 2
    assert said in err
    assert not (tmp_path / "store").exists()


def test_an_error_in_the_grid_makes_no_store(shrinkgrid, grid, tmp_path):
    grid.write_text(GRID.format(more=", nothing"))

    status, _, err = shrinkgrid("run", grid, "--address", "inline")

    assert status == 2
    assert "no method called 'nothing'" in err
    assert not (tmp_path / "store").exists()


def test_failed_trials_give_exit_status_3_and_a_reason(shrinkgrid, grid):
    grid.write_text(GRID.format(more=", toy_trouble"))
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
    grid.write_text(GRID.format(more=", toy_trouble"))
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
    grid.write_text(GRID.format(more="").replace("dense, ", ""))
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


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["run", "quikstart"], "Did you mean 'quickstart'?"),
        (["run", "missing.yaml"], "no grid file missing.yaml"),
        (["runn"], "Did you mean 'run'?"),
        (["run", "GRID", "--only", "ratio < 0"], "selects none of 3 trials"),
        (["run", "GRID", "--only", "raito < 0"], "write a condition over"),
        (["run", "GRID", "--only", "1; drop table plan"], "--only"),
        (["run", "GRID", "--store", "GRID"], "under, a file; a store is a folder"),
        (["run", "GRID", "--store", "."], "is not a store and contains other files"),
        (["run", "GRID", "--adress", "local"], "--adress"),
        (["run", "GRID", "--retry", "timed"], "failed, out_of_memory, timed_out"),
        (["run", "--retry", "g.yaml"], "put GRID before --retry"),
        (["run", "GRID", "--max-failures", "0"], "--max-failures"),
        (["run", "GRID", "--cpus", "0"], "--cpus"),
        (["submit", "GRID", "--max-failures", "-1"], "--max-failures"),
        (["run", "GRID", "--only", "method = svd"], "method = 'svd'"),
        (["run", "GRID", "--only", "method = 'x'"], "method dense, toy_drop"),
        (["list", "meth"], "'methods'"),
        (["why", "ffff"], "no store at"),
        (["sql", "select 1"], "no store at"),
        (["leaderboard"], "no store at"),
        (["new", "method", "9lives"], "is not a valid name for a method"),
        (["new", "method", "svd"], "a method called 'svd' exists already"),
    ],
)
def test_an_error_is_one_message_and_exit_status_2(shrinkgrid, grid, words, reason):
    status, out, err = shrinkgrid(*(str(grid) if w == "GRID" else w for w in words))

    assert status == 2
    assert reason in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["export", "/proc/nowhere/a.duckdb"], "cannot be written"),
        (["table", "basis_sharing_1", "--metric", "mse"], "--metric is for a table wi"),
        (["table", "--metric", "mse", "--model", "toy"], "--model is for PAPER's tab"),
        (["leaderboard", "--model", "toy", "--task", "x"], "no task in"),
        (["status", "toyz"], "Did you mean 'toys'?"),
        (["why", "zzz", "--grid", "GRID"], "toys.yaml --json` prints its ids"),
        (["export", "a.xlsx"], "no format for '.xlsx'"),
        (["export", "a.csv", "--format", "duckdb"], "duckdb needs .duckdb or .db"),
        (["sql", "from leaderbord"], 'Did you mean "leaderboard"?'),
        (["sql", "select methd from leaderboard"], 'Candidate bindings: "method"'),
        (["sql", ""], "the query is empty"),
        (["plot", "pareto", "--out", "x.gif"], "does not end in .svg, .pdf or .png"),
        (["verify", "nofile"], "nofile cannot be read: No such file"),
    ],
)
def test_an_error_about_a_store_is_one_message(
    shrinkgrid, grid, words, reason, finished
):
    status, out, err = shrinkgrid(*(str(grid) if w == "GRID" else w for w in words))

    assert status == 2
    assert reason in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("out", "encoding", "reason"),
    [
        ("/dev/full", "utf-8", "the output cannot be written"),
        ("/dev/null", "latin-1", "this terminal cannot print"),
    ],
)
def test_an_output_that_takes_nothing_is_one_message(
    tmp_path, out, encoding, reason, finished
):
    words = ["status", "--store", str(tmp_path / "store")]
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    with Path(out).open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "harness", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            env=env,
            text=True,
            check=False,
        )

    assert done.returncode
    assert reason in done.stderr
    assert "bug of shrinkgrid" not in done.stderr


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
    other.write_text(GRID.format(more="").replace("0.5", "0.75"))
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


def test_a_removed_current_folder_is_one_message(
    shrinkgrid, grid, tmp_path, monkeypatch
):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    status, _, err = shrinkgrid("status", grid)

    assert status == 2
    assert err == "error: the current folder was removed; change to another with `cd`\n"


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ratios", "--set 'ratios' is not KEY=VALUE"),
        ("ratios=[", "--set 'ratios=[': "),
        ("ratio=[0.2]", "no key called 'ratio'. Did you mean 'ratios'?"),
        ("ratios=0.2", "ratios 0.2 is not a list"),
    ],
)
def test_a_wrong_set_is_told(shrinkgrid, grid, text, said):
    status, _, err = shrinkgrid("plan", grid, "--set", text)

    assert status == 2
    assert said in err


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
