"""Why a cluster cannot be joined, and whether the joined one is still there."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time

from ray import exceptions

from harness.core import BenchError
from harness.executors.job_server import first_line

MISTAKE = 2  # exit status of what a person can mend
GONE = 20.0  # seconds without an answer after which a cluster's head is gone


def refused(address: str, why: Exception) -> BenchError:
    """The error of a driver that a cluster did not take.

    Args:
        address: As it was typed.
        why: What Ray raised.

    Returns:
        What to do about it.
    """
    if isinstance(why, exceptions.AuthenticationError):
        return BenchError(
            f"the cluster at {address!r} does not let us in: {first_line(why)}; put "
            "its token into ~/.ray/auth_token"
        )
    if "Version mismatch" in str(why):
        return BenchError(
            f"the cluster at {address!r} has other versions than this machine "
            f"({' '.join(str(why).split())}); install equal ones on both sides"
        )
    return BenchError(
        f"no Ray cluster answers at {address!r}: {first_line(why)}; start one with "
        "`ray start --head`, put its token into ~/.ray/auth_token where it wants "
        "one, or leave --address away to run locally"
    )


class Pulse:
    """The head of a cluster, asked every second.

    Without a head Ray blocks the driver in C code for a minute and then ends it, so
    only a thread can say what happened, and end it in our own words.

    Args:
        address: Of the head's control service, HOST:PORT; empty where it is not within
            reach (``ray://``), which is never asked.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._felt = time.monotonic()
        self._over = threading.Event()

    def watch(self) -> Pulse:
        """Ask from a thread, until ``stop``; a head that is gone ends this process."""
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def stop(self) -> None:
        """Ask no more."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            try:
                self.feel()
            except BenchError as why:
                sys.stderr.write(f"error: {why}\n")
                sys.stderr.flush()
                os._exit(MISTAKE)

    def feel(self) -> None:
        """Ask.

        Raises:
            BenchError: If it has not answered for ``GONE`` seconds.
        """
        silent = time.monotonic() - self._felt
        if not self.address:
            return
        host, _, port = self.address.rpartition(":")
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), 2).close()
            self._felt = time.monotonic()
            return
        if silent > GONE:
            raise BenchError(
                f"the head of the cluster at {self.address} has not answered for "
                f"{silent:.0f} s; what was finished is stored: start it again, and "
                "type the same command"
            )
