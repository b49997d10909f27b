"""Bundles as Ray tasks that stream progress; artifacts reach them by ObjectRef."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import exceptions

from harness.core import BenchError
from harness.events import ArtifactJob, Built, Event, Job
from harness.executors import machines, shipping
from harness.executors.jobs import first_line
from harness.plan import Bundle

GRACE = 30.0  # seconds beyond its limit that a trial gets before its worker is killed
QUICK = 0.05  # seconds; the starts of shorter trials are not reported one by one
FLUSH = 0.2  # seconds between reports of quick trials


def _stream(job: Job, *built: Built) -> Iterator[list[Event]]:
    """A worker's task: the bundle's events, those of quick trials in batches."""
    from harness import bundle

    began = flushed = time.perf_counter()
    waiting: list[Event] = []
    ended = 0
    for event in bundle.run(job, built):
        waiting.append(event)
        now = time.perf_counter()
        ended += event.what == "ended"
        slow = event.what == "started" and now - began > QUICK * ended
        if slow or now - flushed > FLUSH:
            yield waiting
            waiting, flushed = [], now
    if waiting:
        yield waiting


def _produce(job: ArtifactJob) -> Built:
    """A worker's task: build one artifact."""
    from harness import artifacts

    return artifacts.produce(job)


@dataclass(slots=True)
class _Running:
    """A job on a worker, as the driver sees it."""

    job: Job
    stream: Any
    trial: str = ""  # in hand, as far as reported
    since: float = field(default_factory=time.monotonic)
    overstayed: bool = False


class OnRay:
    """The executor on a Ray cluster, which it starts or joins.

    Args:
        address: ``local`` starts one on this machine, ``auto`` joins the one that
            runs here, ``HOST:PORT`` or ``ray://HOST:PORT`` joins another.
        cpus: Processors of a local cluster; None is all.

    Raises:
        BenchError: If nothing answers at the address.
    """

    def __init__(self, address: str = "local", cpus: int | None = None) -> None:
        _connect(address, cpus)
        self._local = address == "local"
        total = ray.cluster_resources()
        self.cpus = float(total.get("CPU", 1))
        self.gpus = float(total.get("GPU", 0))
        self.slots = max(1, int(self.cpus + self.gpus))
        self._artifacts: dict[str, Any] = {}
        self._running: dict[Any, _Running] = {}
        self._task = ray.remote(max_retries=0, num_returns="streaming")(_stream)
        self._produce = ray.remote(max_retries=0)(_produce)

    def check(self, bundles: Sequence[Bundle], store: str) -> None:
        """Refuse, before anything runs, what the cluster could never run.

        Args:
            bundles: Everything that is to run.
            store: The store's URI.

        Raises:
            BenchError: Naming each method and model that asks for too much, or each
                machine that does not see the store or lacks code.
        """
        machines.refuse_misfits(bundles)
        if not self._local:
            machines.refuse_strangers(bundles, store)

    def run(self, jobs: Iterator[Job]) -> Iterator[tuple[Job, list[Event]]]:
        """Yield each job's events as they come; a dead worker is an event too.

        At most twice as many jobs as slots are with Ray at a time, so that the
        driver's memory does not grow with the grid.

        Args:
            jobs: Drawn when there is room; asked again after the last, since what is
                yielded may bring work back.

        Yields:
            The job and its next events; one ``crashed`` event if its worker died.
        """
        while True:
            while len(self._running) < 2 * self.slots:
                job = next(jobs, None)
                if job is None:
                    break
                self._submit(job)
            if not self._running:
                return
            ready, _ = ray.wait(
                list(self._running), num_returns=1, timeout=1.0, fetch_local=False
            )
            for stream in ready:
                one = self._running[stream]
                events = self._next(one)
                if events:
                    yield one.job, events
            self._enforce_limits()

    def _submit(self, job: Job) -> None:
        asked = job.bundle.resources
        options: dict[str, Any] = {"num_cpus": asked.cpus, "num_gpus": asked.gpus}
        if asked.bytes is not None:
            options["memory"] = asked.bytes
        built = []
        for artifact in job.bundle.artifacts:
            if artifact.id not in self._artifacts:
                work = ArtifactJob(artifact=artifact, store=job.store, cpus=asked.cpus)
                self._artifacts[artifact.id] = self._produce.options(**options).remote(
                    work
                )
            built.append(self._artifacts[artifact.id])
        if asked.gpus:  # device memory that a method leaks dies with its process
            options["max_calls"] = 1
        if job.bundle.exclusive:  # the whole device is taken, and few threads used
            options |= _whole(asked.gpus)
        stream = self._task.options(**options).remote(job, *built)
        self._running[stream] = _Running(job=job, stream=stream)

    def _next(self, one: _Running) -> list[Event]:
        try:
            events: list[Event] = ray.get(next(one.stream))
        except StopIteration:
            del self._running[one.stream]
            return []
        except exceptions.RayError as why:
            del self._running[one.stream]
            for artifact in one.job.bundle.artifacts:  # a crash there is built again
                self._artifacts.pop(artifact.id, None)
            return [_crash(why, overstayed=one.overstayed)]
        for event in events:
            if event.what == "started":
                one.trial, one.since = event.trial, time.monotonic()
        return events

    def _enforce_limits(self) -> None:
        """Kill the worker of a trial that overstayed in C code."""
        for stream, one in list(self._running.items()):
            limit = one.job.bundle.resources.seconds
            late = limit is not None and time.monotonic() - one.since > limit + GRACE
            if late and one.trial and not one.overstayed:
                one.overstayed = True
                ray.cancel(stream, force=True)

    def close(self) -> None:
        """Leave the cluster; a local one stops with all its processes."""
        self._running.clear()
        ray.shutdown()


