"""Devices by name, with memory and published speed, and clusters made of them."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache

from harness.core import BenchError
from harness.options import nearest

# GB of memory, and float32 TFLOP/s without tensor cores, from NVIDIA's data sheets (the
# SXM board where there are several; the A10's data sheet is used for the A10G).
# ``known`` takes the first entry whose words are all in a name: A100-80GB must come
# before A100, which is the 40 GB board.
_TABLE = {
    "H200": (141, 67.0),
    "H100": (80, 67.0),
    "A100-80GB": (80, 19.5),
    "A100": (40, 19.5),
    "L40S": (48, 91.6),
    "L4": (24, 30.3),
    "A10G": (24, 31.2),
    "V100": (16, 15.7),
    "T4": (16, 8.1),
}
# Our own estimate for torch on one thread of a server processor; nobody publishes it.
CPU_TFLOPS = 0.05
UNKNOWN_TFLOPS = 10.0  # a GPU that is not in the table
# The node around a device of which only the name is given (`plan --cluster 8xH100`).
CPUS_A_DEVICE, DEVICES_A_NODE = 8, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One kind of device.

    Args:
        name: A key of the table, ``CPU``, or the name that the driver reports.
        bytes: Memory of the device; None if it is unknown.
        tflops: Published float32 TFLOP/s; for ``CPU`` those of one thread.
    """

    name: str
    bytes: int | None = None
    tflops: float = UNKNOWN_TFLOPS

    def relative_speed(self, threads: float = 1) -> float:
        """The assumed speed as a multiple of one processor thread.

        The square root of the ratio of published speeds: the geometric mean between
        work that does not depend on the device (ratio 1) and pure matrix products.

        Args:
            threads: Processor threads in use, at least 1; ignored for other devices.

        Returns:
            1 for one processor thread.
        """
        many = max(1.0, threads) if self.name == "CPU" else 1.0
        return math.sqrt(self.tflops * many / CPU_TFLOPS)


