"""The connection to a Ray cluster: starting or joining one, and watching its head."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import ray
from ray import exceptions
from ray._private import node as ray_node
from ray._private import ray_constants

from harness.core import BenchError
from harness.executors import agent_ports, shipping
from harness.executors.address import check_address
from harness.executors.job_server import first_line
from harness.executors.private_files import (
    claim_session,
    protect_token,
    remove_dead_sessions,
)
from harness.executors.supervisor import USER_ERROR, joining

_NEEDED = ("gcs_server", "raylet")  # processes without which Ray does not start
SPACE = 50_000_000  # bytes in its temporary folder without which Ray does not start
# Threads of Ray's own processes and of each worker, counted on a machine with two
# processors (150 and 23).
THREADS, THREADS_OF_WORKER = 160, 25
ENDED = (
    "Ray on this machine has ended (its raylet is gone); finished trials are stored: "
    "run the same command again to resume"
)
_NOT_JOINED = "timed out during startup"  # in what Ray says of its own node
GONE = 20.0  # seconds without an answer after which the head of a cluster is gone


def connect(address: str, cpus: int | None = None, gpus: int | None = None) -> None:
    """Start a local Ray cluster that only this machine can reach, or join one.

    Args:
        address: Address of the cluster, as in ``OnRay``.
        cpus: Processors of a local cluster; None uses all of them.
        gpus: Devices of a local cluster; None uses those that Ray finds.

    Raises:
        BenchError: If nothing answers at the address, or access is refused.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    # A task that requests no device then keeps the devices that the variable
    # CUDA_VISIBLE_DEVICES names; ``_take_place`` in ``remote`` decides what it uses.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address == "local":
        _check_space()
        _check_threads(cpus or os.cpu_count() or 1)
        protect_token()
        # On a busy machine Ray's agents need longer to import than the 30 s after which
        # the raylet ends itself.
        os.environ.setdefault("RAY_agent_register_timeout_ms", "300000")
        options = quiet | {"num_cpus": cpus, "num_gpus": gpus}
        with _on_loopback(), agent_ports.chosen():
            _start(options)
        return
    _reachable(address)
    try:
        with joining():
            ray.init(address=address, runtime_env=_runtime_env(), **quiet)
    except (
        exceptions.AuthenticationError,
        ConnectionError,
        RuntimeError,
        ValueError,
        TimeoutError,
    ) as why:
        raise refused(address, why) from why


def _check_space() -> None:
    """Raise an error if Ray's temporary folder is full: Ray would hang.

    Raises:
        BenchError: Names the folder and what is free.
    """
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    with contextlib.suppress(OSError):  # then Ray says what is wrong
        free = shutil.disk_usage(folder).free
        if free < SPACE:
            raise BenchError(
                f"{folder} has {free / 1e6:.0f} MB free, and Ray needs "
                f"{SPACE / 1e6:.0f} MB there to start: free some space, set RAY_TMPDIR "
                "to another folder, or use --address inline to run without Ray"
            )


