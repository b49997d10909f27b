"""Calls of a network's blocks: other functions in their place, other arguments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from harness.toolkit.resident import reads_no_weights

# The arguments of one call of a block, beside the hidden states.
Call = tuple[tuple[Any, ...], dict[str, Any]]


@contextmanager
def passing(blocks: Any, in_tuple: list[bool]) -> Iterator[None]:
    """Make blocks pass their states on unchanged while the context is open.

    Args:
        blocks: Modules, the first ones of a network.
        in_tuple: For each, whether it gives its states as the first of a tuple.
    """

    @reads_no_weights
    def whole(state: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return state

    @reads_no_weights
    def first(state: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        return (state,)

    named = zip(blocks, in_tuple, strict=False)
    with replaced((block, first if tuples else whole) for block, tuples in named):
        yield


@contextmanager
def replaced(stand_ins: Iterable[tuple[nn.Module, Any]]) -> Iterator[None]:
    """Run other functions in place of the forward passes of blocks.

    Args:
        stand_ins: Blocks, each with the function that stands in for it.
    """
    replaced = []
    try:
        for block, forward in stand_ins:
            # An attribute of the instance hides the method of the class; deleting it
            # brings the method back.
            block.forward = forward
            replaced.append(block)
        yield
    finally:  # the network is shared by all trials of a bundle
        for block in replaced:
            del block.forward


@contextmanager
def given(blocks: Any, index: int, state: Tensor, calls: list[Call]) -> Iterator[None]:
    """Make block ``index`` read ``state``, and it and all later ones their calls.

    Args:
        blocks: All blocks of a network.
        index: Of the block; where it is the number of blocks, what follows the last one
            reads ``state``.
        state: Hidden states, shape ``(windows, T, width)``.
        calls: For each block, its other arguments.
    """

    def reader(number: int) -> Any:
        def read(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            # Later blocks read what the block before them made; only their other
            # arguments are given.
            own = state if number == index else split(args, kwargs)[0]
            rest, named = calls[number]
            return (own, *rest), named

        return read

    def give(_: nn.Module, args: tuple[Any, ...], made: Any) -> Any:
        return (state,) if isinstance(made, tuple) else state

    hooks = [
        block.register_forward_pre_hook(reader(number), with_kwargs=True)
        for number, block in enumerate(blocks)
        if number >= index
    ]
    if index == len(blocks):
        hooks = [blocks[-1].register_forward_hook(give)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def split(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    """The hidden states, and the arguments beside them.

    Args:
        args: Of a call of a block.
        kwargs: Of the same call.

    Returns:
        The states, the other arguments by position, and those by name.
    """
    if args:
        return args[0], args[1:], kwargs
    named = dict(kwargs)
    return named.pop("hidden_states"), (), named
