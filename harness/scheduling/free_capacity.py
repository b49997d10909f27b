"""Which processors, devices and bytes of a simulated cluster are free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.planning.resources import ResourceRequest
from harness.scheduling.hardware import Cluster

_ROUNDING = 1e-9  # shares of a device add up to 1 within this


@dataclass(frozen=True, slots=True)
class Location:
    """Where a job runs: the index of its node, and the indices of its devices."""

    node: int
    devices: tuple[int, ...] = ()


def placeable(cluster: Cluster, request: ResourceRequest) -> bool:
    """Whether any node could run a job if nothing else were running."""
    return FreeCapacity(cluster).find(request) is not None


class FreeCapacity:
    """The free part of each node and of each device.

    Devices have one array for the whole cluster, since with 1,000 devices a loop over
    them for each job takes longer than the rest of the simulation.

    Args:
        cluster: All of it is free at first.
    """

    def __init__(self, cluster: Cluster) -> None:
        owners = [i for i, n in enumerate(cluster.nodes) for _ in range(int(n.gpus))]
        self.kinds = [n.device.name if n.device else "" for n in cluster.nodes]
        # Index of a device in ``gpu`` -> index of its node; and back, node -> its
        # devices.
        self.owner = np.array(owners, dtype=int)  # the node of each device
        self.devices: dict[int, list[int]] = {}
        for device, node in enumerate(owners):
            self.devices.setdefault(node, []).append(device)
        # The free share of each device, from 0 to 1.
        self.gpu = np.ones(len(owners))
        self.cpu = np.array([n.cpus for n in cluster.nodes], dtype=float)
        endless = float("inf")
        self.memory = np.array([n.memory or endless for n in cluster.nodes])
        self.down: set[int] = set()

    def find(
        self, request: ResourceRequest, near: int | None = None
    ) -> Location | None:
        """The location that a request fits best.

        Args:
            request: The resources of one job.
            near: Looks only at this node, where something was freed; None looks at all.

        Returns:
            The location with the least free share that is sufficient, so that larger
            requests find room elsewhere; None if the request fits nowhere.
        """
        if not request.gpus:
            nodes = [near] if near is not None else range(len(self.cpu))
            # Best fit: the node with the fewest free processors that are enough.
            fit = [n for n in nodes if self._holds(request, n)]
            return Location(min(fit, key=lambda n: self.cpu[n])) if fit else None
        if request.gpus > 1:
            return self._several(request, near)
        if near is not None and not self._holds(request, near):
            return None
        # A device may have room while its node lacks processors or host memory.
        for device in self._ranked(request.gpus, near):
            node = int(self.owner[device])
            if self._holds(request, node):
                return Location(node, (device,))
        return None

    def _ranked(self, share: float, near: int | None) -> list[int]:
        """Devices with such a free share, the fullest first, in a stable order."""
        if near is None:
            free = np.flatnonzero(self.gpu >= share - _ROUNDING)
            ranked: list[int] = free[np.argsort(self.gpu[free], kind="stable")].tolist()
            return ranked
        fit = (
            d for d in self.devices.get(near, []) if self.gpu[d] >= share - _ROUNDING
        )
        return sorted(fit, key=lambda d: float(self.gpu[d]))

    def _several(self, request: ResourceRequest, near: int | None) -> Location | None:
        """Whole free devices of one node."""
        nodes = [near] if near is not None else range(len(self.cpu))
        for node in nodes:
            whole = [d for d in self.devices.get(node, []) if self.gpu[d] == 1]
            if len(whole) >= request.gpus and self._holds(request, node):
                return Location(node, tuple(whole[: int(request.gpus)]))
        return None

    def _holds(self, request: ResourceRequest, node: int) -> bool:
        return (
            node not in self.down
            and self.cpu[node] >= request.cpus - _ROUNDING
            and self.memory[node] >= (request.memory or 0)
            and request.device in (None, self.kinds[node])
        )

    def take(self, request: ResourceRequest, location: Location) -> None:
        """Occupies a location."""
        self._move(request, location, -1)

    def give(self, request: ResourceRequest, location: Location) -> None:
        """Frees a location."""
        self._move(request, location, 1)

    def _move(self, request: ResourceRequest, location: Location, sign: int) -> None:
        self.cpu[location.node] += sign * request.cpus
        self.memory[location.node] += sign * (request.memory or 0)
        for device in location.devices:
            # A request above 1 takes each of its devices whole.
            share = self.gpu[device] + sign * min(1.0, request.gpus)
            # Exactly 1 again when the last share is returned, so that whole devices
            # are found by equality.
            self.gpu[device] = 1.0 if abs(share - 1) < _ROUNDING else max(0.0, share)