def _check_threads(cpus: int) -> None:
    """Raise an error if this user may not start the threads that Ray needs.

    Ray's processes end in C++ where the kernel refuses a thread, each with a crash.

    Args:
        cpus: Processors of the local cluster, each of which gets a worker.

    Raises:
        BenchError: Names the limit, and what this user has running.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    # The kernel applies no limit to root.
    if limit == resource.RLIM_INFINITY or os.getuid() == 0:
        return
    running = _threads_of(os.getuid())
    needed = THREADS + THREADS_OF_WORKER * cpus
    if running + needed > limit:
        raise BenchError(
            f"this user may have {limit} processes and threads (`ulimit -u`), has "
            f"{running}, and Ray needs about {needed} more to start with {cpus} "
            "processors: raise the limit, end other programs, use fewer --cpus, or use "
            "--address inline to run without Ray"
        )


def _threads_of(user: int) -> int:
    """How many threads the processes of a user have, which the kernel counts."""
    return sum(
        one.info["num_threads"] or 0
        for one in psutil.process_iter(["uids", "num_threads"])
        if one.info["uids"] and one.info["uids"].real == user
    )


def _start(options: dict[str, Any]) -> None:
    """Start Ray on this machine, and delete what a killed run left of its own."""
    try:
        with joining(), StartWatch():
            context = ray.init(
                address="local",
                include_dashboard=False,
                # Rows go through the store and events are small. The default, a third
                # of the memory, would be missing for the models.
                object_store_memory=128 * 2**20,
                **options,
            )
    except Exception as why:
        # A node that does not join within 30 s ends with a plain ``Exception``.
        known = (exceptions.RayError, OSError, RuntimeError, TimeoutError)
        if not isinstance(why, known) and _NOT_JOINED not in str(why):
            raise
        raise BenchError(
            f"Ray did not start on this machine: {first_line(why)}; run the same "
            "command again, or use --address inline to run without Ray"
        ) from why
    session = context.address_info["session_dir"]
    claim_session(session)
    remove_dead_sessions(os.path.dirname(session))


class StartWatch:
    """Ends this process with a message if a process of Ray dies while Ray starts.

    Ray waits up to a minute for a process that has died, partly in C code, so that only
    a thread can report it in time.

    Args:
        end: Called with the message; ends this process.
    """

    def __init__(self, end: Callable[[str], None] | None = None) -> None:
        self.end = end or _end_with
        self._before: set[int] = set()
        self._over = threading.Event()

    def __enter__(self) -> None:
        # Children that this process had before Ray started any.
        self._before = {child.pid for child in psutil.Process().children()}
        # Ray has no public hook here. Its function waits in C and holds the lock of the
        # interpreter, so that the watching thread would not run.
        self._wait = ray_node.wait_for_persisted_port
        ray_node.wait_for_persisted_port = self._wait_in_steps
        threading.Thread(target=self._watch, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        ray_node.wait_for_persisted_port = self._wait

    def _wait_in_steps(self, *where: Any, timeout_ms: int = 30000, **more: Any) -> Any:
        """Wait for a port of Ray in steps, since the wait stops every thread."""
        deadline = time.monotonic() + timeout_ms / 1000
        while True:
            try:
                return self._wait(*where, timeout_ms=1000, **more)
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)  # lets the thread look

    def _watch(self) -> None:
        seen: dict[str, psutil.Process] = {}
        while not self._over.wait(0.5):
            for child in psutil.Process().children():
                # A process that ended between the list and the look at its name.
                with contextlib.suppress(psutil.NoSuchProcess):
                    if child.pid not in self._before and child.name() in _NEEDED:
                        seen.setdefault(child.name(), child)
            # A process that was never seen does not count: it may not have started yet.
            gone = [name for name, process in seen.items() if not _runs(process)]
            if gone and not self._over.is_set():
                self.end(
                    f"Ray did not start on this machine: its process {gone[0]} ended; "
                    "run the same command again, or use --address inline to run "
                    "without Ray"
                )
                return


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _end_with(message: str) -> None:
    """End this process with exit status 2 and a message, whatever other threads do."""
    sys.stderr.write(f"error: {message}\n")
    sys.stderr.flush()
    # Not ``sys.exit``: in a thread that ends the thread only, and the exit handlers of
    # Ray would wait for the processes that are gone.
    os._exit(USER_ERROR)


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Let a Ray cluster that starts in the block listen on 127.0.0.1 only.

    Ray does this on systems where it supports one machine only (Windows and macOS) and
    has no public option for it. The constant is for this process, which has read the
    variable already; the variable is for the processes that Ray starts.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    variable = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[variable] = "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[variable]


def _reachable(address: str) -> None:
    """Raise an error at once where Ray would retry for a minute."""
    if address == "auto":
        return
    check_address(address)
    # A plain TCP connection answers in milliseconds or fails within five seconds.
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with contextlib.closing(socket.create_connection((host, int(port)), 5)):
            return
    except (OSError, OverflowError) as why:
        raise BenchError(
            f"nothing answers at {address}: {why}; start Ray there with "
            "`ray start --head`, or omit --address to run on this machine"
        ) from why


def _runtime_env() -> dict[str, Any]:
    """Send our packages to the workers, so that nothing must be installed there."""
    passed = {
        name: os.environ[name]
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_CACHE", "SHRINKGRID_PLUGINS")
        if name in os.environ
    }
    folders = [str(folder) for folder in shipping.folders()]
    return {"py_modules": folders, "env_vars": passed}


def refused(address: str, why: Exception) -> BenchError:
    """Build the error for a cluster that this process could not join.

    Args:
        address: The address that was given.
        why: The exception that Ray raised.

    Returns:
        The error, which says what to do.
    """
    if isinstance(why, exceptions.AuthenticationError):
        return BenchError(
            f"the cluster at {address!r} refuses access: {first_line(why)}; put "
            "its token into ~/.ray/auth_token"
        )
    if "Version mismatch" in str(why):
        return BenchError(
            f"the cluster at {address!r} has other versions than this machine "
            f"({' '.join(str(why).split())}); install equal ones on both sides"
        )
    return BenchError(
        f"no Ray cluster answers at {address!r}: {first_line(why)}; start one with "
        "`ray start --head`, put its token into ~/.ray/auth_token if it needs one, or "
        "omit --address to run locally"
    )


def raylet() -> psutil.Process | None:
    """The raylet that serves this process; None through ``ray://``."""
    node = getattr(ray._private.worker, "_global_node", None)
    path = getattr(node, "raylet_socket_name", None)
    if not path:
        return None
    # One connection asks the kernel who listens; the raylet logs each connection.
    probe = socket.socket(socket.AF_UNIX)
    with contextlib.closing(probe), contextlib.suppress(OSError, psutil.NoSuchProcess):
        probe.connect(path)
        whom = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        # ``struct ucred`` of Linux: pid, uid and gid, 4 bytes each.
        pid = int.from_bytes(whom[:4], sys.byteorder)
        return psutil.Process(pid) if pid else None
    return None


