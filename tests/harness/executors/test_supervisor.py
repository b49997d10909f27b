"""The process above the driver ends as the driver does, and speaks where Ray cannot."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from harness.cli import _drives
from harness.executors.supervisor import GONE

START = """
import os, signal, sys, time
from harness.executors.supervisor import joining, note_interrupt, supervise
supervise()
"""
PRINT = "print('out', flush=True); os.write(2, b'err')"


def start(code: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", START + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(code: str) -> tuple[int, str, str]:
    process = start(code)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("print('out'); sys.stderr.write('err')", 0),
        ("print('out'); sys.stderr.write('err'); sys.exit(3)", 3),
        (f"{PRINT}; os._exit(1)", 1),
        (f"{PRINT}; os.kill(os.getpid(), 9)", -9),
        ("with joining():\n print('out'); os.write(2, b'err')", 0),
        # The message of ``StartWatch``.
        (f"with joining():\n {PRINT}; os._exit(2)", 2),
        (f"with joining(): pass\n{PRINT}; os._exit(1)", 1),
    ],
)  # fmt: skip
def test_it_ends_as_its_child_does_and_prints_the_same(code, status):
    assert ended(code) == (status, "out\n", "err")


def test_what_ray_ends_while_it_joins_is_one_message_and_status_2():
    code = "with joining():\n os.write(2, b'Failed to register worker\\n'); os._exit(1)"

    assert ended(code) == (2, "", f"error: {GONE}\n")


def test_an_error_of_ours_while_joining_stays_what_it_is():
    status, _, err = ended("with joining():\n raise ValueError('ours')")

    assert status == 1
    assert "ValueError: ours" in err


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
def test_a_crash_after_the_message_of_an_interrupt_is_an_interrupt(number):
    crash = f"signal.signal({int(number)}, 0); os.kill(os.getpid(), {int(number)})"

    assert ended(f"{PRINT}; note_interrupt(); {crash}") == (130, "out\n", "err")
    assert ended(f"{PRINT}; {crash}")[0] == -number
    # A signal of a person ends the process as it would without a message.
    assert ended("note_interrupt(); os.kill(os.getpid(), 9)")[0] == -9


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_child_once(number):
    code = f"""
got = []
signal.signal({int(number)}, lambda *_: got.append(1))
print("ready", flush=True)
while not got:
    time.sleep(0.01)
time.sleep(0.3)
sys.exit(10 + len(got))
"""
    process = start(code)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)

    assert process.wait(60) == 11
    process.communicate()


def test_the_child_dies_with_it():
    process = start("print(os.getpid(), flush=True)\ntime.sleep(100)")
    child = psutil.Process(int(process.stdout.readline()))
    assert child.ppid() == process.pid
    process.kill()
    process.communicate()

    deadline = time.monotonic() + 60
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert os.getpid() != child.pid


@pytest.mark.parametrize(
    ("line", "so"),
    [
        ("run grid.yaml", True),
        ("--color never run grid.yaml --address auto", True),
        ("rerun 3a", True),
        ("run grid.yaml --address inline", False),
        ("run grid.yaml --address=inline", False),
        ("run --help", False),
        ("status run", False),
    ],
)
def test_only_commands_that_use_ray_get_one(line, so):
    assert _drives(line.split()) == so
