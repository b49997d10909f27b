"""Two users share a store through their group; a third may only read it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from users import FIRST, GROUP, OTHER, SECOND, as_user

from results.queries.db import ask
from results.storage.store import open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
GRID = """
models: [toy]
methods: [toy_noop]
ratios: [0.1, 0.3]
tasks: [toy_sum]
seeds: [%s]
"""


@pytest.fixture
def shared():
    """A folder below folders that every user may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def command(shared, toys):
    """Runs a command as a user of a group, on a store that the group may write."""
    as_user(FIRST, GROUP)  # skips the test where that is not possible
    os.chown(shared, 0, GROUP)
    shared.chmod(0o2775)
    toys.chmod(0o777)

    def run(user, group, *words):
        line = [*as_user(user, group), sys.executable, "-m", "harness", *words]
        env = os.environ | {"HOME": str(toys), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [*line, "--store", str(shared / "store")],
            capture_output=True,
            text=True,
            check=False,
            env=env,
            umask=0o002,
        )

    return run


def test_two_users_of_a_group_share_a_store_and_a_third_only_reads(
    command, shared, tmp_path
):
    for name, seeds in (("one", "0, 1"), ("two", "1, 2")):
        (tmp_path / f"{name}.yaml").write_text(GRID % seeds)
    run = ("run", "--address", "inline", "--quiet")

    first = command(FIRST, GROUP, *run, str(tmp_path / "one.yaml"))
    second = command(SECOND, GROUP, *run, str(tmp_path / "two.yaml"))
    folded = command(SECOND, GROUP, "compact")
    again = command(FIRST, GROUP, *run, str(tmp_path / "two.yaml"))

    for done in (first, second, folded, again):
        assert done.returncode == 0, done.stderr
    assert "trials: 6 files -> 1, 6 rows" in folded.stdout
    rows = ask(open_store(shared / "store"), "FROM trials").rows
    assert len(rows) == 6  # each trial once, no matter which user ran it

    for words in (("compact",), (*run, str(tmp_path / "one.yaml"))):
        refused = command(OTHER, OTHER, *words)
        assert refused.returncode == 2
        assert refused.stderr.count("error: ") == 1
        assert "change its permissions" in refused.stderr
        assert "Traceback" not in refused.stderr
    read = command(OTHER, OTHER, "leaderboard")
    assert read.returncode == 0, read.stderr
