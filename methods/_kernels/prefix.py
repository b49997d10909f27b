"""The inputs that matrices get behind blocks that are compressed already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness.core import Context
from harness.toolkit.blockwise import stream
from harness.toolkit.calibration import Statistics, collect
from harness.toolkit.experts import completed

# The block that computes the inputs of a matrix from the output of the blocks before.
Inputs = Literal["dense", "compressed"]


def behind_prefix(
    net: nn.Module,
    ctx: Context,
    names: Iterable[str],
    *,
    inputs: Inputs = "dense",
    reads: Callable[[Mapping[str, nn.Module]], AbstractContextManager[Any]] = collect,
    windows: int | None = None,
) -> Iterator[tuple[str, Any]]:
    """Yield each matrix with what ``reads`` saw of its block, block after block.

    The caller compresses a matrix of ``net`` before it asks for the next one. The
    blocks before are then compressed when the next block is read.

    Args:
        net: The network that the caller changes in place.
        ctx: Gives the dense model and the calibration windows.
        names: Module paths of the matrices.
        inputs: The block that computes the inputs of a matrix from the output of the
            blocks before it: the ``dense`` block, or the ``compressed`` one of ``net``
            as it is when the block is reached.
        reads: Records the inputs of modules; ``collect`` sums up their Gram matrices.
        windows: Number of calibration windows to read, from the first; None for all.

    Yields:
        Module path, and what ``reads`` gave for all matrices of its block.
    """
    members = sorted(names)
    running = stream(ctx.model.with_net(net), ctx.calibration().tokens[:windows])
    # Only the block that is measured comes from here. The states in front of it always
    # come from the compressed blocks of `net`.
    source = ctx.model.net if inputs == "dense" else net
    for index, (path, block) in enumerate(running):
        here = [name for name in members if name.startswith(f"{path}.")]
        # This pass is for the statistics alone. The states go back to the start of the
        # block, and pass through it again once the caller has compressed it. `advance`
        # replaces the tensors of the list, so that a copy of the list is enough.
        kept = list(running.states)
        reader = source.get_submodule(path)
        watched = {name: source.get_submodule(name) for name in here}
        # The caller may read weights of the reader beside what it saw.
        with running.here(reader):
            with reads(watched) as seen, completed(reader):
                running.advance(index, reader)
            running.states = kept
            for name in here:
                yield name, seen
        running.advance(index, block)


def gram_of(statistics: Statistics, name: str) -> Tensor:
    """The mean of ``x x^T`` over the inputs x of a matrix: float64, ``(in, in)``."""
    site = statistics.sites[name]
    return statistics.gram[site] / statistics.tokens[site]


def norms_of(statistics: Statistics, name: str) -> Tensor:
    """The root mean square of each input channel of a matrix: float64, ``(in,)``."""
    return torch.sqrt(gram_of(statistics, name).diagonal())
