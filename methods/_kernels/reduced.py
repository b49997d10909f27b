"""What methods share that give a block fewer neurons and heads fewer channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from harness.core import Model, Unsupported
from methods._kernels.heads import Parts
from methods._kernels.low_rank.factors import check_finite, matrix
from methods._kernels.low_rank.refit import refit
from methods._kernels.units import narrow


class HeadMoments:
    """The second moments of the outputs of a matrix, head by head, in float64.

    Args:
        head_dim: Channels of a head.
    """

    def __init__(self, head_dim: int) -> None:
        self.head_dim = head_dim
        self._count = 0
        self._total: Tensor | float = 0.0

    def add(self, _module: nn.Module, _args: Any, out: Tensor) -> None:
        """Add the outputs of one forward pass; called as a forward hook."""
        # (tokens, heads, head_dim)
        rows = out.detach().unflatten(-1, (-1, self.head_dim)).flatten(0, -3).double()
        self._count += len(rows)
        heads = rows.transpose(0, 1)  # (heads, tokens, head_dim)
        self._total = self._total + heads.transpose(1, 2) @ heads  # (heads, d, d)

    def mean(self) -> Tensor:
        """``mean(y y^T)`` of each head, shape ``(heads, head_dim, head_dim)``, CPU."""
        assert isinstance(self._total, Tensor)
        return (self._total / self._count).cpu()

    def squares(self) -> Tensor:
        """``mean(y^2)`` of each output, shape ``(heads * head_dim,)``."""
        return self.mean().diagonal(dim1=1, dim2=2).flatten()


@contextmanager
def watched(
    model: Model, parts: Sequence[Parts]
) -> Iterator[Mapping[str, HeadMoments]]:
    """Collect the moments of queries and keys of every forward pass.

    Args:
        model: The dense model.
        parts: Its blocks, whose query and key matrices get hooks.

    Yields:
        Module path of each query and key matrix -> moments.
    """
    found = {
        one.names[role]: HeadMoments(one.head_dim)
        for one in parts
        for role in ("query", "key")
    }
    handles = [
        model.net.get_submodule(name).register_forward_hook(moments.add)
        for name, moments in found.items()
    ]
    try:
        yield found
    finally:  # the network is shared by all trials of a bundle
        for handle in handles:
            handle.remove()


def weights(net: nn.Module, parts: Parts) -> int:
    """The number of weights in the matrices of a dense block."""
    return sum(matrix(net.get_submodule(name)).numel() for name in parts.names.values())


def stored(net: nn.Module, parts: Parts) -> int:
    """The numbers in the matrices of a block, with biases and positions."""
    modules = [net.get_submodule(name) for name in parts.names.values()]
    tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    return sum(t.numel() for t in tensors)


def keep_neurons(
    net: nn.Module,
    parts: Parts,
    scores: Tensor,
    budget: int,
    gram: Tensor | None = None,
) -> None:
    """Keep as many neurons as the budget of a block allows, in place.

    Args:
        net: The network; the attention of the block is reduced already.
        parts: The block whose MLP becomes narrower.
        scores: The neurons of highest score stay, shape ``(neurons,)``.
        budget: The numbers that the matrices of the block may store.
        gram: Fit the down projection to the inputs with this second moment, by least
            squares; None keeps its columns as they are.

    Raises:
        Unsupported: If the budget leaves no neuron.
    """
    units = parts.neurons(net)
    writers = [net.get_submodule(name) for name in units.writers]
    # The numbers of one neuron: its rows of the writers, biases included, and its
    # column of the reader. `rest` is everything else in the block, which no neuron can
    # save.
    each = sum(p.numel() for w in writers for p in w.parameters()) // units.count
    reader: Any = net.get_submodule(units.reader)
    each += reader.out_features
    rest = stored(net, parts) - each * units.count
    count = min(units.count, (budget - rest) // each)
    if count < 1:
        raise Unsupported(f"the ratio leaves no neuron in {parts.path}: lower it")
    if count == units.count:
        return
    kept = scores.topk(count).indices.sort().values
    weight, fitted = matrix(reader), None
    if gram is not None:
        # The kept rows of the identity pick the kept neurons: with them as R, L is the
        # down projection that fits the dense outputs best from these neurons alone,
        # `D C R^T (R C R^T)^-1`.
        select = torch.eye(units.count, dtype=torch.float64)[kept]
        fitted = refit(weight, select.to(weight.device), gram)
        # In the dtype of the layer, where a large value of float64 may overflow.
        check_finite(fitted.to(weight.dtype), f"the weight of {units.reader}")
    narrow(net, units, kept)
    if fitted is not None:
        made: Any = net.get_submodule(units.reader)
        with torch.no_grad():
            made.weight.copy_(fitted)
