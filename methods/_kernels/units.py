"""Channels of a transformer block that leave together: attention groups and neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.core import Model, Unsupported
from harness.toolkit.blockwise import Stream, stream
from harness.toolkit.model_size import ratio_base
from harness.toolkit.roles import block_of
from harness.toolkit.saved_model import replace

_TRIED = 8  # tokens of the trial that a unit can leave


@dataclass(frozen=True, slots=True)
class Units:
    """The units of one kind in one block.

    A unit is a neuron of the MLP, or a key-value head with the query heads that read
    it. It takes input channels of one matrix, the reader, and the rows of the matrices
    that compute these channels, the writers.

    Args:
        reader: Module path of the matrix of role ``output`` or ``down``.
        writers: Module paths of the others: query, key and value, or gate and up.
        count: Number of units: the neurons, or the key-value heads.
    """

    reader: str
    writers: tuple[str, ...]
    count: int

    def channels(self, net: nn.Module) -> int:
        """Input channels of the reader that belong to one unit."""
        return _linear(net, self.reader).in_features // self.count

    def weights(self, net: nn.Module) -> int:
        """Weights that leave with one unit."""
        reader = _linear(net, self.reader)
        total = reader.out_features * reader.in_features
        for name in self.writers:
            writer = _linear(net, name)
            total += writer.out_features * writer.in_features
        return total // self.count


def _linear(net: nn.Module, name: str) -> nn.Linear:
    module = net.get_submodule(name)
    if type(module) is not nn.Linear:
        raise Unsupported(
            f"{name} is a {type(module).__name__}: units are removed from plain linear "
            "layers alone; put a structured method first in the chain"
        )
    return module


def units_of(model: Model) -> list[Units]:
    """The units of every block, attention before MLP.

    Args:
        model: A language model with separate query, key and value matrices, whose
            attention takes the number of its heads from their shapes (LLaMA, Mistral,
            Qwen, Gemma, Phi and others of their kind). The MLP may have no gate.

    Returns:
        Two entries a block, in the network's order.

    Raises:
        Unsupported: If the blocks are built in another way; says how.
    """
    blocks: dict[int | None, dict[str, list[str]]] = {}
    for name, _ in model.modules():
        role = model.role(name)
        if role is not None and block_of(name) is not None:
            parts = blocks.setdefault(block_of(name), {})
            parts.setdefault(role, []).append(name)
    if not blocks:
        raise Unsupported(f"{model.name} has no blocks with roles")
    found = []
    for parts in blocks.values():
        gate = ("gate",) if "gate" in parts else ()
        for reader, writers in (
            ("output", ("query", "key", "value")),
            ("down", (*gate, "up")),
        ):
            found.append(_units(model, parts, reader, writers))
    _check(model, found)
    return found


@torch.no_grad()
def _check(model: Model, found: Sequence[Units]) -> None:
    """Remove a unit of each shape on trial: the block must do as if its input were 0.

    Names do not tell what else depends on the number of units: norms over all heads
    (OLMo 2), heads that work in pairs (DiffLlama), gates by head.
    """
    running = stream(model, model.example()["input_ids"][:, :_TRIED])
    # In float32: in half precision rounding would hide what one unit does.
    running.states = [_exact(state) for state in running.states]
    running.calls = [_exact(calls) for calls in running.calls]
    # Blocks of equal shapes are built alike: one trial for each shape is enough.
    tried: set[Any] = set()
    for index, (path, own) in enumerate(running):
        block = deepcopy(own).float()
        for one in found:
            names = (one.reader, *one.writers)
            shape = tuple(_linear(model.net, name).weight.shape for name in names)
            inside = one.reader.startswith(f"{path}.")
            if one.count == 1 or not inside or shape in tried:
                continue
            tried.add(shape)
            if not _leaves_alone(running, index, block, _within(one, f"{path}.")):
                raise Unsupported(
                    f"a unit of {one.reader} cannot leave {model.name}: other parts "
                    "of its block depend on the number of units, so that structured "
                    "pruning would change what the network computes; choose a model "
                    "of the LLaMA, Mistral or Qwen family"
                )
        # By the copy in float32, so that the states stay exact for the next block.
        running.advance(index, block)


def _exact(value: Any) -> Any:
    """Tensors as float32, also those inside of an argument."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if type(value) in (tuple, list):
        return type(value)(_exact(part) for part in value)
    if type(value) is dict:
        return {name: _exact(part) for name, part in value.items()}
    return value


def _within(one: Units, prefix: str) -> Units:
    """The same units, with paths that begin in their block."""
    cut = len(prefix)
    return Units(one.reader[cut:], tuple(n[cut:] for n in one.writers), one.count)


def _leaves_alone(running: Stream, index: int, block: nn.Module, one: Units) -> bool:
    """Whether a block without its first unit computes what it does with zeros there."""
    whole = running.output(index, block)
    zeroed, narrowed = deepcopy(block), deepcopy(block)
    columns = channels_of(torch.tensor([0]), one.channels(zeroed))
    _linear(zeroed, one.reader).weight[:, columns] = 0
    narrow(narrowed, one, torch.arange(1, one.count))
    # Setting the reader's columns to zero cuts the unit off without changing a shape:
    # this is what its removal must compute.
    expected = running.output(index, zeroed)
    try:
        gap = running.output(index, narrowed) - expected
    except (RuntimeError, ValueError):  # the shapes do not fit any more
        return False
    # Rounding is a small part of what the unit does, or of the last digits.
    digits = torch.finfo(expected.dtype).eps * expected.norm()
    return bool(gap.norm() <= 0.1 * (whole - expected).norm() + 10 * digits)


