"""What the tabulator key offers, asked for as a shell asks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import grid


def offered(*words, cwd, **env):
    """The values for the last word, as click prints them for bash."""
    line = " ".join(["shrinkgrid", *words])
    done = subprocess.run(
        [str(Path(sys.executable).with_name("shrinkgrid"))],
        env={
            **os.environ,
            **env,
            "_SHRINKGRID_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words)),
        },
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    assert done.stderr == ""
    return [one.split(",", 1)[1] for one in done.stdout.splitlines() if one]


def test_verbs_and_grids(tmp_path):
    (tmp_path / "mine.yaml").write_text("")

    assert "leaderboard" in offered("lead", cwd=tmp_path)
    assert offered("run", "quick", cwd=tmp_path) == ["quickstart"]
    assert offered("plan", "mi", cwd=tmp_path) == ["mine.yaml"]


def test_papers_and_plugins(tmp_path):
    assert "svd_llm_1" in offered("table", "svd_llm", cwd=tmp_path)
    assert "svd_llm" in offered("describe", "svd_", cwd=tmp_path)
    found = offered("describe", "task", "di", cwd=tmp_path)
    assert found == ["digits"], "of the kind that was typed before, digits_convnet not"


def test_trials_of_the_store_and_nothing_without_one(tmp_path):
    store = grid(tmp_path / "store")
    first = sorted(p.name for p in store.folder.local.glob("trials/*.parquet"))
    assert first

    found = offered("show", "", cwd=tmp_path)

    assert 0 < len(found) <= 50
    assert offered("show", found[0], cwd=tmp_path) == [found[0]]
    assert offered("show", "", cwd=tmp_path, SHRINKGRID_STORE="nowhere") == []


@pytest.mark.parametrize("words", [("show", "'\"; DROP"), ("run", "/no/such/")])
def test_what_completes_to_nothing_prints_no_error(tmp_path, words):
    assert offered(*words, cwd=tmp_path) == []