class Watchdog:
    """Checks every second that the head of a cluster and Ray on this machine answer.

    Without a head Ray blocks the driver in C code for a minute and then kills it, so
    that only a thread can report what happened and end the process with a message.

    Args:
        address: Address of the head's control service, HOST:PORT. Empty if the service
            cannot be reached (``ray://``): then nothing is checked.
        raylet: The raylet of this machine; None checks only the head.
    """

    def __init__(self, address: str, raylet: psutil.Process | None = None) -> None:
        self.address = address
        self.raylet = raylet
        self._answered = time.monotonic()
        self._over = threading.Event()

    def start(self) -> Watchdog:
        """Check from a thread until ``stop``; end this process if the head is gone."""
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop checking."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            self.end_if_gone()

    def end_if_gone(self) -> None:
        """End this process with a message if Ray is gone; Ray itself may hang."""
        try:
            self.check()
        except BenchError as why:
            _end_with(str(why))

    def check(self) -> None:
        """Check once.

        Raises:
            BenchError: If the head has not answered for ``GONE`` seconds, or the raylet
                of this machine has ended.
        """
        self._check_raylet()
        silent = time.monotonic() - self._answered
        if not self.address:
            return
        host, _, port = self.address.rpartition(":")
        # A head that is busy may miss single connections; only a long silence counts.
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), 2).close()
            self._answered = time.monotonic()
            return
        if silent > GONE:
            raise BenchError(
                f"the head of the cluster at {self.address} has not answered for "
                f"{silent:.0f} s; finished trials are stored: start the cluster again, "
                "then run the same command to resume"
            )

    def _check_raylet(self) -> None:
        if self.raylet is None or _runs(self.raylet):
            return
        raise BenchError(ENDED)
