"""Compressed layers multiplied out to the dense matrices of their architecture."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.core import BenchError, Model
from harness.toolkit import plain_checkpoint, saved_model

_COLUMNS = 1024  # inputs that a layer gets at a time
_LINEAR = 1e-9  # of the norm of an output: float64 rounds a million times finer
# Layers that a plain checkpoint has room for: experts of the architecture's own shapes,
# and blocks that a smaller number in the configuration leaves out.
_PLAIN = {"experts", "dropped_block"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What became of a network.

    Args:
        layers: Number of layers that were multiplied out.
        gap: Norm of the difference between the logits before and after, as a share of
            the norm of those before, for an example; 0 without such layers.
    """

    layers: int
    gap: float


def multiply_out(model: Model) -> Merged:
    """Replace compressed layers by the dense matrices that compute the same, in place.

    A layer that maps x to ``W x + b`` shows the columns of W as its outputs for the
    columns of the identity. They are computed in float64 and rounded once to the dtype
    of the network. That holds for two thin factors, shared bases, pivoted rows and
    rounded weights alike: the layer's own code says what W is.

    Args:
        model: A language model of transformers; its compressed layers are replaced.

    Returns:
        The number of layers, and how far the logits moved by rounding.

    Raises:
        BenchError: If a layer has another shape than in the architecture, or is not
            linear.
    """
    net: Any = model.net
    described = saved_model.describe(net)
    fresh = plain_checkpoint.without_memory(net)
    paths = _outermost(
        p for p, e in described.layers.items() if e["layer"] not in _PLAIN
    )
    _check(net, fresh, described, paths)
    if not paths:
        return Merged(layers=0, gap=0.0)
    dtype = plain_checkpoint.configuration(net).dtype
    before = _logits(model)
    made = {}
    for path in paths:
        like = fresh.get_submodule(path)
        made[path] = dense(net.get_submodule(path), like, dtype)
        saved_model.replace(net, path, made[path])
    for path, first in described.same.items():  # a layer that stands in two places
        if first in made:
            saved_model.replace(net, path, made[first])
    gap = float((_logits(model) - before).norm() / before.norm())
    return Merged(layers=len(paths), gap=gap)


@torch.no_grad()
def dense(layer: nn.Module, like: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The plain layer that computes what a compressed one does.

    Args:
        layer: Maps ``(..., in)`` to ``(..., out)`` by a matrix and a bias.
        like: The plain layer of the architecture; GPT-2's stores its matrix transposed.
            It gets new tensors.
        dtype: Of these tensors.

    Returns:
        ``like``, on the device of ``layer``.

    Raises:
        BenchError: If ``layer`` is not linear, or adds a bias and ``like`` has none.
    """
    exact = copy.deepcopy(layer).double()
    device = next(iter([*exact.parameters(), *exact.buffers()])).device
    inner, out = _sides(like) or (0, 0)
    bias = exact(torch.zeros(1, inner, dtype=torch.float64, device=device))[0]
    probe = torch.linspace(-1, 1, inner, dtype=torch.float64, device=device)[None]
    mapped = bias.clone()
    transposed = torch.empty(inner, out, dtype=dtype, device=device)
    for start in range(0, inner, _COLUMNS):
        rows = min(_COLUMNS, inner - start)
        ones = torch.zeros(rows, inner, dtype=torch.float64, device=device)
        ones[:, start : start + rows].fill_diagonal_(1)
        columns = exact(ones) - bias  # (rows, out): columns of W
        transposed[start : start + rows] = columns.to(dtype)
        mapped += probe[0, start : start + rows] @ columns
    wanted = exact(probe)[0]
    if not (wanted - mapped).norm() <= _LINEAR * wanted.norm():  # NaN, too, ends here
        raise BenchError(
            f"a {type(layer).__name__} is not a matrix and a bias, so that it cannot "
            "be multiplied out; leave --merge out"
        )
    made: Any = like  # gets memory here, where it had a shape alone
    weight = transposed if _is_transposed(like) else transposed.T.contiguous()
    made.weight = nn.Parameter(weight, requires_grad=False)
    if made.bias is not None:
        made.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
    elif bool(bias.any()):
        raise BenchError("a compressed layer adds a bias that its architecture lacks")
    return made


def _outermost(paths: Any) -> list[str]:
    """Paths that do not lie below another one: thin factors are layers, too."""
    found: list[str] = []
    for path in sorted(paths, key=lambda p: p.count(".")):
        if not any(path.startswith(f"{above}.") for above in found):
            found.append(path)
    return found


def _check(
    net: nn.Module,
    fresh: nn.Module,
    described: saved_model.Description,
    paths: list[str],
) -> None:
    """Refuse a network that would have other shapes than its architecture."""
    for path in paths:
        kind = described.layers[path]["layer"]
        try:
            like = fresh.get_submodule(path)
        except AttributeError:
            like = nn.Identity()
        sides = _sides(like)
        spec: dict[str, Any] = described.layers[path]["spec"]
        here = (spec.get("in_features"), spec.get("out_features"))
        if here != sides:
            raise BenchError(
                f"{path}, a layer of the kind {kind}, is not a matrix of the shape "
                "that the architecture has there, so that nothing can be multiplied "
                "out; leave --merge out"
            )
    wanted = fresh.state_dict()
    for name, value in net.state_dict().items():
        below = any(name.startswith(f"{path}.") for path in described.layers)
        if not below and name in wanted and wanted[name].shape != value.shape:
            raise BenchError(
                f"{name} has the shape {tuple(value.shape)}, and that of the "
                f"architecture is {tuple(wanted[name].shape)}: the method makes layers "
                "smaller, which --merge cannot undo; leave it out"
            )


def _sides(like: nn.Module) -> tuple[int, int] | None:
    """``(in, out)`` of a plain layer; None for anything else."""
    if type(like) is nn.Linear:
        return like.in_features, like.out_features
    if _is_transposed(like):
        weight: Any = like.weight
        return weight.shape[0], weight.shape[1]
    return None


def _is_transposed(like: nn.Module) -> bool:
    return type(like).__name__ == "Conv1D"


@torch.no_grad()
def _logits(model: Model) -> Tensor:
    device = next(model.net.parameters()).device
    ids = model.example()["input_ids"].to(device)
    logits: Tensor = model.net(input_ids=ids, use_cache=False).logits
    return logits.double().cpu()