def _whole(gpus: float) -> dict[str, float]:
    """What to ask for so that nothing else runs on the device: a GPU, or a node."""
    if gpus:
        return {"num_gpus": float(math.ceil(gpus))}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return {"num_cpus": max(node.get("CPU", 0.0) for node in nodes)}


def _crash(why: exceptions.RayError, *, overstayed: bool) -> Event:
    """What the death of a worker means for the trial that it had in hand."""
    said = str(why).strip().splitlines() or [type(why).__name__]
    reason = f"{type(why).__name__}: {said[0]}"
    if overstayed:
        return Event(
            what="crashed",
            status="timed_out",
            error_class="timeout",
            headline="its worker was killed: the trial overstayed its limit",
        )
    if isinstance(why, exceptions.OutOfMemoryError):
        return Event(
            what="crashed",
            status="out_of_memory",
            error_class="oom",
            headline="Ray killed its worker because the host ran out of memory",
        )
    if isinstance(why, exceptions.RayTaskError):  # our own code raised in the worker
        return Event(
            what="crashed", status="failed", error_class="bug", headline=reason
        )
    return Event(what="crashed", status="lost", error_class="infra", headline=reason)


def _connect(address: str, cpus: int | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address == "local":
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            # Rows travel through the store and events are small: the default third
            # of the memory would only be taken from the models.
            object_store_memory=128 * 2**20,
            **quiet,
        )
        return
    _reachable(address)
    try:
        ray.init(address=address, runtime_env=_runtime_env(), **quiet)
    except exceptions.AuthenticationError as why:
        raise BenchError(
            f"the cluster at {address!r} does not let us in: {first_line(why)}; put "
            "its token into ~/.ray/auth_token"
        ) from why
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as why:
        raise BenchError(
            f"no Ray cluster answers at {address!r}: {first_line(why)}; start one with "
            "`ray start --head`, put its token into ~/.ray/auth_token where it wants "
            "one, or leave --address away to run locally"
        ) from why


def _reachable(address: str) -> None:
    """Refuse at once what Ray would try for a minute."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise BenchError(
            f"address {address!r} is none of 'local', 'auto', HOST:PORT, ray://HOST:PORT"
        )
    try:
        with contextlib.closing(socket.create_connection((host, int(port)), 5)):
            return
    except (OSError, OverflowError) as why:
        raise BenchError(
            f"nothing answers at {address}: {why}; start Ray there with "
            "`ray start --head`, or leave --address away to run on this machine"
        ) from why


def _runtime_env() -> dict[str, Any]:
    """Send our packages, so that workers need not have them, whatever their folder."""
    passed = {
        name: os.environ[name]
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_CACHE", "SHRINKGRID_PLUGINS")
        if name in os.environ
    }
    folders = [str(folder) for folder in shipping.folders()]
    return {"py_modules": folders, "env_vars": passed}
