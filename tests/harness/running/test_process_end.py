"""The end of a process in words, and whether memory ran out."""

import signal

import pytest

from harness.running import process_end
from harness.running.process_end import described, kernel_kills


@pytest.mark.parametrize(
    ("status", "kills", "error_class"),
    [
        (signal.SIGKILL, 1, "oom"),
        (signal.SIGKILL, 0, "crash"),
        (signal.SIGSEGV, 1, "crash"),  # the kernel killed another process
        (137 << 8, 1, "crash"),  # an exit status, not a signal
        (None, 1, "crash"),
    ],
)
def test_only_a_kill_while_the_kernel_killed_is_a_lack_of_memory(
    status, kills, error_class
):
    reason, found = described(status, kills)

    assert found == error_class
    assert ("memory ran out" in reason) == (error_class == "oom")


def test_the_counter_of_the_kernel_is_read(tmp_path, monkeypatch):
    counters = tmp_path / "vmstat"
    counters.write_text("nr_free_pages 12\noom_kill 7\nnumab_kill 9\n")
    monkeypatch.setattr(process_end, "_COUNTERS", counters)
    assert kernel_kills() == 7

    monkeypatch.setattr(process_end, "_COUNTERS", tmp_path / "none")
    assert kernel_kills() == 0
