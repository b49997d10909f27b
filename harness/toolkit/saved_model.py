"""Compressed networks as files: safetensors, and JSON to rebuild them from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.core import BenchError, Model
from harness.registry import discover, resolve
from harness.toolkit import host_memory
from harness.toolkit.tensor_files import read_tensors
from harness.toolkit.untrusted import BROKEN, MAX_REASON, Budget, read_form

FORMAT = 1
WEIGHTS, STRUCTURE = "model.safetensors", "structure.json"

_CONV: tuple[str, ...] = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
)
_CONV += ("dilation", "groups", "padding_mode")
_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
# Standard modules that methods may resize, with the attributes that their
# constructors take under the same names.
_SIZED: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("in_features", "out_features"),
    nn.Embedding: ("num_embeddings", "embedding_dim", "padding_idx"),
    nn.Conv1d: _CONV,
    nn.Conv2d: _CONV,
    nn.BatchNorm1d: _NORM,
    nn.BatchNorm2d: _NORM,
}
# safetensors lays tensors out by this order, last first, then by name.
_DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}


@runtime_checkable
class _Packs(Protocol):
    """A layer whose file holds other tensors than its state dict."""

    def pack(self) -> dict[str, Tensor]:
        """What the file holds."""

    def unpack(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what ``pack`` gave."""


L = TypeVar("L", bound=type[nn.Module])
_layers: dict[str, type[nn.Module]] = {}


def layer(name: str) -> Callable[[L], L]:
    """Register a module class that compressed networks contain.

    The class has ``spec() -> dict``, the JSON keyword arguments of its constructor.
    It may have ``pack() -> dict[str, Tensor]`` and ``unpack(tensors)`` where what is
    stored differs from its state dict. A class method ``wrap(module, **spec)`` is
    called instead of the constructor, with the module that stood at its place.

    Args:
        name: As ``structure.json`` writes it; never changed once files exist.

    Returns:
        The class decorator.
    """

    def register(cls: L) -> L:
        _layers[name] = cls
        cls.layer_name = name  # type: ignore[attr-defined]
        return cls

    return register


@dataclass(slots=True)
class Description:
    """What ``structure.json`` says of a network, and the tensors beside it."""

    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    sizes: dict[str, dict[str, Any]] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)  # module path -> first path
    tied: dict[str, str] = field(default_factory=dict)  # tensor name -> first name
    tensors: dict[str, Tensor] = field(default_factory=dict)