CPU = Device(name="CPU", tflops=CPU_TFLOPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine of a cluster.

    Args:
        cpus: Number of processor threads.
        memory: Bytes of host memory; None if it is unknown.
        gpus: Number of devices, all of one kind.
        device: The kind of the devices; None if there are none.
        id: Ray's id of the node; empty for a node that is only planned.
        name: Host name of the node; empty for a node that is only planned.
    """

    cpus: float
    memory: int | None = None
    gpus: float = 0.0
    device: Device | None = None
    id: str = ""
    name: str = ""

    def __str__(self) -> str:
        """Name and resources: ``host1 with 8 CPUs, 1 GPU (80 GB), 64 GB of memory``."""
        parts = [f"{self.cpus:g} CPU{'s' * (self.cpus != 1)}"]
        if self.gpus:
            size = self.device.bytes if self.device is not None else None
            each = f" ({size / 1e9:.3g} GB)" if size else ""
            parts.append(f"{self.gpus:g} GPU{'s' * (self.gpus != 1)}{each}")
        else:
            parts.append("no GPU")
        if self.memory:
            parts.append(f"{self.memory / 1e9:.3g} GB of memory")
        return f"{self.name or 'a node'} with {', '.join(parts)}"


# Without slots, since ``cached_property`` needs the instance's dictionary. The packing
# reads these sums for every bundle.
@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The machines that bundles run on.

    Args:
        nodes: The nodes that are running.
        promised: Upper limits of CPUs and GPUs of all nodes after autoscaling.
        autoscaled: Whether nodes of any size are added when work requests them.
    """

    nodes: tuple[Node, ...]
    promised: tuple[float, float] = (0.0, 0.0)
    autoscaled: bool = False

    @cached_property
    def cpus(self) -> float:
        """Processor threads of all nodes, after autoscaling."""
        # Nodes that run may be more than the configuration promises.
        return max(sum(n.cpus for n in self.nodes), self.promised[0])

    @cached_property
    def gpus(self) -> float:
        """Devices of all nodes, after autoscaling."""
        return max(sum(n.gpus for n in self.nodes), self.promised[1])

    @cached_property
    def devices(self) -> tuple[Device, ...]:
        """Kinds of devices by increasing memory; those of unknown size come last."""
        found = {n.device for n in self.nodes if n.device is not None and n.gpus}
        # The first field separates known sizes from None, with which they cannot be
        # compared.
        return tuple(sorted(found, key=lambda d: (d.bytes is None, d.bytes, d.name)))

    @cached_property
    def memory(self) -> int | None:
        """Host bytes of the largest node; None if no node states its memory."""
        return max((n.memory for n in self.nodes if n.memory), default=None)

    @cached_property
    def total_memory(self) -> int:
        """Sum of the host bytes of all nodes that state their memory."""
        return sum(n.memory or 0 for n in self.nodes)

    @property
    def capacity(self) -> dict[str, float]:
        """The amount of each kind of resource of all nodes; 0 if it is unknown."""
        memory = float(self.total_memory)
        return {"cpu": self.cpus, "gpu": self.gpus, "memory": memory}

    def __str__(self) -> str:
        counts: Counter[str] = Counter()
        for node in self.nodes:
            if node.device is not None and node.gpus:
                counts[node.device.name] += int(node.gpus)
            else:
                counts["CPU"] += int(node.cpus)
        named = sorted(counts.items(), key=lambda one: (one[0] == CPU.name, one[0]))
        return ",".join(f"{n}x{name}" for name, n in named)


@lru_cache(maxsize=256)
def known(name: str) -> Device:
    """Looks up a device by the name that torch, Ray or the driver reports.

    Args:
        name: For example ``NVIDIA A100-SXM4-80GB``.

    Returns:
        The entry of the table; for a GPU that is not in the table a device of unknown
        size; for every other name ``CPU``.

    >>> known("NVIDIA A100-SXM4-80GB").name, known("Tesla T4").bytes
    ('A100-80GB', 16000000000)
    >>> known("NVIDIA L40S").name, known("Intel(R) Xeon(R) Processor").name
    ('L40S', 'CPU')
    """
    # Whole words, so that the name L40S does not match the entry L4.
    words = set(re.split(r"[\s_-]+", name.upper()))
    for key, (size, tflops) in _TABLE.items():
        if set(key.split("-")) <= words or key == name.upper():
            return Device(name=key, bytes=size * 10**9, tflops=tflops)
    if words & {"NVIDIA", "TESLA", "RTX", "GEFORCE", "AMD-INSTINCT", "QUADRO"}:
        return Device(name=name)
    return CPU


def parse(text: str) -> Cluster:
    """Reads the description of a cluster that a user gave.

    Args:
        text: ``8xH100``, ``4xA10G,16xCPU`` ...

    Returns:
        Nodes of at most eight devices with eight processor threads per device and
        unlimited host memory; ``16xCPU`` is one node of 16 threads.

    Raises:
        BenchError: If the text has another form, or names an unknown device.

    >>> str(parse("12xH100,4xCPU")), len(parse("12xH100").nodes)
    ('12xH100,4xCPU', 2)
    """
    nodes: list[Node] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)\s*x\s*([A-Za-z][\w-]*)\s*", part, re.I)
        if not found:
            raise BenchError(
                f"--cluster {part.strip()!r} is not a valid cluster; write "
                "COUNTxDEVICE, like 8xH100, several with a comma, or auto (devices: "
                f"{_names()})"
            )
        nodes.extend(_nodes(int(found[1]), found[2].upper(), part.strip()))
    return Cluster(nodes=tuple(nodes))


def _nodes(count: int, name: str, text: str) -> list[Node]:
    if not 1 <= count <= 100_000:
        raise BenchError(
            f"--cluster {text!r} has {count} devices; write a count from 1 to 100000"
        )
    if name == "CPU":
        return [Node(cpus=count)]
    if name not in _TABLE:
        raise BenchError(f"--cluster {text!r}: " + nearest("device", name, _known()))
    # Full nodes, and one with the rest.
    sizes = [DEVICES_A_NODE] * (count // DEVICES_A_NODE)
    sizes += [count % DEVICES_A_NODE] if count % DEVICES_A_NODE else []
    return [Node(cpus=n * CPUS_A_DEVICE, gpus=n, device=known(name)) for n in sizes]


def _known() -> list[str]:
    return [*_TABLE, "CPU"]


def _names() -> str:
    return ", ".join(_known())
