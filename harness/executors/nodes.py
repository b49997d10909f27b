"""The nodes of a Ray cluster: what each has, and whether it is ready for the work."""

from __future__ import annotations

import contextlib
import socket
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.core import BenchError
from harness.executors.job_server import first_line
from harness.planning.plan import Bundle
from harness.scheduling.hardware import Cluster, Device, Node, known

# A custom resource of clusters that add machines when work asks for them (see
# cluster.yaml): a node of any size may still come.
AUTOSCALED = "autoscaled"
DEVICES_PATIENCE = 60.0  # seconds that the first nodes get to report their devices
READY_PATIENCE = 180.0  # seconds that a node gets to check itself; slower ones are used
_TYPE = "accelerator_type:"


def _installed() -> list[tuple[str, int]]:
    """Run on a worker: return name and memory of each device of its node."""
    from harness.toolkit import devices

    return devices.installed()


class ClusterInspector:
    """Describes the cluster that this process has joined; asks each node once.

    The devices of a node are those that torch reports there. Until the node has
    answered, and if torch reports none, they follow from the name that Ray gives them.
    """

    def __init__(self) -> None:
        # Both by node id: the reference of the answer, and the device that it names.
        self._asked: dict[str, Any] = {}
        self._heard: dict[str, Device] = {}

    def __call__(self) -> Cluster:
        """Return the cluster as it is now."""
        there = [node for node in ray.nodes() if node["Alive"]]
        there.sort(key=_larger_first)  # Ray's order changes from start to start
        self._ask([n["NodeID"] for n in there if n["Resources"].get("GPU")])
        return Cluster(
            nodes=tuple(map(self._node, there)),
            promised=_promised(),
            autoscaled=AUTOSCALED in ray.cluster_resources(),
        )

    def _ask(self, nodes: list[str]) -> None:
        first = not self._asked
        for node in nodes:
            if node not in self._asked:
                where = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
                # Without processors, so that the question does not wait behind running
                # bundles.
                task = ray.remote(max_retries=0, num_cpus=0)(_installed)
                self._asked[node] = task.options(scheduling_strategy=where).remote()
        waited = {
            ref: node for node, ref in self._asked.items() if node not in self._heard
        }
        if not waited:
            return
        # The first look decides the requests of all bundles and may wait. Later ones
        # come from the loop of the driver, which must not block.
        timeout = DEVICES_PATIENCE if first else 0
        ready, _ = ray.wait(list(waited), num_returns=len(waited), timeout=timeout)
        for ref in ready:
            try:
                found = ray.get(ref)
            except exceptions.RayError:  # the node died; it is not asked again
                found = []
            if found:
                # A node whose devices differ counts as one of its smallest device only.
                name, size = min(found, key=lambda one: one[1])
                self._heard[waited[ref]] = replace(known(name), name=name, bytes=size)

    def _node(self, node: dict[str, Any]) -> Node:
        has = node["Resources"]
        named = [key.removeprefix(_TYPE) for key in has if key.startswith(_TYPE)]
        device = known(named[0]) if named else Device(name="GPU")
        heard = self._heard.get(node["NodeID"])
        if heard is not None:  # keep Ray's name, which tasks request
            device = replace(device, bytes=heard.bytes, tflops=heard.tflops)
        return Node(
            id=node["NodeID"],
            name=node.get("NodeManagerHostname", ""),
            cpus=has.get("CPU", 0.0),
            memory=int(has.get("memory", 0)) or None,
            gpus=has.get("GPU", 0.0),
            device=device if has.get("GPU") else None,
        )


def _larger_first(node: dict[str, Any]) -> tuple[float, float, str]:
    has = node["Resources"]
    return -has.get("GPU", 0.0), -has.get("CPU", 0.0), node["NodeID"]


def _promised() -> tuple[float, float]:
    """Return the CPUs and GPUs that the autoscaling configuration allows."""
    from ray._private import state

    reads = getattr(state.state, "get_max_resources_from_cluster_config", None)
    most: dict[str, float] = {}
    with contextlib.suppress(exceptions.RaySystemError):  # not available through ray://
        most = (reads() if reads is not None else None) or {}
    return float(most.get("CPU", 0.0)), float(most.get("GPU", 0.0))


