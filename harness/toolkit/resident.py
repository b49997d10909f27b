"""A network in files whose blocks are on a device while they are used.

The tensors in files stay the network's own. While a block runs, or while a loop over a
``Stream`` works on it, copies on the device take their places in the block's modules.
What is outside the blocks (embeddings, the last normalisation, the head) is on the
device all the time, so that it is copied once and tied weights stay tied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

# The dictionary of parameters or of buffers of a module.
Slots = dict[str, Tensor | None]


@dataclass(slots=True)
class _Held:
    """A block on the device: its places, with the file's tensor and its copy."""

    users: int = 1
    places: list[tuple[Slots, str, Tensor, Tensor]] = field(default_factory=list)


class Residency:
    """Brings blocks to a device and takes them away; shared by copies of a network.

    Args:
        device: The accelerator that computes.
        path: Module path of the list of blocks, the same in all copies.
        keep: Moves a tensor of the device to a file.
    """

    def __init__(
        self, device: torch.device, path: str, keep: Callable[[Tensor], Tensor]
    ) -> None:
        self.device = device
        self.path = path
        self._keep = keep
        self._held: WeakKeyDictionary[nn.Module, _Held] = WeakKeyDictionary()

    def __deepcopy__(self, memo: dict[int, Any]) -> Residency:
        return self  # hooks of a copied block refer to this object

    def start(self, net: nn.Module) -> None:
        """Put what is outside the blocks on the device, and watch the blocks.

        Args:
            net: On the host; changed in place.
        """
        for block in self._blocks(net):
            self.watch(block)
        inside = self._inside(net)
        self._bring([m for m in net.modules() if m not in inside], graph=False)

    def watch(self, block: nn.Module) -> None:
        """Let a block be on the device whenever it is called."""
        if self._before in block._forward_pre_hooks.values():
            return
        block.register_forward_pre_hook(self._before)
        block.register_forward_hook(self._after, always_call=True)

    def rest(self, net: nn.Module) -> set[int]:
        """The ``id`` of each parameter outside the blocks, which is on the device."""
        inside = self._inside(net)
        outside = (m for m in net.modules() if m not in inside)
        return {id(p) for m in outside for p in m._parameters.values() if p is not None}

    def adopt(self, net: nn.Module, path: str, part: nn.Module) -> None:
        """Place a module that takes a place in a network.

        Args:
            net: The network.
            path: The place.
            part: The new module. In a block that is on the device now, it is, too, and
                goes to files with the block; outside the blocks it stays there.
        """
        if not path.startswith(f"{self.path}."):
            self._bring(list(part.modules()), graph=False)
            return
        number, _, within = path.removeprefix(f"{self.path}.").partition(".")
        held = self._held.get(net.get_submodule(f"{self.path}.{number}"))
        if held is None:
            self.take(part)
        else:
            held.places += self._bring(list(part.modules()), graph=False)
        if not within:
            self.watch(part)

    @contextmanager
    def during(self, blocks: nn.ModuleList, index: int) -> Iterator[nn.Module]:
        """Keep a block on the device while the context is open.

        Args:
            blocks: The list that the block is in; another module may take its place.
            index: Number of the block.

        Yields:
            The block. What was changed or replaced in it is in files afterwards.
        """
        block = blocks[index]
        self._enter(block, graph=False)
        try:
            yield block
        finally:
            self._leave(block, changed=True)
            if block not in self._held:
                for module in {block, blocks[index]}:
                    self.take(module)

    @contextmanager
    def running(self, block: nn.Module) -> Iterator[None]:
        """Keep a block on the device for one forward pass."""
        self._enter(block, graph=torch.is_grad_enabled())
        try:
            yield
        finally:
            self._leave(block, changed=False)

    @torch.no_grad()
    def take(self, module: nn.Module) -> None:
        """Move all tensors of a module from the device to files."""
        moved: dict[int, Tensor] = {}
        for slots in _slots(module.modules()):
            for name, value in slots.items():
                if value is None or value.device.type == "cpu":
                    continue
                if id(value) not in moved:
                    moved[id(value)] = _as_is(value, self._keep(value.detach()))
                slots[name] = moved[id(value)]

    def _before(self, block: nn.Module, args: Any) -> None:
        if not _passes(block):
            self._enter(block, graph=torch.is_grad_enabled())

    def _after(self, block: nn.Module, args: Any, made: Any) -> None:
        if not _passes(block):
            self._leave(block, changed=False)

    def _enter(self, block: nn.Module, *, graph: bool) -> None:
        held = self._held.get(block)
        if held is not None:
            held.users += 1
            return
        places = self._bring(list(block.modules()), graph=graph)
        self._held[block] = _Held(places=places)

    def _leave(self, block: nn.Module, *, changed: bool) -> None:
        held = self._held.get(block)
        if held is None:  # it could not be brought
            return
        held.users -= 1
        if not held.users:
            del self._held[block]
            _restore(held.places, changed)

    def _bring(
        self, modules: list[nn.Module], *, graph: bool
    ) -> list[tuple[Slots, str, Tensor, Tensor]]:
        """Copy tensors of the host to the device; nothing changes if one cannot be."""
        places: list[tuple[Slots, str, Tensor, Tensor]] = []
        moved: dict[int, Tensor] = {}  # a tied weight is copied once
        try:
            for slots in _slots(modules):
                for name, own in slots.items():
                    if own is None or own.device.type != "cpu":
                        continue
                    if id(own) not in moved:
                        moved[id(own)] = self._copied(own, graph)
                    slots[name] = moved[id(own)]
                    places.append((slots, name, own, moved[id(own)]))
        except BaseException:  # the device may be full
            _restore(places, changed=False)
            raise
        return places

    def _copied(self, own: Tensor, graph: bool) -> Tensor:
        if graph and own.requires_grad:
            return own.to(self.device)  # gradients go to the tensor of the host
        return _as_is(own, own.detach().to(self.device))

    def _blocks(self, net: nn.Module) -> nn.ModuleList:
        blocks: Any = net.get_submodule(self.path)
        return blocks

    def _inside(self, net: nn.Module) -> set[nn.Module]:
        return {module for block in self._blocks(net) for module in block.modules()}


def reads_no_weights(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a stand-in for the forward pass of a block, which then stays in its files.

    Args:
        forward: A function that is not used for anything else.

    Returns:
        The function.
    """
    forward.reads_no_weights = True  # type: ignore[attr-defined]
    return forward


def _passes(block: nn.Module) -> bool:
    return getattr(block.__dict__.get("forward"), "reads_no_weights", False)


def _slots(modules: Any) -> Iterator[Slots]:
    for module in modules:
        yield module._parameters
        yield module._buffers


def _as_is(old: Tensor, new: Tensor) -> Tensor:
    """A parameter if the old tensor is one."""
    if isinstance(old, nn.Parameter):
        return nn.Parameter(new, requires_grad=old.requires_grad)
    return new


@torch.no_grad()
def _restore(places: list[tuple[Slots, str, Tensor, Tensor]], changed: bool) -> None:
    """Put the tensors of the host back, with what was changed on the device."""
    for slots, name, own, there in places:
        if slots.get(name) is not there:  # a method put another tensor here
            continue
        if changed:
            value = there.detach().cpu()
            if value.shape != own.shape or value.dtype != own.dtype:
                continue  # `take` moves it as a tensor of its own
            if not torch.equal(own, value):
                own.copy_(value)
        slots[name] = own
