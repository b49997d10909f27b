"""Fixtures over synthetic stores."""

import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import grid

from results.storage.store import Store, open_store


@pytest.fixture
def empty(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store", create=True)


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store to read; tests that write make their own."""
    return grid(tmp_path_factory.mktemp("synthetic") / "store")


@pytest.fixture
def dead() -> int:
    """The id of a process that ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid
