"""A language model run one block at a time, so that few activations are alive."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from harness.core import Model, NotFinite, Unsupported
from harness.toolkit.roles import LANGUAGE_MODEL, blocks_path

_TOKENS = 1024  # of a batch, or one window: activations stay small


class _Stop(Exception):
    """Ends a forward pass once enough is known."""


@dataclass(slots=True)
class Stream:
    """The hidden states of all windows, before the block that is next.

    Args:
        blocks: The model's blocks, in order.
        path: Module path of the list of blocks.
        states: Hidden states, batches of shape ``(windows, T, width)``.
        calls: For each block, the other arguments that the model gives it.
    """

    blocks: nn.ModuleList
    path: str
    states: list[Tensor]
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(repr=False)
    tokens: Tensor = field(repr=False)

    def __iter__(self) -> Iterator[tuple[str, nn.Module]]:
        """Path and module of each block; call ``run`` for it before the next."""
        for index, block in enumerate(self.blocks):
            yield f"{self.path}.{index}", block

    @torch.no_grad()
    def advance(self, index: int, block: nn.Module) -> None:
        """Replace the states by what a block makes of them, one batch at a time.

        Args:
            index: Of the block, for the arguments of its call.
            block: The block itself, or a stand-in for it.
        """
        args, kwargs = self.calls[index]
        for i, batch in enumerate(self.states):
            made = block(batch, *args, **kwargs)
            self.states[i] = made[0] if isinstance(made, tuple) else made

    @torch.no_grad()
    def loss(self, net: nn.Module, index: int) -> float:
        """The mean loss of a whole network that takes over at block ``index``.

        Args:
            net: Of the same architecture; its blocks before ``index`` do not run.
            index: Of the block that reads the states.

        Returns:
            Nats a token.

        Raises:
            NotFinite: If it is NaN or infinite.
        """
        blocks: Any = net.get_submodule(self.path)
        total, count, done = 0.0, 0, 0
        for batch in self.states:
            ids = self.tokens[done : done + len(batch)].to(batch.device)
            done += len(batch)
            with _taking_over(blocks, index, batch):
                logits = net(input_ids=ids, use_cache=False).logits[:, :-1].float()
            wanted = ids[:, 1:].flatten()
            total += float(cross_entropy(logits.flatten(0, 1), wanted, reduction="sum"))
            count += len(wanted)
        if not math.isfinite(total):
            raise NotFinite(f"the loss from block {index} on is {total}")
        return total / count


@torch.no_grad()
def stream(model: Model, tokens: Tensor) -> Stream:
    """Start a stream: embed the windows, and learn how the model calls its blocks.

    Args:
        model: A causal language model with its blocks in one list.
        tokens: Windows, shape ``(N, L)``.

    Returns:
        The stream before the first block.

    Raises:
        Unsupported: If the model has no list of blocks.
    """
    path = blocks_path([name for name, _ in model.modules(*LANGUAGE_MODEL.values())])
    blocks: Any = model.net.get_submodule(path) if path else None
    if path is None or not isinstance(blocks, nn.ModuleList):
        raise Unsupported(f"{model.name} does not hold its blocks in one list")
    device = next(model.net.parameters()).device
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    states: list[Tensor] = []

    def learn(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(_split(args, kwargs)[1:])
        if len(calls) == len(blocks):
            raise _Stop

    def catch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(_split(args, kwargs)[0].detach())
        raise _Stop

    handles = [b.register_forward_pre_hook(learn, with_kwargs=True) for b in blocks]
    try:
        # One window is enough: all have one length and no padding, so masks and
        # positions are the same for each and are broadcast over a batch.
        _forward(model.net, tokens[:1].to(device))
        _remove(handles)
        handles = [blocks[0].register_forward_pre_hook(catch, with_kwargs=True)]
        for batch in torch.split(tokens, max(1, _TOKENS // tokens.shape[1])):
            _forward(model.net, batch.to(device))
    finally:  # the network is shared by all trials of a bundle
        _remove(handles)
    return Stream(blocks, path, states, calls, tokens)


@contextmanager
def _taking_over(blocks: Any, index: int, state: Tensor) -> Iterator[None]:
    """Make blocks before ``index`` pass, and that one read ``state``."""

    def skip(state: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return state

    def read(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        rest, named = _split(args, kwargs)[1:]
        return (state, *rest), named

    handle = blocks[index].register_forward_pre_hook(read, with_kwargs=True)
    for block in blocks[:index]:
        block.forward = skip
    try:
        yield
    finally:
        handle.remove()
        for block in blocks[:index]:
            del block.forward


def _forward(net: nn.Module, ids: Tensor) -> None:
    try:
        net(input_ids=ids, use_cache=False)
    except _Stop:
        return


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()


def _split(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    """The hidden states, and the arguments beside them."""
    if args:
        return args[0], args[1:], kwargs
    named = dict(kwargs)
    return named.pop("hidden_states"), (), named
