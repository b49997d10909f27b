"""The directions that the value and output matrices of a block share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.toolkit.saved_model import replace
from methods._kernels.head_layers import GatheredInputs
from methods._kernels.heads import Parts, plain_linear, spread_outputs
from methods._kernels.low_rank.factors import balanced, check_finite
from methods._kernels.low_rank.installed import empty
from methods._kernels.low_rank.spectra import psd_roots


@dataclass(frozen=True, slots=True)
class ValueOutput:
    """The best directions of value and output, for each key-value head.

    Args:
        value: Rows that compute the directions, strongest first, shape
            ``(key_heads, head_dim, hidden)``; float32, or float64 for float64 weights,
            in host memory: those of all blocks are as large as their matrices.
        output: Columns that read them, shape
            ``(key_heads, readers * hidden, head_dim)``: the query heads that read one
            value, on top of each other.
        energy: The squared error that dropping each direction adds, shape
            ``(key_heads, head_dim)``.
    """

    value: Tensor
    output: Tensor
    energy: Tensor


def value_output(net: nn.Module, parts: Parts, gram: Tensor) -> ValueOutput:
    """The joint SVD of value and output matrices under the inputs of the value.

    For a value head V of shape ``(head_dim, hidden)`` that the output blocks
    ``O_1 ... O_g`` of its g query heads read, the first r directions minimise
    ``sum_j ||O_j (V - V') G^(1/2)||^2`` over all matrices V' of rank r. With
    ``M = V G V^T``, ``N = sum_j O_j^T O_j`` and ``M^(1/2) N M^(1/2) = P L P^T`` they
    are ``P^T M^(-1/2) V``, read by ``O_j M^(1/2) P``, and L are the errors. That is the
    SVD of ``[O_1; ...; O_g] V G^(1/2)``, with matrices of the width of a head alone.

    Args:
        net: The dense network, which is only read.
        parts: The block whose value and output matrices are decomposed.
        gram: G, the second moment of the inputs of the value matrix.

    Returns:
        The directions of each key-value head, all ``head_dim`` of them: any rank is a
        slice.

    Raises:
        NotFinite: If a weight or G is not finite.
    """
    plain = plain_linear(net, parts.names["value"]).weight.detach()
    dtype = plain.dtype if plain.dtype == torch.float64 else torch.float32
    value = plain.double()
    output = plain_linear(net, parts.names["output"]).weight.detach().double()
    check_finite(value, f"the weight of {parts.names['value']}")
    check_finite(output, f"the weight of {parts.names['output']}")
    check_finite(gram, f"the statistics of the input of {parts.names['value']}")
    gram = gram.double().to(value.device)
    # `wide`: columns of the output matrix that belong to one key-value head.
    wide, size, found = parts.readers * parts.head_dim, parts.head_dim, []
    for head in range(parts.key_heads):
        v = value[head * size : (head + 1) * size]  # V, (head_dim, hidden)
        blocks = output[:, head * wide : (head + 1) * wide].split(size, 1)
        stacked = torch.cat(blocks)  # (readers * hidden, head_dim)
        root, inverse = psd_roots(v @ gram @ v.T)  # M^(1/2) and M^(-1/2)
        inner = root @ (stacked.T @ stacked) @ root  # M^(1/2) N M^(1/2)
        # Rounding leaves the product slightly asymmetric, and `eigh` reads one
        # triangle.
        energy, vectors = torch.linalg.eigh((inner + inner.T) / 2)
        p = vectors.flip(1)  # P, strongest direction first: `eigh` sorts upwards
        # O_j M^(1/2) P, (readers * hidden, head_dim), and P^T M^(-1/2) V,
        # (head_dim, hidden).
        left, right = balanced(stacked @ root @ p, p.T @ inverse @ v)
        strongest = energy.flip(0).clamp_min(0).cpu()
        found.append((right.to(dtype).cpu(), left.to(dtype).cpu(), strongest))
    return ValueOutput(*(torch.stack(tensors) for tensors in zip(*found, strict=True)))


@torch.no_grad()
def keep_value_output(
    net: nn.Module, parts: Parts, found: ValueOutput, rank: int
) -> None:
    """Leave the first directions of every value head, in place.

    The bias of the value reaches the output unchanged, since attention weights sum to
    one: it becomes part of the bias of the output, exactly.

    Args:
        net: A private copy, of which the two matrices of the block are replaced.
        parts: The block whose value and output matrices are cut.
        found: The directions from ``value_output``; the first ``rank`` are used.
        rank: Number of directions of each head.
    """
    value, output = (plain_linear(net, parts.names[r]) for r in ("value", "output"))
    bias = None if output.bias is None else output.bias.double()
    if value.bias is not None:
        # Every query head of a group receives the bias of its value head: (heads *
        # head_dim,), in the order of the columns of the output matrix.
        wide = value.bias.view(parts.key_heads, 1, parts.head_dim)
        each = wide.expand(-1, parts.readers, -1).flatten().double()
        passed = output.weight.double() @ each
        bias = passed if bias is None else bias + passed
    # The attention mixes positions and no channels: what the value writes to the first
    # `rank` places of a head, the output finds in the same places of its query heads.
    starts = torch.arange(parts.key_heads) * parts.head_dim
    place = (starts[:, None] + torch.arange(rank)).flatten()
    spread_outputs(
        net, parts.names["value"], found.value[:, :rank].flatten(0, 1), None, place
    )
    hidden = output.out_features
    columns = found.output[:, :, :rank].reshape(
        parts.key_heads, parts.readers, hidden, rank
    )
    # (hidden, key_heads, readers, rank), flattened in the order of the query heads.
    weight = columns.permute(2, 0, 1, 3).reshape(hidden, -1)
    starts = torch.arange(parts.heads) * parts.head_dim
    place = (starts[:, None] + torch.arange(rank)).flatten()
    made = empty(
        GatheredInputs,
        output.weight,
        in_features=output.in_features,
        out_features=hidden,
        kept=len(place),
        bias=bias is not None,
    )
    check_finite(weight.to(output.weight.dtype), f"a factor of {parts.names['output']}")
    made.linear.weight.copy_(weight)
    if bias is not None:
        made.linear.bias.copy_(bias)
    made.place.copy_(place)
    replace(net, parts.names["output"], made)
