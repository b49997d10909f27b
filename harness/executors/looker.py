"""What a Ray cluster is made of, in the words of the packing."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.scheduling.hardware import Cluster, Device, Node, known

PATIENCE = 60.0  # seconds that the first nodes get to say what devices they have
_TYPE = "accelerator_type:"


def _installed() -> list[tuple[str, int]]:
    """A worker's task: name and memory of each device of its node."""
    from harness.toolkit import devices

    return devices.installed()


class Looker:
    """Looks at the cluster that this process has joined; each node is asked once.

    A node's devices are what torch says of them there. Until it has answered, and
    where torch sees none, they are what the table says of Ray's name for them.
    """

    def __init__(self) -> None:
        self._asked: dict[str, Any] = {}
        self._heard: dict[str, Device] = {}

    def __call__(self) -> Cluster:
        """The cluster as it is now."""
        there = [node for node in ray.nodes() if node["Alive"]]
        there.sort(key=_larger_first)  # Ray's order changes from start to start
        self._ask([n["NodeID"] for n in there if n["Resources"].get("GPU")])
        return Cluster(nodes=tuple(map(self._node, there)), promised=_promised())

    def _ask(self, nodes: list[str]) -> None:
        first = not self._asked
        for node in nodes:
            if node not in self._asked:
                where = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
                task = ray.remote(max_retries=0, num_cpus=0)(_installed)
                self._asked[node] = task.options(scheduling_strategy=where).remote()
        waited = {
            ref: node for node, ref in self._asked.items() if node not in self._heard
        }
        if not waited:
            return
        timeout = PATIENCE if first else 0
        ready, _ = ray.wait(list(waited), num_returns=len(waited), timeout=timeout)
        for ref in ready:
            try:
                found = ray.get(ref)
            except exceptions.RayError:  # it died; another look asks no more
                found = []
            if found:
                name, size = min(found, key=lambda one: one[1])
                self._heard[waited[ref]] = replace(known(name), name=name, bytes=size)

    def _node(self, node: dict[str, Any]) -> Node:
        has = node["Resources"]
        named = [key.removeprefix(_TYPE) for key in has if key.startswith(_TYPE)]
        device = known(named[0]) if named else Device(name="GPU")
        heard = self._heard.get(node["NodeID"])
        if heard is not None:  # Ray's own name stays: tasks ask for it
            device = replace(device, bytes=heard.bytes, tflops=heard.tflops)
        return Node(
            id=node["NodeID"],
            cpus=has.get("CPU", 0.0),
            memory=int(has.get("memory", 0)) or None,
            gpus=has.get("GPU", 0.0),
            device=device if has.get("GPU") else None,
        )


def _larger_first(node: dict[str, Any]) -> tuple[float, float, str]:
    has = node["Resources"]
    return -has.get("GPU", 0.0), -has.get("CPU", 0.0), node["NodeID"]


def _promised() -> tuple[float, float]:
    """CPUs and GPUs that autoscaling may bring, as its configuration says."""
    from ray._private import state

    reads = getattr(state.state, "get_max_resources_from_cluster_config", None)
    most: dict[str, float] = {}
    with contextlib.suppress(exceptions.RaySystemError):  # through ray://, nobody knows
        most = (reads() if reads is not None else None) or {}
    return float(most.get("CPU", 0.0)), float(most.get("GPU", 0.0))
