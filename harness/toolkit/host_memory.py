"""Networks whose tensors lie in files that the system maps into memory.

A network that is larger than the memory runs all the same: the system reads the pages
of a mapped file when they are used, and drops them when memory is short. A checkpoint
in safetensors is mapped by transformers. What a method makes of it, the compressed
network and the factors of a decomposition, goes to files of this module, tensor by
tensor, while the method runs. No tensor is held twice in memory of its own.

A network that is ``hold``-ed carries its ``HostMemory`` as an attribute, which its
copies share. Kernels ask for it by ``of``, so that no method has a second version.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.core import BenchError
from harness.toolkit.resident import Residency

SMALLEST = 2**20  # bytes; smaller tensors stay where they are
# The dense network and a copy, as every method needs them, must fit beside the rest.
COPIES, SPARE = 2.5, 2 * 10**9
_NAME = "host_memory"  # of the attribute of a network


class HostMemory:
    """Writes tensors to files without a name, which vanish with the last tensor.

    Args:
        folder: On a disk with space for a copy of the network.
        smallest: Bytes of the smallest tensor that gets a file.
    """

    def __init__(self, folder: Path, smallest: int = SMALLEST) -> None:
        self.folder = folder
        self.smallest = smallest
        self.residency: Residency | None = None  # of a device that runs the blocks

    def __deepcopy__(self, memo: dict[int, Any]) -> HostMemory:
        return self  # the copies of a network write to the same folder

    def keep(self, value: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A copy of a tensor in a file, to which later changes are written too.

        Args:
            value: Any dense tensor; moved to the host.
            dtype: Of the copy; None for that of ``value``.

        Returns:
            Contiguous, aligned to a page; ``value`` itself where it is small.

        Raises:
            BenchError: If the disk is full.
        """
        kind = dtype or value.dtype
        size = value.numel() * kind.itemsize
        if size < max(1, self.smallest):
            return value.to("cpu", kind)
        storage = self._storage(size)
        # A tensor over the mapped storage: writing to it writes to the pages of the
        # file.
        kept = torch.empty(0, dtype=kind).set_(storage).view(value.shape)
        with torch.no_grad():
            return kept.copy_(value)

    def _storage(self, size: int) -> Any:
        descriptor, path = tempfile.mkstemp(dir=self.folder, suffix=".tensor")
        try:
            # Without reserved space, a full disk would end the process by SIGBUS.
            os.posix_fallocate(descriptor, 0, size)
            made: Any = torch.UntypedStorage.from_file(path, shared=True, nbytes=size)
        except OSError as why:
            raise BenchError(
                f"placement: blockwise needs {size / 1e9:.3g} GB more in {self.folder} "
                f"({why.strerror}): free space there, or use a store on a larger disk"
            ) from why
        finally:
            os.close(descriptor)
            # The mapping keeps the file alive without a name: nothing is left after a
            # crash.
            os.unlink(path)
        return made

    def copy(self, net: nn.Module) -> nn.Module:
        """A copy of a network whose weights are in files.

        Args:
            net: Any network; tied weights stay tied in the copy.

        Returns:
            The copy; changes of its weights go to its own files.
        """
        # ``deepcopy`` takes what it finds in ``memo`` instead of copying: the structure
        # is copied in memory, and the weights go to files. A tied weight is one object
        # and gets one entry.
        memo: dict[int, Any] = {}
        on_device = set() if self.residency is None else self.residency.rest(net)
        for value in net.parameters():
            if id(value) in on_device:
                continue  # copied on the device, as torch does it
            kept = self.keep(value.detach())
            if kept.data_ptr() == value.data_ptr():  # a small one
                kept = kept.clone()
            memo[id(value)] = nn.Parameter(kept, requires_grad=value.requires_grad)
        return copy.deepcopy(net, memo)


def of(net: nn.Module) -> HostMemory | None:
    """Where a network keeps its tensors; None where it keeps them as torch does."""
    found: HostMemory | None = getattr(net, _NAME, None)
    return found


def hold(net: nn.Module, host: HostMemory, dtype: torch.dtype | None = None) -> None:
    """Keep a network in files from now on, in place.

    Args:
        net: Weights that are mapped from a checkpoint stay there; the others move.
        host: Writes the files; it becomes an attribute of the network.
        dtype: Floating-point type to convert weights to; None converts nothing.
    """
    setattr(net, _NAME, host)
    files = _mapped_ranges()
    for value in net.parameters():
        if value.device.type != "cpu":  # outside the blocks, beside a device
            continue
        wanted = dtype if dtype is not None and value.is_floating_point() else None
        # Weights that are already mapped in the wanted dtype stay in their checkpoint's
        # file.
        if wanted not in (None, value.dtype) or not _is_mapped(value, files):
            value.data = host.keep(value.data, wanted)


def settle(net: nn.Module, path: str, part: nn.Module) -> None:
    """Move the tensors of a module that becomes part of a network to its files.

    Args:
        net: The whole network; nothing happens unless it keeps its tensors in files.
        path: The module's place in the network.
        part: The module, whose tensors are moved in place.
    """
    host = of(net)
    if host is None:
        return
    files = _mapped_ranges()
    for value in (*part.parameters(), *part.buffers()):
        if value.device.type == "cpu" and not _is_mapped(value, files):
            value.data = host.keep(value.data)
    if host.residency is not None:
        host.residency.adopt(net, path, part)


def compute_device(net: nn.Module) -> torch.device:
    """The device that a network reads its inputs on.

    Args:
        net: Its blocks may be in files while a device computes.

    Returns:
        The device of the inputs; the processor for a network without parameters.
    """
    host = of(net)
    if host is not None and host.residency is not None:
        return host.residency.device
    first = next(net.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def to(net: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, unless it keeps its tensors in files."""
    return net if of(net) is not None else net.to(device)


def keep(net: nn.Module, value: Tensor) -> Tensor:
    """A tensor that lasts as long as a network, in a file if the network is in files.

    Args:
        net: The network that the tensor belongs to.
        value: As large as one of its weights, say.

    Returns:
        ``value``, or its copy in a file.
    """
    host = of(net)
    return value if host is None else host.keep(value)


def chosen(asked: str, weights: int, free: int) -> str:
    """The placement of a network: as a grid states it, or by size and free memory.

    Args:
        asked: As the grid states it.
        weights: Bytes of the network's weights.
        free: Free bytes of the memory that the network would be in.

    Returns:
        ``device`` or ``blockwise``. ``auto`` is blockwise where two and a half copies
        of the weights and 2 GB do not fit.

    >>> chosen("auto", 14 * 10**9, 24 * 10**9), chosen("auto", 14 * 10**9, 80 * 10**9)
    ('blockwise', 'device')
    """
    if asked != "auto":
        return asked
    return "blockwise" if COPIES * weights + SPARE > free else "device"


def _mapped_ranges() -> list[tuple[int, int]]:
    """Addresses of this process that files are mapped to."""
    return list(_read_ranges(Path("/proc/self/maps")))


def _read_ranges(path: Path) -> Iterator[tuple[int, int]]:
    try:
        text = path.read_text()
    except OSError:  # another system: every tensor counts as unmapped
        return
    for line in text.splitlines():
        addresses, _, _, _, inode, *_ = line.split()
        # Memory without a file has inode 0.
        if inode != "0":
            first, _, last = addresses.partition("-")
            yield int(first, 16), int(last, 16)


def _is_mapped(value: Tensor, ranges: list[tuple[int, int]]) -> bool:
    place = value.data_ptr()
    return any(first <= place < last for first, last in ranges)
