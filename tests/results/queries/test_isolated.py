"""A person's SQL has bounded time, memory and disk space, and can be interrupted."""

import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from results.errors import StoreError
from results.queries import isolated
from results.queries.isolated import Limits
from results.queries.restricted import query
from results.queries.selection import select

# DuckDB looks at its own limits in the first, and not before the end of the second.
ENDLESS = [
    "SELECT count(*) FROM range(1000000) a, range(1000000) b",
    "SELECT list_reduce(range(300000000), lambda a, b: a + b)",
]


@pytest.mark.parametrize("sql", ENDLESS)
def test_a_query_that_takes_too_long_is_stopped(empty, sql):
    with pytest.raises(StoreError, match=r"longer than 0\.5 s.*--timeout"):
        query(empty, sql, limits=Limits(seconds=0.5))


def test_the_condition_of_only_is_stopped_too():
    condition = f"(SELECT count(*) FROM ({ENDLESS[0]})) > 0"
    with pytest.raises(StoreError, match=r"longer than 0\.5 s"):
        select([{"trial": "a"}], condition, Limits(seconds=0.5))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT len(range(3000000000))",  # one value, which DuckDB does not count
        "SELECT list(hash(i)) FROM range(100000000) t(i)",  # its buffers
        "SELECT * FROM range(100000000)",  # the rows in Python
    ],
)
def test_a_query_that_needs_too_much_memory_is_stopped(empty, sql):
    with pytest.raises(StoreError, match=r"memory.*--memory"):
        query(empty, sql, limits=Limits(memory_bytes=2**27))


def test_temporary_files_are_bounded_and_removed(empty, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    limits = Limits(memory_bytes=2**25)
    assert limits.settings(str(tmp_path))["max_temp_directory_size"] == f"{2**27}B"
    rows = "SELECT i, md5(i::VARCHAR) AS m FROM range(8000000) t(i)"  # 300 MB
    with pytest.raises(StoreError, match="limit"):
        query(empty, f"FROM ({rows}) ORDER BY m LIMIT 1 OFFSET 7000000", limits=limits)
    assert list(tmp_path.glob("shrinkgrid-*")) == []


def test_the_default_is_a_minute_and_a_quarter_of_the_memory(monkeypatch):
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert Limits().seconds == 60
    assert 0 < Limits().memory_bytes <= physical // 4
    monkeypatch.setenv("SHRINKGRID_SQL_TIMEOUT", "7.5")
    assert Limits().seconds == 7.5
    assert Limits.of(3, 0.5) == Limits(seconds=3, memory_bytes=2**29)
    monkeypatch.setenv("SHRINKGRID_SQL_TIMEOUT", "soon")
    with pytest.raises(StoreError, match="SHRINKGRID_SQL_TIMEOUT is 'soon'"):
        Limits()


def test_the_file_that_a_query_names_must_not_shadow_the_project(empty, tmp_path):
    # A folder `results` in the current folder is not the package of that name.
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "__init__.py").write_text("raise SystemExit(9)")
    code = (
        "from results.storage.store import open_store; from results.ask import query; "
        f"print(query(open_store({empty.uri!r}), 'SELECT 42').rows)"
    )
    paths = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[(42,)]\n", done.stderr


def test_an_interrupted_command_ends_at_once_without_a_traceback(empty):
    command = [sys.executable, "-m", "harness", "sql", "--store", empty.uri, ENDLESS[1]]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not _child_of(process.pid):
            assert process.poll() is None
            time.sleep(0.05)
        child = _child_of(process.pid)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{child[0]}"):  # it is killed, or has nobody to answer
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _child_of(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


def test_a_fault_in_the_process_is_not_taken_for_a_user_error():
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        isolated.call(_divides, 1, limits=Limits())


def _divides(number, settings):
    return number / (len(settings) - 3)


def test_a_process_that_crashes_is_an_error_that_says_so():
    limits = Limits()
    with pytest.raises(StoreError, match="status -8"):
        isolated._result(b"", b"", -signal.SIGFPE, limits)
    with pytest.raises(StoreError, match=r"crashed.*memory.*--memory"):
        isolated._result(b"", b"", -signal.SIGSEGV, limits)
    # Of the kernel and of DuckDB, which end a process that asks for too much.
    for number in (signal.SIGKILL, signal.SIGABRT):
        with pytest.raises(StoreError, match="needs more memory than"):
            isolated._result(b"", b"", -number, limits)
    half = Limits(memory_bytes=3 * 2**29)
    with pytest.raises(StoreError, match=r"its limit of 1\.5 GiB"):
        isolated._result(b"", b"", 0 - signal.SIGKILL, half)
    with pytest.raises(StoreError, match=f"status {signal.SIGABRT}"):
        isolated._result(b"", b"", signal.SIGABRT, limits)
