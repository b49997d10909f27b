"""How a process ended: by itself, by a signal, or because memory ran out."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from results.outcomes import ErrorClass

_COUNTERS = Path("/proc/vmstat")


def kernel_kills() -> int:
    """How many processes the kernel has killed on this machine because memory ran out.

    Returns:
        The number since the start of the machine, those in cgroups (containers, jobs of
        Slurm) included; 0 where the system does not count them.
    """
    try:
        text = _COUNTERS.read_text()
    except OSError:
        return 0
    lines = (line.partition(" ") for line in text.splitlines())
    return next((int(count) for name, _, count in lines if name == "oom_kill"), 0)


def described(status: int | None, kills: int = 0) -> tuple[str, ErrorClass]:
    """Say how a process ended, and which error of its trial that is.

    The kernel does not say whom it killed. A process that a SIGKILL ended while the
    kernel killed one counts as that one.

    Args:
        status: The wait status of the process; None if it is not known.
        kills: How many processes the kernel killed while this one worked.

    Returns:
        The end in words, and the error class.

    >>> described(9)
    ('its process was killed by SIGKILL', <ErrorClass.CRASH: 'crash'>)
    >>> described(7 << 8)[0]
    'its process ended with exit status 7'
    """
    if status is None:
        return "its process and the process that started it ended", ErrorClass.CRASH
    if not os.WIFSIGNALED(status):
        code = os.waitstatus_to_exitcode(status)
        return f"its process ended with exit status {code}", ErrorClass.CRASH
    number = os.WTERMSIG(status)
    if number == signal.SIGKILL and kills > 0:
        return (
            "the kernel killed its process (SIGKILL) because memory ran out: state the "
            "memory that the trial needs under `resources`, or run fewer trials at once"
        ), ErrorClass.OOM
    name = signal.Signals(number).name
    return f"its process was killed by {name}", ErrorClass.CRASH
