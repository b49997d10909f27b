"""Bundles as Ray tasks that stream progress; artifacts reach them by ObjectRef."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray import exceptions

from harness.core import BenchError
from harness.executors import nodes, remote
from harness.executors.cluster import ENDED, Watchdog, connect, raylet
from harness.executors.nodes import ClusterInspector
from harness.planning.messages import ArtifactJob, Event, Job
from harness.planning.plan import Artifact, Bundle
from harness.planning.resources import ResourceRequest
from harness.running.tasks import FreeMemory
from harness.scheduling import feasibility
from harness.scheduling.free_capacity import placeable
from harness.scheduling.hardware import Cluster
from harness.scheduling.packing import Packer
from harness.scheduling.predictor import Predictor
from harness.scheduling.window import Window
from harness.scheduling.work_stealing import WorkStealing
from results.errors import StoreError
from results.outcomes import ErrorClass, Status
from results.storage import leases
from results.storage.folder import patience
from results.storage.store import open_store

GRACE = 30.0  # seconds beyond its limit that a trial gets before its worker is killed
LOOK = 30.0  # seconds between two looks at what the cluster is made of
TOO_OFTEN = 3  # bundles that died on one node: it is avoided from then on


@dataclass(slots=True)
class _Running:
    """A job on a worker, as the driver sees it."""

    job: Job
    request: ResourceRequest
    stream: Any
    trial: str = ""  # the running trial, as far as reported
    since: float = field(default_factory=time.monotonic)
    overstayed: bool = False
    # Nodes that may run a bundle whose worker died on another; empty means any.
    elsewhere: frozenset[str] = frozenset()


class OnRay:
    """The executor on a Ray cluster, which it starts or joins.

    Args:
        address: ``local`` starts one on this machine, ``auto`` joins the one that
            runs here, ``HOST:PORT`` or ``ray://HOST:PORT`` joins another.
        cpus: Processors of a local cluster; None is all.
        gpus: Devices of a local cluster; None is those that Ray finds.
        predictor: What is known of earlier trials.
        look: Says what the cluster is made of; a test puts devices in that way.
        free: Says in a worker what is free, in the place of ``devices.free``.

    Raises:
        BenchError: If nothing answers at the address.
    """

    def __init__(
        self,
        address: str = "local",
        cpus: int | None = None,
        *,
        gpus: int | None = None,
        predictor: Predictor | None = None,
        look: Callable[[], Cluster] | None = None,
        free: FreeMemory | None = None,
    ) -> None:
        connect(address, cpus, gpus)
        self._local = address == "local"
        far = address.startswith("ray://")
        head = "" if far else ray.get_runtime_context().gcs_address
        self._watchdog = Watchdog(head, raylet()).start()
        self._look = look or ClusterInspector()
        self.packer = Packer(cluster=self._look(), predictor=predictor or Predictor())
        self._free = free
        self._looked = time.monotonic()
        self._window = Window(self.packer)
        self._stealing = WorkStealing(self.packer)
        # Node id -> ids of the bundles whose workers died there.
        self._blamed: dict[str, set[str]] = {}
        # Artifact id -> reference of its build, which is passed to the jobs that need
        # it: Ray starts a job only when all its references are ready.
        self._artifacts: dict[str, Any] = {}
        # The same references, as long as the builds are not known to have ended.
        self._building: dict[Any, str] = {}
        self._running: dict[Any, _Running] = {}
        self._streams = remote.forms(remote.bundle, num_returns="streaming")
        self._builds = remote.forms(remote.artifact)

    def check(self, bundles: Sequence[Bundle], store: str) -> None:
        """Check, before anything runs, that the cluster can run the bundles.

        Args:
            bundles: Everything that is to run.
            store: The URI of the store.

        Raises:
            BenchError: Names each method and model that requests more than a node has,
                or each node that does not see the store or lacks code; or if Ray ended.
        """
        # Else every bundle would be told that it requests more than a node has.
        if self._local and not self.packer.cluster.nodes:
            raise BenchError(ENDED)
        wrong = feasibility.misfits(self.packer, bundles)
        if wrong:
            raise BenchError(*wrong)
        if not self._local:
            able = feasibility.able(self.packer, bundles)
            nodes.check_nodes_ready(able, bundles, store)

    def arrange(self, bundles: Sequence[Bundle]) -> list[Bundle]:
        """The longest first, long ones cut; see ``harness.scheduling.packing``."""
        return self.packer.arrange(bundles)

    def stale(self) -> bool:
        """Whether predictions changed so much that the order is out of date."""
        return self.packer.stale()

    def run(self, jobs: Iterator[Job]) -> Iterator[tuple[Job, list[Event]]]:
        """Yield each job's events as they come; a dead worker is an event too.

        Little more than the cluster can hold is with Ray at a time, so that the
        driver's memory does not grow with the grid.

        Args:
            jobs: Drawn when there is room; asked again after the last, since what is
                yielded may bring work back.

        Yields:
            The job and its next events; one ``crashed`` event if its worker died.
        """
        while True:
            while self._window.open():
                job = next(jobs, None)
                if job is None:
                    self._ask_back()
                    break
                self._submit(job)
            if not self._running:
                return
            # The timeout lets the loop look at nodes and time limits although no event
            # comes.
            ready, _ = ray.wait(
                list(self._running), num_returns=1, timeout=1.0, fetch_local=False
            )
            for stream in ready:
                one = self._running[stream]
                events = self._next(one)
                if events:
                    yield one.job, events
            self._see_artifacts()
            yield from self._look_around()
            self._enforce_limits()

    def _submit(self, job: Job) -> None:
        bundle = job.bundle
        request = self.packer.request(bundle)
        # Two degrees of avoidance. A node where many workers died is used only if no
        # other one is free. After a worker died of this very bundle, bad nodes are
        # excluded, unless no other node could hold the bundle: it would wait for ever.
        bad = self._bad_nodes(bundle.id)
        died = any(bundle.id in self._blamed[node] for node in bad)
        elsewhere = self._able(request) - bad if died else frozenset()
        options = _options(request, bad, required=bool(elsewhere))
        built = [self._artifact(a, job, request) for a in bundle.artifacts]
        task = self._streams[request.gpus > 0].options(**options)
        stream = task.remote(job, request, self._free, *built)
        self._running[stream] = _Running(
            job=job, request=request, stream=stream, elsewhere=elsewhere
        )
        self._stealing.add(stream, bundle)
        # A reference that is ready by now is not waited for.
        waits = {a.id for a in bundle.artifacts} & set(self._building.values())
        self._window.add(stream, request, waits)

    def _ask_back(self) -> None:
        """Slots are idle: have long bundles give up what they have not begun."""
        for stream, trials in self._stealing.due(time.monotonic()).items():
            job = self._running[stream].job
            leases.request_trials(open_store(job.store), job.name, trials)

    def _artifact(self, artifact: Artifact, job: Job, request: ResourceRequest) -> Any:
        """The reference of an artifact, which is built once for all jobs."""
        if artifact.id not in self._artifacts:
            work = ArtifactJob(
                artifact=artifact,
                store=job.store,
                cpus=job.bundle.resources.cpus,
                placement=job.bundle.resources.placement,
                gpus=request.gpus,
                run=job.run,
            )
            # The memory of the job is requested for the build, too: it loads the same
            # model. The processors are those of the grid, since a job that measures
            # speed takes a whole node.
            options = _options(replace(request, cpus=work.cpus), self._bad_nodes())
            task = self._builds[request.gpus > 0].options(**options)
            ref = task.remote(work, request.gpus)
            self._artifacts[artifact.id] = ref
            self._building[ref] = artifact.id
            self._window.add(ref, request)
        return self._artifacts[artifact.id]

    def _bad_nodes(self, bundle: str = "") -> frozenset[str]:
        """Nodes to avoid: workers died there often, or this bundle's worker did."""
        return frozenset(
            node
            for node, bundles in self._blamed.items()
            if len(bundles) >= TOO_OFTEN or bundle in bundles
        )

    def _able(self, request: ResourceRequest) -> frozenset[str]:
        """Nodes that could run a request, with nothing else running on them."""
        every = self.packer.cluster.nodes
        return frozenset(
            node.id for node in every if placeable(Cluster(nodes=(node,)), request)
        )

    def _see_artifacts(self) -> None:
        """Count the bundles whose artifacts are there now as running."""
        if not self._building:
            return
        waited = list(self._building)
        ready, _ = ray.wait(
            waited, num_returns=len(waited), timeout=0, fetch_local=False
        )
        for ref in ready:
            self._window.drop(ref)
            self._window.built(self._building.pop(ref))

    def _look_around(self) -> Iterator[tuple[Job, list[Event]]]:
        """Nodes come and go; every half minute the packing hears of it.

        Ray waits for minutes for a worker whose node was cut off from the network,
        though it has taken the node for dead. Its jobs are given up here.
        """
        if time.monotonic() - self._looked <= LOOK:
            return
        self._looked = time.monotonic()
        # Compared by id: a node that left and came back within half a minute is another
        # node, and workers of the old one are gone.
        before = {node.id for node in self.packer.cluster.nodes}
        self.packer.cluster = self._look()
        there = {node.id for node in self.packer.cluster.nodes}
        gone = before - there
        for one in list(self._running.values()) if gone else ():
            # Ray would wait for ever for a node that it has to take and that is gone.
            stuck = one.elsewhere and one.elsewhere.isdisjoint(there)
            if stuck or self._node(one.job) in gone:
                self._drop(one)
                self._forget_artifacts(one.job)
                # Ray may still think that it runs; if it does, no event of it is read
                # any more.
                with contextlib.suppress(exceptions.RayError):
                    ray.cancel(one.stream, force=True)
                crash = _crashed(
                    Status.LOST, ErrorClass.INFRA, "its node does not answer any more"
                )
                yield one.job, [self._blame(one.job, crash)]

    def _next(self, one: _Running) -> list[Event]:
        try:
            events: list[Event] = ray.get(next(one.stream))
        except StopIteration:
            self._drop(one)
            return []
        except exceptions.RayError as why:
            self._watchdog.end_if_gone()  # else trials that never began become lost
            self._drop(one)
            self._forget_artifacts(one.job)  # a crash there is built again
            crash = _crash(why, overstayed=one.overstayed)
            return [self._blame(one.job, crash)]
        # A process that died below a worker is told by an event; Ray noticed nothing.
        events = [self._blame(one.job, e) if e.what == "crashed" else e for e in events]
        events = self._stealing.observe(one.stream, events)
        for event in events:
            if event.what == "started":
                one.trial, one.since = event.trial, time.monotonic()
            elif event.error_class in (
                ErrorClass.OOM,
                ErrorClass.INFRA,
                ErrorClass.CRASH,
            ):
                self._forget_artifacts(one.job)  # their failure may be what it tells
            elif event.numbers:
                self.packer.learn(one.job.trial(event.trial), one.request, event)
        return events

    def _drop(self, one: _Running) -> None:
        del self._running[one.stream]
        self._window.drop(one.stream)
        # The job ended before it read the request, which no other job may find.
        if self._stealing.drop(one.stream):
            leases.delete(open_store(one.job.store), f"{one.job.name}.back")

    def _forget_artifacts(self, job: Job) -> None:
        for artifact in job.bundle.artifacts:
            self._artifacts.pop(artifact.id, None)

    def _blame(self, job: Job, crash: Event) -> Event:
        """Note the node that a worker died on."""
        if crash.error_class not in (ErrorClass.INFRA, ErrorClass.CRASH):
            return crash
        node = self._node(job)
        if node:
            self._blamed.setdefault(node, set()).add(job.bundle.id)
        return replace(crash, node=node)

    def _node(self, job: Job) -> str:
        """Returns the id of the node in a job's lease; empty if there is no lease."""
        with contextlib.suppress(StoreError, OSError):
            lease = leases.read(open_store(job.store), f"{job.name}.json")
            return "" if lease is None else lease.node
        return ""

    def _enforce_limits(self) -> None:
        """Kill the worker of a trial that overstayed in C code."""
        for stream, one in list(self._running.items()):
            limit = one.job.bundle.resources.seconds
            # With a store in a bucket, a trial that ended in time may still be writing
            # its row, with retries.
            grace = GRACE + (patience() if "://" in one.job.store else 0.0)
            late = limit is not None and time.monotonic() - one.since > limit + grace
            # ``since`` counts from the start of a trial; before the first one the job
            # loads and waits.
            if late and one.trial and not one.overstayed:
                one.overstayed = True
                ray.cancel(stream, force=True)

    def close(self) -> None:
        """Leave the cluster; a local one stops with all its processes."""
        self._running.clear()
        self._watchdog.stop()
        ray.shutdown()


