"""A grid of toys, and the commands that are run on it."""

import shutil
from pathlib import Path

import pytest

from harness.cli import _status

GRID = """
models: [toy]
methods: [dense, toy_drop]
ratios: [0.25, 0.5]
tasks: [toy_sum]
"""


@pytest.fixture
def grid(tmp_path: Path, toys: Path) -> Path:
    path = tmp_path / "toys.yaml"
    path.write_text(GRID)
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