def check_nodes_ready(
    nodes: Sequence[Node], bundles: Sequence[Bundle], store: str
) -> None:
    """Check that the nodes see the store and have the code, before work starts.

    Each node reads a new file of the store, writes one, and imports the plugins that
    the bundles name.

    Args:
        nodes: The nodes that could run a bundle. If there is none yet, the check waits
            for the first node that the cluster adds.
        bundles: Everything that is to run.
        store: The URI of the store, which exists.

    Raises:
        BenchError: Names each node and what is missing there.
    """
    from results.storage.store import open_store

    folder = open_store(store).folder
    # A new name each time, so that a copy of the store from an earlier run cannot have
    # it.
    probe = f"running/{uuid.uuid4().hex}.probe"
    folder.write(probe, b"")
    try:
        wrong = _faults(nodes, bundles, store, probe)
    finally:
        folder.delete(probe)
    # Grouped by fault: with a hundred nodes the same sentence comes once, with their
    # names.
    if wrong:
        raise BenchError(
            *(f"{', '.join(sorted(names))}: {why}" for why, names in wrong.items())
        )


def _faults(
    nodes: Sequence[Node], bundles: Sequence[Bundle], store: str, probe: str
) -> dict[str, set[str]]:
    """Return each fault with the names of the nodes that have it."""
    plugins = sorted(set(_plugins(bundles)))
    check = ray.remote(max_retries=0)(_check_node)
    asked = bundles[0].resources
    refs: dict[Any, str] = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node_id=node.id, soft=False)
        remote = check.options(num_cpus=0, scheduling_strategy=there)
        refs[remote.remote(store, probe, plugins)] = node.name
    # The cluster has no node yet that could run a bundle: the request itself makes the
    # autoscaler start one.
    if not nodes:
        remote = check.options(num_cpus=asked.cpus, num_gpus=asked.gpus or 0)
        refs[remote.remote(store, probe, plugins)] = "a new node"
    timeout = READY_PATIENCE if nodes else None  # autoscaling may take long
    ready, _ = ray.wait(list(refs), num_returns=len(refs), timeout=timeout)
    wrong: dict[str, set[str]] = {}
    for ref in ready:
        for why in _answer(ref):
            wrong.setdefault(why, set()).add(refs[ref])
    return wrong


def _plugins(bundles: Sequence[Bundle]) -> Iterator[tuple[str, str]]:
    for bundle in bundles:
        first = bundle.trials[0]
        yield "method", first.method.plugin
        yield "model", first.model.plugin
        yield from (("task", trial.task.plugin) for trial in bundle.trials)


def _answer(ref: Any) -> list[str]:
    try:
        found: list[str] = ray.get(ref)
    except exceptions.RuntimeEnvSetupError as why:
        return [f"the code cannot be installed there: {first_line(why)}"]
    except exceptions.RayTaskError as why:
        return [f"code is missing there: {_last_line(why)}"]
    except exceptions.RayError:  # the node died; bundles run elsewhere
        return []
    return found


def _check_node(
    store: str, probe: str, plugins: Sequence[tuple[str, str]]
) -> list[str]:
    """Run on a worker: return what its node lacks."""
    from harness.registry import find
    from results.errors import StoreError
    from results.storage import folder as folders

    wrong = []
    try:
        folder = folders.folder(store)
        if folder.read(probe) is None:
            wrong.append(
                f"the store {store} is not the one that the driver sees; name an "
                "object store, or a folder that every node mounts, with --store"
            )
        else:
            # One file for each host, since all nodes check at the same time.
            mine = f"{probe}.{socket.gethostname()}"
            folder.write(mine, b"")
            folder.delete(mine)
    except (StoreError, OSError) as why:
        wrong.append(f"the store cannot be used there: {why}")
    for kind, name in plugins:
        try:
            find(kind, name)
        except BenchError as why:
            wrong += [
                f"code is missing there: {error}; `shrinkgrid submit` ships it"
                for error in why.errors
            ]
    return list(dict.fromkeys(wrong))


def _last_line(why: BaseException) -> str:
    return (str(why).strip().splitlines() or [type(why).__name__])[-1]
