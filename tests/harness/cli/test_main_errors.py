"""Errors of a user are one message and exit status 2, and leave nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


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
    grid.write_text(grid.read_text().replace("drop", "drop, nothing"))

    status, _, err = shrinkgrid("run", grid, "--address", "inline")

    assert status == 2
    assert "no method called 'nothing'" in err
    assert not (tmp_path / "store").exists()


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
