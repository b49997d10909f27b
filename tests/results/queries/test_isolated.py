"""A person's SQL has bounded time, memory and disk space, and can be interrupted."""

import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace

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
    monkeypatch.setenv("SHRINKGRID_SQL_TIMEOUT", "0.5")
    assert Limits().seconds == 0.5
    assert Limits.of(None, None) == Limits()
    for text in ("soon", "0", "-1", "inf", "nan"):
        monkeypatch.setenv("SHRINKGRID_SQL_TIMEOUT", text)
        with pytest.raises(StoreError, match=f"SHRINKGRID_SQL_TIMEOUT is '{text}'"):
            Limits()


@pytest.mark.parametrize(
    ("version_1", "version_2", "quarter"),
    [
        (None, None, 1_000_000),  # no container
        ("max\n", None, 1_000_000),
        (None, "2000000\n", 500_000),
        ("2000000", "1000000", 250_000),
        (None, "9" * 18, 1_000_000),  # "no limit" of a container is a large number
    ],
)
def test_a_container_may_use_less_than_the_machine_has(
    tmp_path, monkeypatch, version_1, version_2, quarter
):
    sizes = {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4000}
    (tmp_path / "memory").mkdir()
    for name, text in (
        ("memory/memory.limit_in_bytes", version_1),
        ("memory.max", version_2),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
    with monkeypatch.context() as patch:
        patch.setattr(isolated.os, "sysconf", sizes.get)
        patch.setattr(isolated, "Path", lambda _: tmp_path)
        assert Limits().memory_bytes == quarter


def test_temporary_files_leave_half_of_a_small_disk_free(monkeypatch):
    free = SimpleNamespace(free=1001)
    monkeypatch.setattr(isolated.shutil, "disk_usage", lambda _: free)
    settings = Limits(memory_bytes=2**25).settings("/tmp/x")
    assert settings == {
        "memory_limit": f"{2**25}B",
        "temp_directory": "/tmp/x",
        "max_temp_directory_size": "500B",
    }


def test_a_process_has_twice_the_memory_no_core_file_and_an_alarm():
    limits = Limits(seconds=60, memory_bytes=2**29)
    memory, core, alarm = isolated.call(_own_limits, limits=limits)

    # DuckDB's own memory, as much beside it, and 512 MiB for the libraries.
    assert memory == (3 * 2**29, 3 * 2**29)
    assert core == (0, 0)
    assert 60 < alarm <= 65  # later than the parent, which tells what happened


def _own_limits(_settings):
    kinds = (resource.RLIMIT_DATA, resource.RLIMIT_CORE)
    return (*map(resource.getrlimit, kinds), signal.getitimer(signal.ITIMER_REAL)[0])


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
    with pytest.raises(StoreError, match="needs more memory than"):
        isolated._result(pickle.dumps(("memory", None)), b"", 0, limits)
    with pytest.raises(StoreError, match=r"ended with status 3: the last line$"):
        isolated._result(b"", b"a line\nthe last line\n", 3, limits)
    half = Limits(memory_bytes=3 * 2**29)
    with pytest.raises(StoreError, match=r"its limit of 1\.5 GiB"):
        isolated._result(b"", b"", 0 - signal.SIGKILL, half)
    with pytest.raises(StoreError, match=f"status {signal.SIGABRT}"):
        isolated._result(b"", b"", signal.SIGABRT, limits)