def _options(
    request: ResourceRequest, bad: frozenset[str], *, required: bool = False
) -> dict[str, Any]:
    """Turn a request into options of a Ray task.

    Args:
        request: What the task may use.
        bad: Ids of the nodes that it avoids.
        required: Whether it waits for another node if only bad ones are free. Without
            this, Ray takes a bad node then.

    Returns:
        Arguments of ``options``.
    """
    options: dict[str, Any] = {"num_cpus": request.cpus, "num_gpus": request.gpus}
    if request.memory is not None:
        options["memory"] = request.memory
    if request.device is not None:
        options["accelerator_type"] = request.device
    if bad:
        names = ",".join(sorted(bad))
        options["label_selector"] = {"ray.io/node-id": f"!in({names})"}
        if not required:
            options["fallback_strategy"] = [{"label_selector": {}}]
    return options


def _crashed(status: str, error_class: str, summary: str) -> Event:
    return Event(
        what="crashed", status=status, error_class=error_class, summary=summary
    )


def _crash(why: exceptions.RayError, *, overstayed: bool) -> Event:
    """Describe what the death of a worker means for the trial that it ran."""
    said = str(why).strip().splitlines() or [type(why).__name__]
    reason = f"{type(why).__name__}: {said[0]}"
    if overstayed:
        said_late = "its worker was killed: the trial overstayed its limit"
        return _crashed(Status.TIMED_OUT, ErrorClass.TIMEOUT, said_late)
    if isinstance(why, exceptions.OutOfMemoryError):
        said_oom = "Ray killed its worker because the host ran out of memory"
        return _crashed(Status.OUT_OF_MEMORY, ErrorClass.OOM, said_oom)
    if isinstance(why, StoreError):  # it could not build an artifact
        return Event(what="stopped", summary=str(why.cause))  # type: ignore[attr-defined]
    cause = getattr(why, "cause", None)
    if isinstance(cause, exceptions.RayError):  # its artifact's worker died
        return _crash(cause, overstayed=False)
    if isinstance(why, exceptions.RayTaskError):  # our own code raised in the worker
        return _crashed(Status.FAILED, ErrorClass.BUG, reason)
    return _crashed(Status.LOST, ErrorClass.INFRA, reason)
