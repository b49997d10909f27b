"""A network whose blocks are on several devices, one after the other.

A device computes while the others wait: several devices give memory, not speed. Where a
module begins that another device computes, its inputs are moved there. Everything
outside the blocks (embeddings, the last normalisation, the head) is on the first
device, so that weights which the embedding and the head share are there once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def shares(blocks: Sequence[int], rest: int, count: int) -> list[int]:
    """The device of each block, so that the fullest device holds as little as it can.

    Args:
        blocks: Bytes of each block, in order.
        rest: Bytes outside the blocks, which are on the first device.
        count: Number of devices, at least 1.

    Returns:
        The number of the device of each block; neighbours stay together.

    >>> shares([4, 4, 4, 4], 4, 2)
    [0, 0, 1, 1]
    >>> shares([1] * 5, 3, 2)
    [0, 1, 1, 1, 1]
    """
    low, high = max([rest, *blocks]), rest + sum(blocks)
    while low < high:  # the smallest size of a device for which `count` are enough
        middle = (low + high) // 2
        if _filled(blocks, rest, middle)[-1:] < [count]:
            high = middle
        else:
            low = middle + 1
    return _filled(blocks, rest, low)


def _filled(blocks: Sequence[int], rest: int, size: int) -> list[int]:
    """Fill devices of one size in order."""
    found, device, used = [], 0, rest
    for block in blocks:
        if used + block > size:
            device, used = device + 1, 0
        used += block
        found.append(device)
    return found


def spread(net: nn.Module, path: str, devices: Sequence[torch.device]) -> None:
    """Move a network to several devices, in place.

    Args:
        net: A language model on the host.
        path: Module path of its list of blocks.
        devices: The first one also gets what is outside of the blocks.
    """
    blocks: Any = net.get_submodule(path)
    sizes = [_bytes(block) for block in blocks]
    places = shares(sizes, _bytes(net) - sum(sizes), len(devices))
    for place, block in zip(places, blocks, strict=True):
        block.to(devices[place])
    above = {path.rsplit(".", n)[0] for n in range(1, path.count(".") + 1)} | {"", path}
    for name, module in net.named_modules():
        inside = name.startswith(f"{path}.")
        if not inside and name not in above:
            module.to(devices[0])
        # The blocks, and the outermost modules beside them.
        parent = name.rpartition(".")[0]
        if name not in above and parent in above:
            module.register_forward_pre_hook(_bring_inputs, with_kwargs=True)


def devices_of(net: nn.Module) -> set[torch.device]:
    """The devices that hold the weights of a network."""
    return {p.device for p in net.parameters()}


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def _bring_inputs(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Move the inputs of a module to its own device."""
    own = next((p.device for p in module.parameters()), None)
    if own is None:  # it computes where its inputs are
        return args, kwargs
    return _moved(args, own), _moved(kwargs, own)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if type(value) in (list, tuple):
        return type(value)(_moved(one, device) for one in value)
    if type(value) is dict:
        return {key: _moved(one, device) for key, one in value.items()}
    return value
