"""Devices by name, with memory and published speed, and clusters made of them."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache

from harness.core import BenchError
from harness.options import nearest

# GB of memory, and float32 TFLOP/s without tensor cores: NVIDIA's data sheets of each
# (SXM where there are several boards; that of the A10 stands for the A10G).
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
# Not published: what one thread of a server's processor gives to torch, roughly.
CPU_TFLOPS = 0.05
UNKNOWN_TFLOPS = 10.0  # a GPU that the table lacks
# What a device comes with where only its name is given (`plan --cluster 8xH100`).
CPUS_A_DEVICE, DEVICES_A_NODE = 8, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One kind of device.

    Args:
        name: A key of the table, ``CPU``, or what the hardware calls itself.
        bytes: Its memory; None where nobody has said.
        tflops: Published float32 speed; for ``CPU`` that of one thread.
    """

    name: str
    bytes: int | None = None
    tflops: float = UNKNOWN_TFLOPS

    def relative_speed(self, threads: float = 1) -> float:
        """How many times as fast as one processor thread work is taken to go.

        The root of the ratio of published speeds: halfway, in orders of magnitude,
        between work that only waits and work that only multiplies.

        Args:
            threads: Of a processor; a device has all of its own.

        Returns:
            1 for one thread.
        """
        many = max(1.0, threads) if self.name == "CPU" else 1.0
        return math.sqrt(self.tflops * many / CPU_TFLOPS)


CPU = Device(name="CPU", tflops=CPU_TFLOPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine.

    Args:
        cpus: Processor threads.
        memory: Bytes of host memory; None where it is not known.
        gpus: How many devices.
        device: What they are; None where there is none.
        id: Ray's id of the node; empty for a planned one.
    """

    cpus: float
    memory: int | None = None
    gpus: float = 0.0
    device: Device | None = None
    id: str = ""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The machines that bundles run on.

    Args:
        nodes: Those that are there.
        promised: CPUs and GPUs that autoscaling may bring, all nodes together.
    """

    nodes: tuple[Node, ...]
    promised: tuple[float, float] = (0.0, 0.0)

    @cached_property
    def cpus(self) -> float:
        """Processor threads of all nodes."""
        return max(sum(n.cpus for n in self.nodes), self.promised[0])

    @cached_property
    def gpus(self) -> float:
        """Devices of all nodes."""
        return max(sum(n.gpus for n in self.nodes), self.promised[1])

    @cached_property
    def devices(self) -> tuple[Device, ...]:
        """Kinds of devices, the smallest first, those of unknown size last."""
        found = {n.device for n in self.nodes if n.device is not None and n.gpus}
        return tuple(sorted(found, key=lambda d: (d.bytes is None, d.bytes, d.name)))

    @cached_property
    def memory(self) -> int | None:
        """Host bytes of the largest node; None where no node says."""
        return max((n.memory for n in self.nodes if n.memory), default=None)

    @cached_property
    def total_memory(self) -> int:
        """Host bytes of all nodes that say how much they have."""
        return sum(n.memory or 0 for n in self.nodes)

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
    """The device that a piece of hardware's own name means.

    Args:
        name: As torch or Ray writes it; a processor's name is ``CPU``.

    Returns:
        An entry of the table; for other GPUs one without a size.

    >>> known("NVIDIA A100-SXM4-80GB").name, known("Tesla T4").bytes
    ('A100-80GB', 16000000000)
    >>> known("NVIDIA L40S").name, known("Intel(R) Xeon(R) Processor").name
    ('L40S', 'CPU')
    """
    words = set(re.split(r"[\s_-]+", name.upper()))
    for key, (size, tflops) in _TABLE.items():
        if set(key.split("-")) <= words or key == name.upper():
            return Device(name=key, bytes=size * 10**9, tflops=tflops)
    if words & {"NVIDIA", "TESLA", "RTX", "GEFORCE", "AMD-INSTINCT", "QUADRO"}:
        return Device(name=name)
    return CPU


def parse(text: str) -> Cluster:
    """A cluster as a person writes it.

    Args:
        text: ``8xH100``, ``4xA10G,16xCPU`` ...

    Returns:
        Nodes of at most eight devices, each with eight processor threads a device and
        host memory without a limit; ``CPU`` counts threads of one node.

    Raises:
        BenchError: If it is none, or names an unknown device.

    >>> str(parse("12xH100,4xCPU")), len(parse("12xH100").nodes)
    ('12xH100,4xCPU', 2)
    """
    nodes: list[Node] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)\s*x\s*([A-Za-z][\w-]*)\s*", part, re.I)
        if not found:
            raise BenchError(
                f"--cluster {part.strip()!r} is no cluster; write COUNTxDEVICE, like "
                f"8xH100, several with a comma, or auto (devices: {_names()})"
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
    sizes = [DEVICES_A_NODE] * (count // DEVICES_A_NODE)
    sizes += [count % DEVICES_A_NODE] if count % DEVICES_A_NODE else []
    return [Node(cpus=n * CPUS_A_DEVICE, gpus=n, device=known(name)) for n in sizes]


def _known() -> list[str]:
    return [*_TABLE, "CPU"]


def _names() -> str:
    return ", ".join(_known())
