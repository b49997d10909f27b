"""Detects that a plugin changed a network or an object that trials share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_BLOCKS, _BLOCK = 16, 256  # a larger storage is sampled: 16 blocks of 256 bytes
_WHOLE = 64 * 1024  # bytes; a storage of at most this size is read whole
_MOST = 20_000  # objects of one fitted object that are looked at
_LEAVES = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """What objects looked like when trials began to share them.

    Args:
        objects: Name in messages -> object.
        parts: Path inside the objects -> its digest.
    """

    objects: Mapping[str, Any]
    parts: Mapping[str, Any]

    @classmethod
    def of(cls, **objects: Any) -> Seal:
        """Take the digests of some objects.

        Tensors count by address, version counter, shape, dtype and content; the
        content of a large one is sampled. A change of a few elements of a large tensor
        through ``.data`` or NumPy can therefore stay undetected; a change by an
        operation of torch never does.

        Args:
            **objects: Networks, tensors, and containers of these.

        Returns:
            The seal.
        """
        return cls(objects=objects, parts=_digests(objects))

    def broken(self) -> str | None:
        """The path of the first part that changed or vanished, None if none did.

        New entries are no damage: a fitted object may fill a cache.
        """
        # The same walk as when the seal was taken, over the objects as they are now.
        now = _digests(self.objects)
        for path, digest in self.parts.items():
            if path not in now or now[path] != digest:
                return path
        return None


def _digests(objects: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, thing in objects.items():
        for path, part in _walk(name, thing, seen):
            if isinstance(part, Tensor):
                tensors[path] = part
                # Contents are added below, all of a device at once.
                found[path] = _facts(part)
            else:
                found[path] = part
    for path, content in _contents(tensors):
        found[path] = (*found[path], content)
    return found


def _walk(path: str, thing: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Every tensor, array and plain value below an object, with its path."""
    if isinstance(thing, _LEAVES):
        yield path, repr(thing)
        return
    # By identity: shared parts are looked at once, and a cycle ends.
    if id(thing) in seen or len(seen) > _MOST:
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield path, thing
    elif isinstance(thing, np.ndarray):
        if thing.dtype != object and thing.flags.behaved:
            # As bytes, so that every dtype of NumPy can be compared.
            yield path, torch.from_numpy(thing.reshape(-1).view(np.uint8))
    elif isinstance(thing, nn.Module):
        yield from _network(path, thing)
    else:
        for key, value in _children(thing):
            yield from _walk(f"{path}{key}", value, seen)


def _network(path: str, net: nn.Module) -> Iterator[tuple[str, Any]]:
    """Parameters, stored buffers, training flags and the number of hooks."""
    for name, tensor in net.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            yield f"{path}.{name}", tensor
    for name, module in net.named_modules():
        where = f"{path}.{name}" if name else path
        hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks
        yield f"{where} (mode)", module.training
        yield f"{where} (hooks)", sum(map(len, hooks))


def _children(thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, Mapping):
        yield from ((f"[{key!r}]", value) for key, value in thing.items())
    elif isinstance(thing, list | tuple):
        yield from ((f"[{index}]", value) for index, value in enumerate(thing))
    elif isinstance(thing, set | frozenset):
        # A set has no order of its own.
        yield "{}", sorted(map(repr, thing))
    elif is_dataclass(thing) and not isinstance(thing, type):
        yield from (
            (f".{one.name}", getattr(thing, one.name, None)) for one in fields(thing)
        )
    elif isinstance(getattr(thing, "__dict__", None), dict) and not callable(thing):
        yield from ((f".{name}", value) for name, value in vars(thing).items())


def _facts(tensor: Tensor) -> tuple[Any, ...]:
    # Each operation of torch that writes in place raises ``_version`` by one; a write
    # through ``.data`` or NumPy does not, which the sampled content may show.
    address = 0 if tensor.is_meta else tensor.data_ptr()
    version = 0 if tensor.is_inference() else tensor._version
    return address, version, tuple(tensor.shape), tensor.dtype, tensor.stride()


def _contents(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, int]]:
    """A hash of sampled bytes of each tensor; each device is read once."""
    by_device: dict[torch.device, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        if tensor.layout is torch.strided and not tensor.is_meta:
            by_device.setdefault(tensor.device, {})[path] = _sample(tensor.detach())
    for samples in by_device.values():
        # One copy from the device for all tensors: hundreds of small ones would each
        # wait for it.
        whole = torch.cat(list(samples.values())).cpu().numpy().tobytes()
        start = 0
        for path, sample in samples.items():
            yield path, hash(whole[start : start + len(sample)])
            start += len(sample)


def _sample(tensor: Tensor) -> Tensor:
    """Bytes of a tensor's storage: all of a small one, blocks of a large one."""
    storage = tensor.untyped_storage()
    # A view of the storage as bytes, without a copy. Views of one storage are compared
    # by the whole storage.
    flat = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
    if flat.numel() <= _WHOLE:
        return flat
    # The first block begins at byte 0, and the last one ends at or just before the last
    # byte: 15 steps between 16 blocks.
    step = (flat.numel() - _BLOCK) // (_BLOCKS - 1)
    # _BLOCKS x _BLOCK bytes, read at the same places each time.
    return flat.as_strided((_BLOCKS, _BLOCK), (step, 1)).reshape(-1)
