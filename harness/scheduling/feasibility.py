"""Which bundles no node of a cluster could ever run; the only place that decides it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.planning.plan import Bundle
from harness.planning.resources import ResourceRequest, gigabytes
from harness.scheduling.free_capacity import placeable
from harness.scheduling.hardware import Cluster, Node
from harness.scheduling.packing import Packer

LISTED = 3  # nodes that a message names


def misfits(packer: Packer, bundles: Iterable[Bundle]) -> list[str]:
    """Describe what no node could run, even with nothing else running on it.

    Args:
        packer: Has the cluster, and decides what each bundle requests.
        bundles: Everything that is to run.

    Returns:
        One sentence for each method and model with too large a request; none for
        what autoscaling may bring a node for.
    """
    cluster = packer.cluster
    wrong: dict[str, None] = {}
    # Bundles of one cost class request the same, and a grid has few classes.
    for bundle in {b.cost_class: b for b in bundles}.values():
        request, stated = packer.request(bundle), bundle.resources.device_bytes
        if _may_come(cluster, request) or (
            placeable(cluster, request) and _device_fits(cluster, stated)
        ):
            continue
        first = bundle.trials[0]
        on_device = f", {gigabytes(stated)} of device memory" if stated else ""
        wrong[
            f"{first.method.name} on {first.model.name} requests {request}{on_device}; "
            f"no node has that ({_largest(cluster.nodes)}): change `resources` in the "
            "grid"
        ] = None
    return list(wrong)


def able(packer: Packer, bundles: Iterable[Bundle]) -> list[Node]:
    """Return the nodes that could run at least one of the bundles."""
    requests = [packer.request(b) for b in {b.cost_class: b for b in bundles}.values()]
    return [
        node
        for node in packer.cluster.nodes
        if any(placeable(Cluster(nodes=(node,)), request) for request in requests)
    ]


def _may_come(cluster: Cluster, request: ResourceRequest) -> bool:
    """Whether autoscaling may add a node that is large enough."""
    cpus, gpus = cluster.promised
    return cluster.autoscaled or (request.cpus <= cpus and request.gpus <= gpus)


def _device_fits(cluster: Cluster, stated: int | None) -> bool:
    """Whether a device has the memory that the grid states, or may have it."""
    sizes = [d.bytes for d in cluster.devices]
    return stated is None or any(size is None or size >= stated for size in sizes)


def _largest(nodes: Sequence[Node]) -> str:
    if not nodes:
        return "there is no node"
    largest = sorted(nodes, key=lambda n: (-n.gpus, -n.cpus, -(n.memory or 0)))
    more = f" and {len(nodes) - LISTED} more" if len(nodes) > LISTED else ""
    return "; ".join(map(str, largest[:LISTED])) + more
