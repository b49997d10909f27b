"""Reading safetensors files into memory that the tensors own.

safetensors returns tensors that point into the file at whatever byte the header ends.
BLAS chooses its kernel by the address of its operands, so that a network whose weights
lie at such addresses computes outputs that differ in the last digits (7e-9 was seen on
an AMD EPYC) from those of the network that was saved. Every reader of this project goes
through this module; a test looks for readers that do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from harness.core import BenchError

ALIGNMENT = 64  # bytes; what torch's own allocator gives on a CPU


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens a file; a file that is missing, cut off or foreign is a user error."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as why:
        raise BenchError(
            f"{path} is missing, cut off or not a safetensors file ({why}): delete the "
            "folder that holds it and run again, or fetch the file again"
        ) from why


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Returns every tensor of a safetensors file, by name, on the CPU."""
    with _opened(path) as file:
        # ``clone`` allocates memory at torch's own alignment.
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict


def each_tensor(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of a safetensors file with their names, one at a time."""
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118 - not a dict
            yield name, file.get_tensor(name).clone()


def read_tensor(path: Path, name: str) -> Tensor:
    """Returns one tensor of a safetensors file, on the CPU; reads no other bytes."""
    with _opened(path) as file:
        tensor: Tensor = file.get_tensor(name).clone()
    return tensor


def read_header(path: Path) -> dict[str, str]:
    """Returns the metadata of a safetensors file; empty if it has none."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


def own_memory(net: nn.Module) -> nn.Module:
    """Moves weights that another library left at unaligned addresses, in place.

    Tied weights stay tied, since a parameter keeps its identity and only its storage
    changes.

    Args:
        net: On any device; only tensors on the CPU are looked at.

    Returns:
        The same network.
    """
    for tensor in (*net.parameters(), *net.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()
    return net