def _units(
    model: Model,
    parts: Mapping[str, Sequence[str]],
    reader: str,
    writers: tuple[str, ...],
) -> Units:
    named = {role: parts.get(role, []) for role in (reader, *writers)}
    if wrong := [role for role, names in named.items() if len(names) != 1]:
        raise Unsupported(
            f"{model.name} does not have one matrix of role {wrong[0]} in each block, "
            "which structured pruning needs (a mixture has one an expert): choose a "
            "dense model of the LLaMA, Mistral or Qwen family"
        )
    path = named[reader][0]
    inputs = _linear(model.net, path).in_features
    if reader == "output":
        owner: Any = model.net.get_submodule(path.rpartition(".")[0])
        # The attention of these families reshapes to (..., -1, head_dim), so that it
        # adapts to fewer heads. One that stores `num_heads` reshapes to that number.
        if not hasattr(owner, "num_key_value_groups") or hasattr(owner, "num_heads"):
            raise Unsupported(
                f"the attention of {model.name} has a fixed number of heads, so that "
                "none can be removed: choose a model of the LLaMA, Mistral or Qwen "
                "family"
            )
        # Columns of the output matrix that one key-value head accounts for.
        width = owner.num_key_value_groups * owner.head_dim
        count, rest = divmod(inputs, width)
    else:
        count, rest = inputs, 0
    made = Units(path, tuple(named[role][0] for role in writers), count)
    for name in made.writers:
        rows = _linear(model.net, name).out_features
        if rest or rows % count or (reader == "down" and rows != count):
            raise Unsupported(
                f"{name} has {rows} outputs, which are not those of {count} units that "
                f"{path} reads"
            )
    return made


def choose(
    model: Model,
    units: Sequence[Units],
    scores: Sequence[Tensor],
    ratio: float,
    *,
    added: int = 0,
) -> list[Tensor]:
    """Keep the units of highest score so that a share of the block weights is gone.

    The units of all blocks are ranked together; each entry of ``units`` keeps at least
    one, since an attention or an MLP without any has no shape.

    Args:
        model: The dense model, for the number of weights in each unit and in all
            blocks.
        units: Kinds of units, each of one block, from ``units_of``.
        scores: For each entry the scores of its units, shape ``(count,)``.
        ratio: The share of the block weights to remove, in [0, 1).
        added: Numbers that each reader that loses a unit gets in exchange (a bias).

    Returns:
        For each entry the indices of the units that stay, in order.

    Raises:
        Unsupported: If one unit of each entry is more than the ratio leaves.
    """
    gone = [torch.zeros(one.count, dtype=torch.bool) for one in units]
    left = ratio * ratio_base(model)
    owner = torch.cat([torch.full((u.count,), i) for i, u in enumerate(units)])
    index = torch.cat([torch.arange(u.count) for u in units])  # within its entry
    flat = torch.cat([s.detach().double().cpu() for s in scores])
    cost = [one.weights(model.net) for one in units]
    remaining = [one.count for one in units]
    # Greedy, from the lowest score up. `left` counts the weights that still have to go.
    for place in flat.argsort(stable=True).tolist():
        if left <= 0:
            break
        which = int(owner[place])
        # An attention or MLP without any unit has no shape.
        if remaining[which] == 1:
            continue
        # The first unit to leave gives its reader a bias, whose numbers have to be
        # saved elsewhere.
        if remaining[which] == units[which].count:
            left += added
        gone[which][index[place]] = True
        remaining[which] -= 1
        left -= cost[which]
    if left > 0:
        least = sum(cost) / ratio_base(model)
        raise Unsupported(
            f"ratio {ratio} leaves less than one attention group and one neuron in "
            f"each block, which are {least:.3f} of the block weights: lower it"
        )
    return [(~mask).nonzero()[:, 0] for mask in gone]


def channels_of(kept: Tensor, width: int) -> Tensor:
    """The channels of units that have ``width`` neighbouring channels each.

    >>> channels_of(torch.tensor([0, 2]), 2).tolist()
    [0, 1, 4, 5]
    """
    return (kept[:, None] * width + torch.arange(width)).flatten()


@torch.no_grad()
def narrow(
    net: nn.Module, one: Units, kept: Tensor, bias: Tensor | None = None
) -> None:
    """Remove the other units of one entry from a network, in place.

    Args:
        net: A private copy, of which the matrices of the entry are replaced.
        one: The reader and the writers that lose channels.
        kept: Indices of the units that stay, in order.
        bias: Added to the bias of the reader, shape ``(out,)``; None for nothing.
    """
    for name in one.writers:
        writer = _linear(net, name)
        # A unit has `head_dim` rows of key and value, and those of several heads of
        # query: each writer's own number of rows.
        rows = channels_of(kept, writer.out_features // one.count).to(
            writer.weight.device
        )
        made = _like(writer, len(rows), writer.in_features, writer.bias is not None)
        made.weight.copy_(writer.weight[rows])
        if writer.bias is not None:
            made.bias.copy_(writer.bias[rows])
        replace(net, name, made)
    reader = _linear(net, one.reader)
    columns = channels_of(kept, one.channels(net)).to(reader.weight.device)
    own: Tensor | None = reader.bias
    has_bias = own is not None or bias is not None
    made = _like(reader, reader.out_features, len(columns), has_bias)
    made.weight.copy_(reader.weight[:, columns])
    if has_bias:
        total = torch.zeros_like(made.bias) if own is None else own
        made.bias.copy_(total if bias is None else total + bias.to(total))
    replace(net, one.reader, made)


def _like(old: nn.Linear, rows: int, columns: int, bias: bool) -> nn.Linear:
    like = {"device": old.weight.device, "dtype": old.weight.dtype}
    return nn.Linear(columns, rows, bias=bias, **like)
