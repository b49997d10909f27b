"""Why a cluster cannot be joined, and whether the joined one is still there."""

from __future__ import annotations

import contextlib
import socket
import time

from ray import exceptions

from harness.core import BenchError
from harness.executors.jobs import first_line

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
    """The head of a cluster, asked now and then; Ray ends a driver without one.

    Args:
        address: Of the head's control service, HOST:PORT; empty where it is not within
            reach (``ray://``), which is never asked.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._felt = time.monotonic()

    def feel(self) -> None:
        """Ask, unless it has just answered.

        Raises:
            BenchError: If it has not answered for ``GONE`` seconds.
        """
        silent = time.monotonic() - self._felt
        if silent < 1.0 or not self.address:
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