def saved_bytes(net: nn.Module | Description, *, header: bool = True) -> int:
    """Exact size of the safetensors file that ``save`` would write, without writing it.

    Shared tensors count once; packed layers count as packed. Works on torch's meta
    device.

    Args:
        net: Network whose tensors are counted, or what ``describe`` says of it.
        header: Whether to count the file's header, or the tensors alone.

    Returns:
        Bytes.
    """
    # Offsets have digits, so that the length of the header depends on the layout.
    order = list(_DTYPES)
    tensors = (describe(net) if isinstance(net, nn.Module) else net).tensors
    listed: dict[str, Any] = {}
    offset = 0
    for name in sorted(tensors, key=lambda n: (-order.index(tensors[n].dtype), n)):
        value = tensors[name]
        end = offset + value.numel() * value.element_size()
        listed[name] = {
            "dtype": _DTYPES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    if not header:
        return offset
    # 8 bytes of length, the header filled up to a multiple of 8 with blanks, the data.
    text = json.dumps(listed, separators=(",", ":"), ensure_ascii=False)
    return 8 + -(-len(text.encode()) // 8) * 8 + offset


def save(model: Model, origin: Mapping[str, Any], folder: Path) -> None:
    """Write a network as ``model.safetensors`` and ``structure.json``.

    Args:
        model: What to save, with its compressed network.
        origin: ``model`` (name in a grid), ``options``, ``revision`` and ``shape`` (of
            the training data, None for a pretrained model).
        folder: Folder to write to; created if it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    form = describe(model.net)
    save_file(_owned(form.tensors), folder / WEIGHTS)
    plugin = _plugin(origin)
    if hasattr(plugin, "save_skeleton"):
        plugin.save_skeleton(model, folder)
    text = {
        "format": FORMAT,
        "origin": dict(origin),
        "layers": form.layers,
        "sizes": form.sizes,
        "same": form.same,
        "tied": form.tied,
    }
    (folder / STRUCTURE).write_text(json.dumps(text, indent=1) + "\n")


def load(folder: Path) -> Model:
    """Rebuild what ``save`` wrote, to equal outputs.

    Args:
        folder: As given to ``save``.

    Returns:
        The model, in eval mode, on the CPU.

    Raises:
        BenchError: If the folder holds no saved network, or one of a newer format.
    """
    path = folder / STRUCTURE
    if not path.is_file() or not (folder / WEIGHTS).is_file():
        raise BenchError(
            f"{folder} holds no saved network: it needs {STRUCTURE} and {WEIGHTS}, "
            "as `shrinkgrid save-model TRIAL DIR` writes them"
        )
    try:
        form = read_form(path, FORMAT)
        parts = len(form["layers"]) + len(form["sizes"])
        with Budget((folder / WEIGHTS).stat().st_size, str(path), parts):
            skeleton = _skeleton(form["origin"], folder)
            net = _rebuilt(skeleton.net, form)
        _fill(net, form, read_tensors(folder / WEIGHTS))
    except BROKEN as why:
        raise BenchError(
            f"{folder} holds no network that can be rebuilt: {type(why).__name__}: "
            f"{str(why)[:MAX_REASON]}; save it again with `shrinkgrid save-model`"
        ) from why
    return skeleton.with_net(net.eval())


def replace(net: nn.Module, path: str, new: nn.Module) -> nn.Module:
    """Put ``new`` in the place of the module at ``path``; gives the network back.

    Args:
        net: Changed in place, unless ``path`` is empty.
        path: Dotted, as in ``named_modules``; empty for the network itself.
        new: Module that takes the old module's path.

    Returns:
        ``net``, or ``new`` where the whole network is replaced.
    """
    if not path:
        return new
    host_memory.settle(net, path, new)
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, new)
    return net


def describe(net: nn.Module) -> Description:
    """Which layers stand where, which sizes modules have, and which tensors are shared.

    Args:
        net: Any network, also with layers of ``layer`` and with tied weights.

    Returns:
        The description; its tensors are those that a file holds.
    """
    form, first = Description(), dict[int, str]()
    packs: dict[str, _Packs] = {}
    for path, module in net.named_modules(remove_duplicate=False):
        if id(module) in first:
            if not _beneath(path, form.same):
                form.same[path] = first[id(module)]
            continue
        first[id(module)] = path
        name = _layers_name(module)
        if name:
            spec: dict[str, Any] = module.spec()
            form.layers[path] = {"layer": name, "spec": spec}
            if isinstance(module, _Packs):
                packs[path] = module
        elif type(module) in _SIZED:
            form.sizes[path] = _sizes(module)
    _collect(net, packs, form)
    return form


def _collect(net: nn.Module, packs: Mapping[str, _Packs], form: Description) -> None:
    """Fill ``form`` with every tensor once; the others are named as tied to it."""
    named = {
        name: value
        for name, value in net.state_dict(keep_vars=True).items()
        if isinstance(value, Tensor) and not _beneath(name, packs)
    }
    for path, module in packs.items():
        prefix = f"{path}." if path else ""
        named |= {prefix + key: value for key, value in module.pack().items()}
    seen: dict[tuple[Any, ...], str] = {}
    for name, value in named.items():
        if _beneath(name, form.same):
            continue
        place = (
            value.untyped_storage()._cdata,  # the same memory: tied
            value.storage_offset(),
            value.shape,
            value.stride(),
        )
        if place in seen:
            form.tied[name] = seen[place]
        else:
            seen[place] = name
            form.tensors[name] = value.detach()


def _beneath(name: str, paths: Mapping[str, Any]) -> bool:
    """Whether ``name`` is one of ``paths`` or lies under one of them.

    >>> _beneath("a.b.weight", {"a.b": 1}), _beneath("a.bc", {"a.b": 1})
    (True, False)
    """
    parts = name.split(".")
    return any(".".join(parts[:i]) in paths for i in range(len(parts) + 1))


def _layers_name(module: nn.Module) -> str | None:
    name = vars(type(module)).get("layer_name")
    return name if name in _layers else None


def _sizes(module: nn.Module) -> dict[str, Any]:
    """The constructor's arguments of a standard module."""
    sizes = {key: getattr(module, key) for key in _SIZED[type(module)]}
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        sizes["bias"] = module.bias is not None
    return {k: list(v) if isinstance(v, tuple) else v for k, v in sizes.items()}


def _owned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors of which no two share memory, as safetensors wants them."""
    storages: set[int] = set()
    owned = {}
    for name, value in tensors.items():
        storage = value.untyped_storage()._cdata
        whole = value.is_contiguous() and storage not in storages
        storages.add(storage)
        owned[name] = value.cpu() if whole else value.cpu().contiguous().clone()
    return owned


def _plugin(origin: Mapping[str, Any]) -> Any:
    plugin, implied = resolve("model", origin["model"])
    return plugin.build({**implied, **origin["options"]})


def _skeleton(origin: Mapping[str, Any], folder: Path) -> Model:
    """The model that the compressed one was made from; its weights are ignored."""
    plugin = _plugin(origin)
    if hasattr(plugin, "skeleton"):
        made: Model = plugin.skeleton(folder)
    else:
        made = plugin.build(origin["shape"], 0)
    return made


def _rebuilt(net: nn.Module, form: Mapping[str, Any]) -> nn.Module:
    """Replace and resize modules, parents before their children."""
    if any(entry["layer"] not in _layers for entry in form["layers"].values()):
        discover("method")  # the classes live beside the methods that need them
    places = {**form["layers"], **form["sizes"]}
    for path in sorted(places, key=lambda p: p.count(".") + bool(p)):
        entry = places[path]
        if "layer" in entry:
            if entry["layer"] not in _layers:
                raise BenchError(
                    f"no layer called {entry['layer']!r} here: install the package "
                    "whose method made this network"
                )
            cls = _layers[entry["layer"]]
            make: Any = cls
            if hasattr(cls, "wrap"):  # a layer around the module that stood there
                make = partial(cls.wrap, net.get_submodule(path))
            net = replace(net, path, make(**entry["spec"]))
            continue
        module = net.get_submodule(path)
        if _sizes(module) != entry:
            net = replace(net, path, type(module)(**entry))
    for path, first in form["same"].items():
        net = replace(net, path, net.get_submodule(first))
    return net


def _fill(net: nn.Module, form: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    packs = {
        path: module
        for path, module in net.named_modules()
        if path in form["layers"] and isinstance(module, _Packs)
    }
    for path, module in packs.items():
        prefix = f"{path}." if path else ""
        own = [name for name in tensors if name.startswith(prefix)]
        own += [name for name in form["tied"] if name.startswith(prefix)]
        module.unpack({n[len(prefix) :]: tensors[form["tied"].get(n, n)] for n in own})
    state = {n: t for n, t in tensors.items() if not _beneath(n, packs)}
    state |= {
        name: tensors[first]
        for name, first in form["tied"].items()
        if not _beneath(name, packs)
    }
    for name in net.state_dict():  # a shared module is in the file once
        if name not in state and (first := _first(name, form["same"])):
            state[name] = tensors[form["tied"].get(first, first)]
    missing, unexpected = net.load_state_dict(state, strict=False, assign=True)
    wrong = [n for n in missing if not _beneath(n, packs)] + unexpected
    if wrong:
        raise BenchError(
            f"{WEIGHTS} and {STRUCTURE} do not belong together: {', '.join(wrong[:5])}"
        )
    for name, first in form["tied"].items():
        if not _beneath(name, packs) and not _beneath(first, packs):
            owner, _, leaf = name.rpartition(".")
            source, _, value = first.rpartition(".")
            setattr(
                net.get_submodule(owner),
                leaf,
                getattr(net.get_submodule(source), value),
            )


def _first(name: str, same: Mapping[str, str]) -> str | None:
    """The name under which the file holds a tensor of a module that is shared."""
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        path = ".".join(parts[:i])
        if path in same:
            return ".".join([same[path], *parts[i:]])
    return None
