"""A time limit on work in this process."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from harness.running.failures import TimedOut


@contextlib.contextmanager
def limit(seconds: float | None) -> Iterator[None]:
    """Raise ``TimedOut`` in the body once it has run for ``seconds``.

    Works on the main thread, where Ray runs tasks; Python code is interrupted at once,
    a long call into C when it returns. The driver kills a worker that overstays.

    Args:
        seconds: The limit; None is none.

    Raises:
        TimedOut: In the body.
    """
    main = threading.current_thread() is threading.main_thread()
    if seconds is None or not main:
        yield
        return

    def expired(_signal: int, _frame: FrameType | None) -> None:
        raise TimedOut(f"took longer than its limit of {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        # The timer is stopped before the handler is replaced: SIGALRM's default ends
        # the process.
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
