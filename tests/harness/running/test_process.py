"""A child runs work of one key, dies alone, and says what ended it."""

import errno
import importlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from harness.running import process
from harness.running.process import Died, Owner, Raised
from results.errors import StoreError
from results.storage import logs

WORK = """
import ctypes, os, sys

def who():
    yield os.getpid()
    yield os.environ.get("TOY_PLACE")

def dies(how):
    yield "begun"
    print("last words")
    if how == "exit":
        os._exit(7)
    if how == "segfault":
        ctypes.string_at(0)
    os.kill(os.getpid(), 9)

def raises(ours):
    from results.errors import StoreError
    yield "begun"
    raise StoreError("the disk", "is full") if ours else ValueError("broken")

def interrupted():
    raise KeyboardInterrupt
    yield

def talks():
    from harness.running.process import begin_attempt
    for attempt in "ab":
        begin_attempt(attempt, attempt)
        print("this is", attempt)
        yield attempt

def silent():
    from harness.running.process import begin_attempt
    begin_attempt("a", "a")
    yield "quiet"

def many():
    yield "x" * 10**6
    yield from range(10**5)
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Iterator[ModuleType]:
    """Functions that children can import too."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "toy_work.py").write_text(WORK)
    with pytest.MonkeyPatch.context() as changed:
        changed.syspath_prepend(folder)
        sys.modules.pop("toy_work", None)
        yield importlib.import_module("toy_work")


@pytest.fixture(scope="module")
def template(work) -> Iterator[Owner]:
    """An owner whose template sees the functions; it takes seconds to import torch."""
    made = Owner()
    yield made
    made.close()


@pytest.fixture
def owner(template) -> Iterator[Owner]:
    """That owner, without a child."""
    yield template
    template.close_child()


def test_work_of_one_key_shares_a_process_and_of_another_does_not(owner, work):
    (first, _), (second, _), (other, _) = (owner.run(key, work.who) for key in "aab")

    assert first == second
    assert other != first
    assert os.getpid() not in (first, other)


def test_a_child_has_the_environment_of_its_owner(owner, work, monkeypatch):
    monkeypatch.setenv("TOY_PLACE", "here")
    assert list(owner.run("a", work.who))[1] == "here"
    monkeypatch.setenv("TOY_PLACE", "there")
    assert list(owner.run("b", work.who))[1] == "there"


def test_large_and_many_results_arrive_whole(owner, work):
    large, *many = owner.run("a", work.many)

    assert large == "x" * 10**6
    assert many == list(range(10**5))


@pytest.mark.parametrize(
    ("how", "reason", "frame"),
    [
        ("exit", "its process ended with exit status 7", ""),
        ("segfault", "its process was killed by SIGSEGV", "toy_work.py"),
        ("kill", "its process was killed by SIGKILL", ""),
    ],
)
def test_a_death_says_what_killed_and_what_was_written(owner, work, how, reason, frame):
    results = owner.run("a", work.dies, how)
    assert next(results) == "begun"
    with pytest.raises(Died) as why:
        next(results)

    assert why.value.reason == reason
    assert why.value.output.startswith("last words\n")
    assert frame in why.value.output
    results = owner.run("a", work.dies, how)  # the next one lives, and its log is new
    assert next(results) == "begun"
    with pytest.raises(Died) as again:
        next(results)
    assert again.value.output.startswith("last words\n")


def test_a_child_that_the_kernel_killed_for_memory_says_so(owner, work, monkeypatch):
    kills = iter([3, 4])  # before the work, and after its end
    monkeypatch.setattr(process, "kernel_kills", lambda: next(kills))

    with pytest.raises(Died, match="memory ran out") as why:
        list(owner.run("a", work.dies, "kill"))

    assert why.value.error_class == "oom"


def test_a_process_that_cannot_be_started_is_no_fault_of_the_plugin(work, monkeypatch):
    def refused(*_, **__):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(process.subprocess, "Popen", refused)
    with pytest.raises(Died, match="can be started: Resource temporarily") as why:
        list(Owner().run("a", work.who))
    assert why.value.error_class == "crash"


def test_errors_of_the_store_and_bugs_of_ours_come_back(owner, work):
    with pytest.raises(StoreError) as why:
        list(owner.run("a", work.raises, True))
    assert why.value.errors == ["the disk", "is full"]
    with pytest.raises(Raised) as bug:
        list(owner.run("a", work.raises, False))
    assert bug.value.reason == "ValueError: broken"
    assert "toy_work.py" in bug.value.output
    with pytest.raises(Died, match="exit status"):
        list(owner.run("a", work.interrupted))


def test_no_process_survives_its_owner(work):
    owner = Owner()
    child, _ = owner.run("a", work.who)
    template = owner._template.pid
    os.kill(template, signal.SIGKILL)
    owner._template.wait()

    for _ in range(200):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            break
        if Path(f"/proc/{child}/stat").read_text().split(")")[1].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child lives")
    owner._child = owner._template = None
    assert len(list(owner.run("a", work.who))) == 2
    owner.close()


def test_output_is_read_only_in_a_child():
    assert process.output_size() is None
    assert process.output_since(None) == ""


class _Copies:
    """A log that keeps what it is shown."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def look(self, printed) -> None:
        self.seen.append(logs.bounded(printed))

    def close(self, printed) -> None:
        self.seen.append(logs.bounded(printed))


def test_a_log_gets_what_a_child_prints_and_where_attempts_begin(owner, work):
    log = _Copies()

    assert list(owner.run("a", work.talks, log=log)) == ["a", "b"]

    parts = [logs.begun(one, one) + f"this is {one}\n" for one in "ab"]
    assert log.seen[-1] == "".join(parts)


def test_a_log_gets_the_last_words_of_a_child_that_dies(owner, work):
    log = _Copies()

    with pytest.raises(Died):
        list(owner.run("a", work.dies, "segfault", log=log))

    assert log.seen[-1].startswith("last words\n")
    assert "toy_work.py" in log.seen[-1]


def test_a_child_that_prints_nothing_has_no_log(owner, work):
    list(owner.run("a", work.silent, log=(log := _Copies())))

    assert set(log.seen) == {""}
