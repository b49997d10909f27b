"""A new plugin works as `new` wrote it, outside of a checkout and inside one."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harness.cli import _status
from results.queries.db import ask
from results.storage.store import open_store

ROOT = Path(__file__).parents[3]
TOYS = ROOT / "tests/toys/toys.py"
GRID = """
models: [{name: mlp, hidden: [16], recipe: {epochs: 1}}]
methods: [fresh_one, {name: fresh_one, per_row: true}]
ratios: [0.5]
tasks: [digits]
"""
MEASURED = """
models: [toy]
methods: [toy_drop]
ratios: [0.5]
tasks: [fresh_one, {name: fresh_one, threshold: 20}]
"""


def run(*words: str, cwd: Path, **env: str) -> str:
    """Run Python on the code of ``cwd``, or of this checkout; it must succeed."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["method", "task"])
def test_a_file_is_never_overwritten(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert _status(["new", kind, "fresh_one"]) == 0
    assert "export SHRINKGRID_PLUGINS=" in capsys.readouterr().out
    (tmp_path / "fresh_one.py").write_text("mine")

    assert _status(["new", kind, "fresh_one"]) == 2
    assert "exists; choose another name" in capsys.readouterr().err
    assert (tmp_path / "fresh_one.py").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["class"], "'class' is a word of Python's own: use another name"),
        (["3d"], "'3d' is not a valid name for a method: use lower-case"),
        (["one", "--package", "for"], "'for' is a word of Python's own"),
        (["one", "--package", "json"], "another module called 'json' already"),
        (["one", "--package", "my-package"], "'my-package' is not a valid name for a"),
    ],
)
def test_a_name_that_cannot_work_is_refused(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert _status(["new", "method", *words]) == 2
    assert f"error: {said}" in capsys.readouterr().err.replace("Python finds ", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["method", "task"])
def test_a_package_has_metadata_and_a_method_has_tests(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _status(["new", kind, "fresh_one", "--package", "my_package"]) == 0

    metadata = tomllib.loads(Path("my_package/pyproject.toml").read_text())
    points = metadata["project"]["entry-points"]
    assert points == {f"shrinkgrid.{kind}s": {"fresh_one": "my_package.fresh_one"}}
    assert metadata["project"]["name"] == "my-package"
    assert Path("my_package/src/my_package/fresh_one.py").is_file()
    assert Path("my_package/tests").is_dir() == (kind == "method")
    assert f"{kind}s: [fresh_one]" in Path("my_package/README.md").read_text()


def test_a_package_never_replaces_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    for package, said in (("mine", "exists; choose another"), ("My-One", "valid name")):
        assert _status(["new", "method", "fresh_one", "--package", package]) == 2
        assert said in capsys.readouterr().err
    assert list(Path("mine").iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "grid", "metric"),
    [("method", GRID, "accuracy"), ("task", MEASURED, "small_weights")],
)
def test_a_new_plugin_runs_and_its_option_has_an_effect(
    kind, grid, metric, tmp_path, toys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert _status(["new", kind, "fresh_one"]) == 0
    Path("grid.yaml").write_text(grid)
    plugins = os.pathsep.join([str(TOYS), str(tmp_path / "fresh_one.py")])

    words = ["-m", "harness", "run", "grid.yaml", "--address", "inline"]
    run(*words, cwd=tmp_path, PYTHONPATH=str(ROOT), SHRINKGRID_PLUGINS=plugins)

    rows = ask(
        open_store(tmp_path / "store"),
        "SELECT achieved_ratio, value FROM newest JOIN measurements USING (attempt) "
        "WHERE metric = ?",
        [metric],
    ).rows
    assert [row[0] for row in rows] == pytest.approx([0.5, 0.5], abs=0.01)
    assert len({row[1] for row in rows}) == 2


@pytest.mark.slow
def test_in_a_checkout_a_new_method_passes_lint_and_contract_tests(tmp_path):
    copy = tmp_path / "checkout"
    junk = shutil.ignore_patterns(".*", "__pycache__", "shared", "store")
    shutil.copytree(ROOT, copy, ignore=junk)
    shutil.copy(ROOT / ".flake8", copy)
    here = {"PYTHONPATH": str(copy)}

    said = run("-m", "harness", "new", "method", "my_method", cwd=copy, **here)
    assert f"wrote {copy}/methods/my_method.py" in said

    file = "methods/my_method.py"
    run("-m", "ruff", "check", file, cwd=copy)
    run("-m", "ruff", "format", "--check", file, cwd=copy)
    run("-m", "mypy", file, cwd=copy)
    run("-m", "flake8", file, cwd=copy)
    run("docs/generate.py", "--check", cwd=copy, **here)
    tests = ["tests/test_contracts.py", "-k", "my_method", "-p", "no:cacheprovider"]
    run("-m", "pytest", *tests, cwd=copy, **here)  # status 5 if none is found
