"""What compression left of each layer: rank, parameters, zeros and stored bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from harness.core import Model
from harness.toolkit.model_size import Counts
from harness.toolkit.roles import block_of
from harness.toolkit.saved_model import Description

_Key = TypeVar("_Key", int, str)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSize:
    """One layer of a compressed network beside the dense one.

    A tensor that n layers share, such as the basis of a group, counts 1/n in each of
    them, so that the layers add up to what is stored.

    Args:
        layer: Path of the module in the dense network.
        position: Number of the layer in the order of the network, from 0.
        role: Its role.
        block: Number of its block; None unless a language model.
        rank: Width between its two factors; None for a layer without factors.
        params_dense: Parameters of the dense layer.
        params: Parameters that are left.
        nonzero: Those of them that are not zero.
        bytes_dense: Bytes of the dense layer's tensors.
        bytes: Bytes of the tensors as a file holds them.
    """

    layer: str
    position: int
    role: str
    block: int | None
    rank: int | None
    params_dense: int
    params: float
    nonzero: float
    bytes_dense: int
    bytes: float


def layer_sizes(dense: Model, net: nn.Module, counts: Counts) -> list[LayerSize]:
    """Compare each layer that has a role with what stands in its place.

    All is read from the compressed network itself: its tensors, and the form that
    ``saved_model`` would write.

    Args:
        dense: The dense model; its roles say which layers are listed.
        net: The compressed network.
        counts: Those of ``net``.

    Returns:
        One entry per layer, in the order of the dense network. None if every layer is
        as large as the dense one, or if a layer around the whole network stores its
        weights (the tracked weights of DropBack), which then belong to no layer.
    """
    layers = {name: own for name, module in dense.modules() if (own := _own(module))}
    if not layers or ("" in counts.form.layers and counts.held[net]):
        return []
    inner = _prefix(net, next(iter(layers)))
    held: dict[str, set[int]] = {name: set() for name in layers}
    for path, module in net.named_modules(remove_duplicate=False):
        if (layer := _layer_of(path, inner, layers)) is not None:
            held[layer].update(counts.held[module])
    stored: dict[str, set[str]] = {name: set() for name in layers}
    for path, tensor in _names(counts.form):
        if (layer := _layer_of(path, inner, layers)) is not None:
            stored[layer].add(tensor)
    params = _shares(held, {key: whole for key, (whole, _) in counts.numbers.items()})
    nonzero = _shares(held, {key: some for key, (_, some) in counts.numbers.items()})
    sizes = _shares(stored, {n: t.nbytes for n, t in counts.form.tensors.items()})
    found = [
        LayerSize(
            layer=name,
            position=position,
            role=dense.role(name) or "",
            block=block_of(name) if dense.kind == "causal_lm" else None,
            rank=_rank(counts.form, inner + name),
            params_dense=sum(p.numel() for p in own),
            params=params[name],
            nonzero=nonzero[name],
            bytes_dense=sum(p.nbytes for p in own),
            bytes=sizes[name],
        )
        for position, (name, own) in enumerate(layers.items())
    ]
    return found if any(map(_is_compressed, found)) else []


def _own(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module, those of its children apart."""
    return list(module.parameters(recurse=False))


def _prefix(net: nn.Module, name: str) -> str:
    """What stands before the paths of the dense network where a layer wraps it all."""
    paths = (path for path, _ in net.named_modules() if f".{path}".endswith(f".{name}"))
    return next(paths, name).removesuffix(name)


def _layer_of(path: str, inner: str, layers: Collection[str]) -> str | None:
    """The layer that a path is, or lies beneath.

    >>> _layer_of("net.a.b.left.weight", "net.", {"a.b": 1})
    'a.b'
    """
    if not path.startswith(inner):
        return None
    parts = path.removeprefix(inner).split(".")
    beneath = (".".join(parts[:i]) for i in range(len(parts), 0, -1))
    return next((name for name in beneath if name in layers), None)


def _names(form: Description) -> Iterator[tuple[str, str]]:
    """Every name of a tensor in the network, and its name in the file.

    >>> import torch
    >>> form = Description(same={"b": "a"}, tied={"c": "a.w"})
    >>> form.tensors["a.w"] = torch.zeros(2)
    >>> sorted(_names(form))
    [('a.w', 'a.w'), ('b.w', 'a.w'), ('c', 'a.w')]
    """
    repeated: dict[str, list[str]] = {}
    for path, first in form.same.items():
        repeated.setdefault(first, []).append(path)
    for name, tensor in [*((n, n) for n in form.tensors), *form.tied.items()]:
        yield name, tensor
        parts = name.split(".")
        for i in range(1, len(parts)):
            for path in repeated.get(".".join(parts[:i]), ()):
                yield ".".join([path, *parts[i:]]), tensor


def _shares(
    held: Mapping[str, Collection[_Key]], sizes: Mapping[_Key, int]
) -> dict[str, float]:
    """The sum of the sizes of what each layer holds; what n layers hold counts 1/n.

    >>> _shares({"a": ["own", "both"], "b": ["both"]}, {"own": 1, "both": 4})
    {'a': 3.0, 'b': 2.0}
    """
    users = Counter(key for keys in held.values() for key in keys)
    return {
        layer: float(sum(sizes[key] / users[key] for key in keys))
        for layer, keys in held.items()
    }


def _rank(form: Description, path: str) -> int | None:
    """The rank that a layer of factors states in its form."""
    rank = form.layers.get(path, {}).get("spec", {}).get("rank")
    return rank if isinstance(rank, int) else None


def _is_compressed(one: LayerSize) -> bool:
    whole = (one.params_dense, one.params_dense, one.bytes_dense)
    return one.rank is not None or (one.params, one.nonzero, one.bytes) != whole
