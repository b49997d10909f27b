"""A time limit interrupts Python code and leaves no alarm behind."""

import signal

import pytest

from harness.running import time_limit
from harness.running.failures import TimedOut


def test_a_limit_interrupts_python_code_and_leaves_no_alarm():
    def work_for_ever() -> None:
        with time_limit.limit(0.05):
            while True:
                pass

    with pytest.raises(TimedOut, match=r"limit of 0\.05 s"):
        work_for_ever()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
