"""A language model run one block at a time, so that few activations are alive."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from harness.core import Model, NotFinite, Unsupported
from harness.toolkit.block_calls import Call, given, passing, replaced, split
from harness.toolkit.host_memory import compute_device, of
from harness.toolkit.resident import Residency, reads_no_weights
from harness.toolkit.roles import LANGUAGE_MODEL, blocks_path

_TOKENS = 1024  # of a batch, or one window: activations stay small
_AT_ONCE = 2**16  # tokens whose hidden states are alive between two blocks


class _Stop(Exception):
    """Ends a forward pass once enough is known."""


@dataclass(slots=True)
class Stream:
    """The hidden states of all windows, before the block that is next.

    Args:
        blocks: The model's blocks, in order.
        path: Module path of the list of blocks.
        in_tuple: For each block, whether it gives its states as the first of a tuple.
        states: Hidden states, batches of shape ``(windows, T, width)``.
        calls: For each batch and block, the other arguments that the model gives it:
            a mask, positions, or what depends on the tokens (ALiBi of a whole batch,
            Gemma 4's inputs of each block, keys that several blocks share).
        batches: Token ids of each batch, shape ``(windows, T)``.
        residency: Brings blocks in files to a device; None where they stay.
    """

    blocks: nn.ModuleList
    path: str
    in_tuple: list[bool]
    states: list[Tensor]
    calls: list[list[Call]] = field(repr=False)
    batches: list[Tensor] = field(repr=False)
    residency: Residency | None = field(default=None, repr=False)

    def __iter__(self) -> Iterator[tuple[str, nn.Module]]:
        """Path and module of each block; call ``advance`` before the next.

        The block is on the device that computes until the next one is asked for.
        """
        for index, block in enumerate(self.blocks):
            here = self.residency and self.residency.during(self.blocks, index)
            with here or nullcontext():
                yield f"{self.path}.{index}", block

    def here(self, block: nn.Module) -> AbstractContextManager[Any]:
        """Keep one more block, of this or of another network, where this one computes.

        Args:
            block: It must not be changed meanwhile.

        Returns:
            The context in which it is there.
        """
        return self.residency.running(block) if self.residency else nullcontext()

    @torch.no_grad()
    def advance(self, index: int, block: nn.Module) -> None:
        """Replace the states by what a block makes of them, one batch at a time.

        Args:
            index: Of the block, for the arguments of its call.
            block: The block itself, or a stand-in for it.
        """
        for i in range(len(self.states)):
            self.states[i] = self.output(index, block, i)

    @torch.no_grad()
    def output(self, index: int, block: nn.Module, batch: int = 0) -> Tensor:
        """What a block makes of the states of a batch, which stay as they are.

        Args:
            index: Of the block, for the arguments of its call.
            block: The block itself, or a stand-in for it.
            batch: Number of the batch.

        Returns:
            Shape ``(windows, T, width)``.
        """
        # A block is called as the model itself called it: masks and positions were
        # recorded.
        args, kwargs = self.calls[batch][index]
        made = block(self.states[batch], *args, **kwargs)
        states: Tensor = made[0] if isinstance(made, tuple) else made
        return states

    @torch.no_grad()
    def logits(self, net: nn.Module, index: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The outputs of a whole network that takes over at block ``index``.

        Args:
            net: Of the same architecture; its blocks before ``index`` do not run.
            index: Of the block that reads the states; the number of blocks for what
                follows the last one.

        Yields:
            For each batch, token ids of shape ``(windows, T)`` and logits of shape
            ``(windows, T, V)``.
        """
        # The blocks before ``index`` pass their input on, and block ``index`` gets the
        # stored states: the rest of the network runs as it is, with its final norm and
        # head.
        blocks: Any = net.get_submodule(self.path)
        for ids, state, calls in zip(
            self.batches, self.states, self.calls, strict=True
        ):
            with (
                passing(blocks[:index], self.in_tuple),
                given(blocks, index, state, calls),
            ):
                logits = net(input_ids=ids, use_cache=False).logits
                # With blocks on several devices, the head has one of its own.
                yield ids.to(logits.device), logits

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
        total, count = 0.0, 0
        for ids, logits in self.logits(net, index):
            # Position t predicts token t + 1; the last position has no target.
            rows, wanted = logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten()
            total += float(cross_entropy(rows, wanted, reduction="sum"))
            count += len(wanted)
        if not math.isfinite(total):
            raise NotFinite(f"the loss from block {index} on is {total}")
        return total / count


def blocks_of(model: Model) -> tuple[str, nn.ModuleList]:
    """The blocks of a language model.

    Args:
        model: A causal language model.

    Returns:
        Module path of the list of blocks, and the list.

    Raises:
        Unsupported: If its blocks are not in one list.
    """
    path = blocks_path([name for name, _ in model.modules(*LANGUAGE_MODEL.values())])
    blocks: Any = model.net.get_submodule(path) if path else None
    if path is None or not isinstance(blocks, nn.ModuleList):
        raise Unsupported(f"{model.name} does not hold its blocks in one list")
    return path, blocks


def stream(model: Model, tokens: Tensor) -> Stream:
    """Start a stream over windows of one length, in batches of about 1,024 tokens.

    Args:
        model: A causal language model with its blocks in one list.
        tokens: Windows, shape ``(N, L)``.

    Returns:
        The stream before the first block.

    Raises:
        Unsupported: If the model has no list of blocks.
    """
    return stream_batches(model, batches_of(tokens))


def batches_of(tokens: Tensor) -> list[Tensor]:
    """Split windows into batches of about 1,024 tokens, or one window.

    >>> [len(batch) for batch in batches_of(torch.zeros(5, 512))]
    [2, 2, 1]
    """
    return list(torch.split(tokens, max(1, _TOKENS // tokens.shape[1])))


@torch.no_grad()
def stream_batches(model: Model, batches: Sequence[Tensor]) -> Stream:
    """Start a stream: embed the batches, and learn how the model calls its blocks.

    Args:
        model: A causal language model with its blocks in one list.
        batches: Token ids, each of shape ``(windows, T)`` with a ``T`` of its own.

    Returns:
        The stream before the first block.

    Raises:
        Unsupported: If the model has no list of blocks.
    """
    path, blocks = blocks_of(model)
    device, host = compute_device(model.net), of(model.net)
    moved = [batch.to(device) for batch in batches]
    in_tuple = _in_tuple(model.net, blocks, moved[0][:1])
    states: list[Tensor] = []
    calls: list[list[Call]] = []
    with passing(blocks, in_tuple):
        for batch in moved:
            state, made = _calls(model.net, blocks, batch)
            states.append(state)
            # Masks and positions of equal batches are equal, and can be as large as the
            # states.
            calls.append([_shared(call, calls, i) for i, call in enumerate(made)])
    residency = None if host is None else host.residency
    return Stream(blocks, path, in_tuple, states, calls, moved, residency)


def logits_by_block(
    model: Model, batches: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The outputs of a network, each of whose blocks is read once for many batches.

    Args:
        model: A causal language model with its blocks in one list.
        batches: Token ids, each of shape ``(windows, T)`` with a ``T`` of its own. Up
            to 65,536 tokens, or one batch, go through a block before the next block.

    Yields:
        For each batch, its token ids and logits of shape ``(windows, T, V)``.
    """
    for group in _groups(batches):
        running = stream_batches(model, group)
        for index, (_, block) in enumerate(running):
            running.advance(index, block)
        yield from running.logits(model.net, len(running.blocks))


def _groups(batches: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours whose hidden states are alive together."""
    group: list[Tensor] = []
    for batch in batches:
        if group and sum(map(torch.numel, (*group, batch))) > _AT_ONCE:
            yield group
            group = []
        group.append(batch)
    if group:
        yield group


def _in_tuple(net: nn.Module, blocks: nn.ModuleList, ids: Tensor) -> list[bool]:
    """For each block, whether its output is a tuple; one window is enough to know."""
    # The class of a block decides it, so that one block of each class runs. To run them
    # all would read all weights.
    known: dict[type[nn.Module], bool] = {}

    def told(block: nn.Module) -> Any:
        def forward(state: Tensor, *args: Any, **kwargs: Any) -> Any:
            kind = type(block)
            if kind in known:
                return (state,) if known[kind] else state
            with residency.running(block) if residency else nullcontext():
                made: Any = kind.forward(block, state, *args, **kwargs)
            known[kind] = isinstance(made, tuple)
            return made

        return reads_no_weights(forward)  # or brings the block itself

    def look(_: nn.Module, args: tuple[Any, ...], made: Any) -> None:
        # An exception is the only way to end a forward pass from a hook: what follows
        # the last block (the head over a large vocabulary) need not run.
        raise _Stop

    host = of(net)
    residency = None if host is None else host.residency
    with replaced((block, told(block)) for block in blocks):
        _run(net, ids, [blocks[-1].register_forward_hook(look)])
    return [known[type(block)] for block in blocks]


def _calls(
    net: nn.Module, blocks: nn.ModuleList, ids: Tensor
) -> tuple[Tensor, list[Call]]:
    """The embedded windows, and how the model calls each block on them."""
    states: list[Tensor] = []
    calls: list[Call] = []

    def learn(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state, rest, named = split(args, kwargs)
        # All blocks pass their input on here, so that every one of them sees the
        # embedded windows.
        states.append(state.detach())
        calls.append((rest, named))
        if len(calls) == len(blocks):
            raise _Stop

    handles = [b.register_forward_pre_hook(learn, with_kwargs=True) for b in blocks]
    _run(net, ids, handles)
    return states[0], calls


def _shared(call: Call, before: list[list[Call]], index: int) -> Call:
    """The call with tensors of the first batch where they are equal, to save memory."""
    if not before:
        return call
    args, kwargs = before[0][index]
    return (
        tuple(_one(new, old) for new, old in zip(call[0], args, strict=True)),
        {name: _one(new, kwargs.get(name)) for name, new in call[1].items()},
    )


def _one(new: Any, old: Any) -> Any:
    if isinstance(new, Tensor) and isinstance(old, Tensor) and torch.equal(new, old):
        return old
    if type(new) is tuple and type(old) is tuple and len(new) == len(old):
        return tuple(_one(a, b) for a, b in zip(new, old, strict=True))
    return new


def _run(net: nn.Module, ids: Tensor, handles: list[Any]) -> None:
    """A forward pass that a hook may stop; the hooks are removed behind it."""
    try:
        net(input_ids=ids, use_cache=False)
    except _Stop:
        return
    finally:
        for handle in handles:
            handle.remove()
