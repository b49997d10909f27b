"""The heads of a block, and the channels that its queries and keys share."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.core import Model, Unsupported
from harness.toolkit.roles import block_of
from harness.toolkit.saved_model import replace
from methods._kernels.head_layers import SpreadOutputs
from methods._kernels.low_rank.installed import empty
from methods._kernels.units import Units


@dataclass(frozen=True, slots=True)
class Parts:
    """The matrices of one block, and the shape of its attention.

    Args:
        path: Module path of the block.
        names: Role -> module path: query, key, value, output, up, down, and gate where
            the MLP has one.
        head_dim: Channels of a head.
        heads: Number of query heads.
        key_heads: Number of key-value heads.
        partner: The channel that rotary positions turn together with each channel of a
            head, shape ``(head_dim,)``; the channel itself where nothing turns.
    """

    path: str
    names: Mapping[str, str]
    head_dim: int
    heads: int
    key_heads: int
    partner: Tensor

    @property
    def readers(self) -> int:
        """Query heads that read one key-value head."""
        return self.heads // self.key_heads

    @property
    def paired(self) -> bool:
        """Whether rotary positions turn channels in pairs."""
        return bool((self.partner != torch.arange(self.head_dim)).any())

    def width(self, share: float) -> int:
        """The channels of a head that are left when a share of them goes."""
        # (1 - 0.9) * 10 is 0.9999999999999998 in floating point, which is 1.
        return int((1 - share) * self.head_dim + 1e-9)

    def neurons(self, net: nn.Module) -> Units:
        """The neurons of the MLP, as units that can be removed."""
        writers = tuple(self.names[r] for r in ("gate", "up") if r in self.names)
        down = self.names["down"]
        return Units(down, writers, plain_linear(net, down).in_features)


def parts_of(model: Model) -> list[Parts]:
    """The blocks whose heads can lose channels.

    Args:
        model: A language model with separate query, key and value matrices (LLaMA,
            Mistral, Qwen2, OPT and others of their kind).

    Returns:
        One entry a block, in the network's order.

    Raises:
        Unsupported: If the blocks are built in another way; says how.
    """
    # Block number -> role -> paths. Several paths of one role (experts) are collected
    # here and refused in `_parts`.
    blocks: dict[int, dict[str, list[str]]] = {}
    for name, _ in model.modules():
        role, number = model.role(name), block_of(name)
        if role is not None and number is not None:
            blocks.setdefault(number, {}).setdefault(role, []).append(name)
    if not blocks:
        raise Unsupported(f"{model.name} has no blocks with roles")
    return [_parts(model, found) for found in blocks.values()]


def _parts(model: Model, found: Mapping[str, Sequence[str]]) -> Parts:
    needed = ["query", "key", "value", "output", "up", "down"]
    needed += ["gate"] if "gate" in found else []
    for role in needed:
        if len(found.get(role, ())) != 1:
            raise Unsupported(
                f"{model.name} does not have one matrix of role {role} in each block, "
                "which a reduction of heads needs (a mixture has one an expert): "
                "choose a dense model of the LLaMA, Mistral, Qwen2 or OPT family"
            )
    names = {role: found[role][0] for role in needed}
    widths = {role: plain_linear(model.net, path) for role, path in names.items()}
    # Heads are slices of `head_dim` rows, so that the module of the attention has to
    # name this number; a wrong guess would cut through heads.
    path = names["query"].rpartition(".")[0]
    attention = model.net.get_submodule(path)
    head_dim = int(getattr(attention, "head_dim", 0))
    if hasattr(attention, "q_norm") or hasattr(attention, "k_norm"):
        raise Unsupported(
            f"the attention of {model.name} normalises each query and key over all "
            "channels of a head, so that none can be removed without changing the rest"
        )
    _refuse_others(model, names, path.rpartition(".")[0])
    rows = {r: widths[r].out_features for r in ("query", "key", "value")}
    if (
        not head_dim
        or any(count % head_dim for count in rows.values())
        or rows["key"] != rows["value"]
        or rows["query"] % rows["key"]
        or widths["output"].in_features != rows["query"]
    ):
        raise Unsupported(
            f"the heads of {path} do not divide its query, key and value matrices "
            f"({rows['query']}, {rows['key']} and {rows['value']} outputs)"
        )
    return Parts(
        path=path.rpartition(".")[0],
        names=names,
        head_dim=head_dim,
        heads=rows["query"] // head_dim,
        key_heads=rows["key"] // head_dim,
        partner=_partner(model, attention, head_dim),
    )


def _refuse_others(model: Model, names: Mapping[str, str], block: str) -> None:
    """Refuse an attention or MLP that computes more than its matrices say.

    A norm behind the heads (BitNet) or a mixture of two heads (DiffLlama) stands
    between the matrices that are reduced together.
    """
    for role in ("output", "down"):
        owner = names[role].rpartition(".")[0]
        if owner == block:  # OPT has the MLP's matrices in the block itself
            continue
        for name, _ in model.net.get_submodule(owner).named_parameters():
            whole = f"{owner}.{name}"
            if not any(whole.startswith(f"{path}.") for path in names.values()):
                raise Unsupported(
                    f"{owner} of {model.name} has {name} beside its matrices, so that "
                    "these cannot be reduced in pairs: choose a model of the LLaMA, "
                    "Mistral, Qwen2 or OPT family"
                )


def plain_linear(net: nn.Module, name: str) -> nn.Linear:
    """The linear layer of that name; ``Unsupported`` if it is compressed already."""
    module = net.get_submodule(name)
    if type(module) is not nn.Linear:
        raise Unsupported(
            f"{name} is a {type(module).__name__}: heads are reduced in plain linear "
            "layers alone; put this method first in the chain"
        )
    return module


def _partner(model: Model, attention: nn.Module, head_dim: int) -> Tensor:
    """Which channels a rotary embedding turns together, found by its own function."""
    alone = torch.arange(head_dim)
    rotary = [m for n, m in model.net.named_modules() if "rotary" in n.split(".")[-1]]
    if not rotary:
        return alone
    rotate = getattr(sys.modules[type(attention).__module__], "rotate_half", None)
    # One frequency turns two channels. Models that rotate only a part of a head (Phi)
    # have fewer frequencies.
    turned = 2 * len(getattr(rotary[0], "inv_freq", ()))
    if rotate is None or turned != head_dim:
        raise Unsupported(
            f"the rotary positions of {model.name} turn {turned} of the {head_dim} "
            "channels of a head in a way that is not known, so that channels cannot be "
            "removed in pairs"
        )
    # `rotate_half` moves channel j to place i and may change its sign. Run on the
    # numbers 1, 2, ... (from 1, since 0 has no sign to lose), it tells the partner j of
    # every i.
    found: Tensor = rotate(torch.arange(1.0, head_dim + 1)).abs().long() - 1
    return found


def pair_scores(parts: Parts, query: Tensor, key: Tensor) -> Tensor:
    """How much each channel adds to the attention scores, summed over its pair.

    Channel i of a query head and of its key head is a matrix of rank one in their
    product, with the squared norm ``E[q_i^2] E[k_i^2]`` if queries and keys of two
    positions are taken as independent. CR decomposition keeps the largest (MoDeGPT,
    arXiv:2408.09632).

    Args:
        parts: The block, for the number and the width of its heads and the pairs of
            channels.
        query: ``E[q^2]`` of every output, shape ``(heads * head_dim,)``.
        key: ``E[k^2]``, shape ``(key_heads * head_dim,)``.

    Returns:
        Squared scores, shape ``(key_heads, head_dim)``, equal for both channels of a
        pair; those of the query heads that read one key head are summed.
    """
    q = query.double().view(parts.key_heads, parts.readers, parts.head_dim)  # E[q_i^2]
    k = key.double().view(parts.key_heads, parts.head_dim)  # E[k_i^2]
    # The query heads of one key lose the same channels: their squared errors add up.
    scores = q.sum(1) * k
    return scores + scores[:, parts.partner] if parts.paired else scores


def best_channels(parts: Parts, scores: Tensor, count: int) -> Tensor:
    """The channels of highest score of each key head, pairs complete.

    Args:
        parts: The block, for the pairs of channels.
        scores: Squared scores from ``pair_scores``, shape ``(key_heads, head_dim)``.
        count: Number of channels of a head; even if channels turn in pairs.

    Returns:
        Indices within a head, in order, shape ``(key_heads, count)``.
    """
    first = torch.minimum(parts.partner, torch.arange(parts.head_dim))
    # Both channels of a pair have one score: sorted by the lower index, they stay
    # neighbours.
    keys = sorted_by_score(scores, first)
    return keys[:, :count].sort(1).values


def sorted_by_score(scores: Tensor, first: Tensor) -> Tensor:
    """Channels from the highest score down; equal first channels stay together.

    >>> sorted_by_score(torch.tensor([[1.0, 5, 1, 5]]), torch.tensor([0, 1, 0, 1]))
    tensor([[1, 3, 0, 2]])
    """
    # Two stable sorts: the second one keeps the order of the first among equal scores,
    # and the two channels of a pair always have equal scores.
    by_pair = first.argsort(stable=True)
    order = (-scores[:, by_pair]).argsort(dim=1, stable=True)
    return by_pair[order]


@torch.no_grad()
def keep_query_key(net: nn.Module, parts: Parts, channels: Tensor) -> None:
    """Leave only some channels of each query and key head, in place.

    Args:
        net: A private copy, of which the two matrices of the block are replaced.
        parts: The block whose query and key matrices are cut.
        channels: Indices within a head, shape ``(key_heads, count)``.
    """
    starts = torch.arange(parts.key_heads) * parts.head_dim
    key = (starts[:, None] + channels).flatten()
    # A query head keeps the channels of the key head that it reads: (heads, count).
    wide = channels.repeat_interleave(parts.readers, 0)
    starts = torch.arange(parts.heads) * parts.head_dim
    query = (starts[:, None] + wide).flatten()
    for role, rows in (("query", query), ("key", key)):
        old = plain_linear(net, parts.names[role])
        where = rows.to(old.weight.device)
        bias = None if old.bias is None else old.bias[where]
        spread_outputs(net, parts.names[role], old.weight[where], bias, rows)


def keep_best_query_key(
    net: nn.Module, parts: Parts, scores: Tensor, width: int
) -> None:
    """Leave the channels of highest score of each query and key head, in place.

    Args:
        net: A private copy, of which the two matrices of the block are replaced.
        parts: The block whose query and key matrices are cut.
        scores: Squared scores from ``pair_scores``, shape ``(key_heads, head_dim)``.
        width: Number of channels of a head; one less if they turn in pairs and it is
            odd. At least one channel or pair stays.
    """
    step = 2 if parts.paired else 1
    count = max(step, width // step * step)
    if count < parts.head_dim:
        keep_query_key(net, parts, best_channels(parts, scores, count))


@torch.no_grad()
def turn_query_key(
    net: nn.Module, parts: Parts, query_map: Tensor, key_map: Tensor
) -> None:
    """Map each query and key head to fewer channels, in place.

    Args:
        net: The network, without rotary positions.
        parts: The block whose query and key matrices are mapped.
        query_map: One map for each query head, ``(heads, rank, head_dim)``, float64.
        key_map: One map for each key head, ``(key_heads, rank, head_dim)``, float64.
    """
    for role, maps in (("query", query_map), ("key", key_map)):
        old = plain_linear(net, parts.names[role])
        turn = maps.to(old.weight.device)  # (heads, rank, head_dim)
        # (heads, head_dim, in)
        wide = old.weight.double().view(len(maps), parts.head_dim, -1)
        bias = None
        if old.bias is not None:
            each = old.bias.double().view(len(maps), parts.head_dim, 1)
            bias = (turn @ each).flatten()
        # The new channels take the first places of their head. Any places would do, as
        # long as queries and keys use the same ones: a score is a sum over channels.
        starts = torch.arange(len(maps)) * parts.head_dim
        place = (starts[:, None] + torch.arange(maps.shape[1])).flatten()
        spread_outputs(net, parts.names[role], (turn @ wide).flatten(0, 1), bias, place)


def spread_outputs(
    net: nn.Module, name: str, weight: Tensor, bias: Tensor | None, place: Tensor
) -> None:
    """Replace a layer by one that computes some of its outputs, in place.

    Args:
        net: A private copy, of which the layer is replaced.
        name: The layer.
        weight: Rows of the outputs that are computed, shape ``(kept, in)``.
        bias: Their biases, shape ``(kept,)``; None without one.
        place: Which outputs they are, shape ``(kept,)``; the others are 0.
    """
    old = plain_linear(net, name)
    made = empty(
        SpreadOutputs,
        old.weight,
        in_features=old.in_features,
        out_features=old.out_features,
        kept=len(place),
        bias=bias is not None,
    )
    made.linear.weight.copy_(weight)
    if bias is not None:
        made.linear.bias.copy_(bias)
    made.place.copy_(place)
    replace(net, name, made)
