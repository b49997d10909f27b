"""What killed processes were writing is deleted; nothing else is."""

import os
import subprocess
import sys

import psutil
import pytest

from results.storage import temporary
from results.storage.store import open_store

WRITE = """
import os, sys
from pathlib import Path
from results.storage import temporary
path = temporary.beside(Path(sys.argv[1]))
path.write_text("half")
print(path)
"""


@pytest.fixture
def left_by_a_dead_process():
    """Writes a temporary file in a process that has ended; gives its name."""

    def leave(target):
        line = [sys.executable, "-c", WRITE, str(target)]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        return target.with_name(done.stdout.strip().rpartition("/")[2])

    return leave


def test_a_file_of_an_ended_process_is_deleted(tmp_path, left_by_a_dead_process):
    left = left_by_a_dead_process(tmp_path / "rows.parquet")
    assert left.exists()

    assert temporary.remove_dead(tmp_path) == 1
    assert not left.exists()


def test_a_process_that_nobody_asked_how_it_ended_has_ended():
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        # It stays in the table of processes until this one waits for it.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        os.kill(child.pid, 0)
        assert temporary.ended(child.pid)
    assert not temporary.ended(os.getpid())


def test_a_process_that_may_not_be_looked_at_has_not_ended(monkeypatch):
    def refuse(_process: psutil.Process) -> str:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "status", refuse)
    assert not temporary.ended(os.getpid())


def test_a_folder_of_an_ended_process_is_deleted(tmp_path, left_by_a_dead_process):
    left = left_by_a_dead_process(tmp_path / "artifact")
    left.unlink()
    left.mkdir()
    (left / "weights").write_bytes(b"half")

    assert temporary.remove_dead(tmp_path) == 1
    assert not left.exists()


def test_of_a_link_only_the_link_is_deleted(tmp_path, left_by_a_dead_process):
    left = left_by_a_dead_process(tmp_path / "artifact")
    left.unlink()
    target = tmp_path / "target"
    target.mkdir()
    left.symlink_to(target)

    temporary.remove_dead(tmp_path)
    assert target.is_dir()
    assert not left.is_symlink()


def test_what_may_be_in_use_stays(tmp_path, monkeypatch, left_by_a_dead_process):
    own = temporary.beside(tmp_path / "rows.parquet")  # this process runs
    without_a_process = tmp_path / ".rows.parquet.12345678.tmp"
    parent = tmp_path / own.name.replace(f".{os.getpid()}.", f".{os.getppid()}.")
    for path in (own, without_a_process, parent):
        path.write_text("half")
    elsewhere = left_by_a_dead_process(tmp_path / "rows.parquet")
    monkeypatch.setattr(temporary.socket, "gethostname", lambda: "elsewhere")

    assert temporary.remove_dead(tmp_path) == 0
    monkeypatch.undo()
    assert temporary.remove_dead(tmp_path) == 1
    assert not elsewhere.exists()
    assert all(path.exists() for path in (own, without_a_process, parent))


def test_a_missing_folder_has_nothing_to_delete(tmp_path):
    assert temporary.remove_dead(tmp_path / "nothing") == 0


def test_a_store_deletes_it_in_every_place(tmp_path, left_by_a_dead_process):
    store = open_store(tmp_path / "store", create=True)
    names = ["format.json", "running/one.json", "trials/one.parquet"]
    names += ["samples/compacted/one.parquet", "artifacts/key", "scratch/space"]
    left = []
    for name in names:
        target = tmp_path / "store" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        left.append(left_by_a_dead_process(target))

    assert store.remove_unfinished() == len(names)
    assert not any(path.exists() for path in left)
