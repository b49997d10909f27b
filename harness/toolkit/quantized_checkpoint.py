"""Rounded networks in the format of compressed-tensors, which runtimes read.

The format ``pack-quantized`` keeps three tensors for each linear layer of shape
``(out, in)`` with ``b`` bits a weight: ``weight_packed``, int32 of shape ``(out,
ceil(in b / 32))``, the codes without gaps, lowest bit first; ``weight_scale``, a number
for each group of a row; ``weight_shape``. With zero points there is a fourth,
``weight_zero_point``, int32 of shape ``(ceil(out b / 32), groups)``, which is packed
along the rows. A code is stored as ``code + 2^(b-1)``, and a weight is
``scale * (code - zero)``. The configuration says which layers have which form.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.core import Model
from harness.toolkit import plain_checkpoint, saved_model

PACKAGE = "compressed_tensors"
_BITS = (4, 8)


class _Rounded(Protocol):
    """What a layer called ``rounded`` has (``methods._kernels.rounded``)."""

    in_features: int
    out_features: int
    bits: int
    group_size: int
    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    order: Tensor | None
    divisors: Tensor | None
    bias: Tensor | None


def misfit(net: Any) -> str:
    """Why a network with rounded layers cannot have this form; empty if it can.

    Args:
        net: A language model of transformers.

    Returns:
        A clause that names the first layer in the way.
    """
    described = saved_model.describe(net)
    for path, entry in described.layers.items():
        if entry["layer"] != "rounded":
            return f"{path} is a layer of the kind {entry['layer']}"
        why = _layer_misfit(_rounded(net, path))
        if why:
            return f"{path} {why}"
    shared = [path for path in described.same if path in described.layers]
    if shared:
        return f"{shared[0]} is a layer that others share"
    fresh = plain_checkpoint.without_memory(net)
    for path in described.layers:
        here, there = _rounded(net, path), fresh.get_submodule(path)
        if type(there) is not nn.Linear:
            return f"{path} is a {type(there).__name__} in the class of transformers"
        if _sizes(here) != _sizes(there):
            return f"{path} has not the shape that its configuration gives"
    wanted = {n: t.shape for n, t in _others(fresh.state_dict(), described)}
    if wanted != {n: t.shape for n, t in _others(net.state_dict(), described)}:
        return "other tensors have not the shapes that its configuration gives"
    return ""


def _sizes(layer: _Rounded | nn.Linear) -> tuple[int, int, bool]:
    return layer.in_features, layer.out_features, layer.bias is None


def _layer_misfit(layer: _Rounded) -> str:
    if layer.bits not in _BITS:
        return f"has {layer.bits} bits a weight, and the form is for 4 and 8"
    if layer.order is not None:
        return "has groups of columns that are no neighbours (act_order)"
    if layer.divisors is not None and bool((layer.divisors != 1).any()):
        return "divides its columns by numbers (the scales of AWQ)"
    if layer.in_features % layer.group_size:
        return (
            f"has {layer.in_features} columns, which groups of {layer.group_size} do "
            "not divide"
        )
    return ""


def write(model: Model, folder: Path) -> str:
    """Write a network that ``misfit`` has no reason against.

    Args:
        model: A language model of transformers with rounded layers.
        folder: An empty folder, which gets weights and configuration.

    Returns:
        Empty if transformers opens the folder and computes the logits of the network,
        or if compressed-tensors is not installed here, so that this was not checked.
        Otherwise the reason, and the folder is empty again.
    """
    net: Any = model.net
    described = saved_model.describe(net)
    tensors = dict(_others(described.tensors, described))
    for path in described.layers:
        named = packed(_rounded(net, path))
        tensors |= {f"{path}.{name}": value for name, value in named.items()}
    # A copy of each: safetensors refuses tensors that share memory.
    stored = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    save_file(stored, folder / saved_model.WEIGHTS, metadata={"format": "pt"})
    config = plain_checkpoint.configuration(net)
    config.quantization_config = quantization(net, list(described.layers))
    config.save_pretrained(folder)
    net.generation_config.save_pretrained(folder)
    why = _differs(model, folder)
    if why:
        for file in folder.iterdir():
            file.unlink()
    return why


def can_check() -> bool:
    """Whether the package is installed with which transformers opens the form."""
    return importlib.util.find_spec(PACKAGE) is not None


def packed(layer: _Rounded) -> dict[str, Tensor]:
    """The tensors of one layer, under the names of the format."""
    half = 2 ** (layer.bits - 1)
    # Layers with zero points count codes from 0, as the packed words do; the others
    # have codes with a sign.
    codes, zeros = layer.codes.long(), layer.zeros
    named = {
        "weight_packed": _words(codes if zeros is not None else codes + half, layer),
        "weight_scale": layer.scales,
        "weight_shape": torch.tensor([layer.out_features, layer.in_features]),
    }
    if zeros is not None:
        named["weight_zero_point"] = _words(zeros.long().T, layer).T
    if layer.bias is not None:
        named["bias"] = layer.bias
    return named


def _words(numbers: Tensor, layer: _Rounded) -> Tensor:
    """Whole numbers from 0 to ``2^bits - 1`` in words of 32 bits, row by row."""
    each = 32 // layer.bits  # 4 and 8 bits fill a word without a rest
    rows = nn.functional.pad(numbers, (0, -numbers.shape[1] % each))
    shifts = torch.arange(each, device=numbers.device) * layer.bits
    words = (rows.unflatten(1, (-1, each)) << shifts).sum(-1)  # (rows, words), int64
    # The highest bit of a word becomes the sign.
    return words.where(words < 2**31, words - 2**32).to(torch.int32)


def quantization(net: nn.Module, paths: list[str]) -> dict[str, Any]:
    """The entry ``quantization_config`` of the configuration.

    Args:
        net: The network.
        paths: Module paths of its rounded layers.

    Returns:
        One group of layers for each number of bits, size of group and symmetry.
    """
    members: dict[tuple[Any, ...], list[str]] = {}
    for path in paths:
        layer = _rounded(net, path)
        whole_row = layer.scales.shape[1] == 1
        size = None if whole_row else layer.group_size
        members.setdefault((layer.bits, size, layer.zeros is None), []).append(path)
    groups = {}
    for number, ((bits, size, symmetric), names) in enumerate(members.items()):
        weights = {
            "num_bits": bits,
            "type": "int",
            "symmetric": symmetric,
            "strategy": "channel" if size is None else "group",
            "group_size": size,
            "dynamic": False,
        }
        # The class where all layers are equal: runtimes that fuse query, key and value
        # know it for each of their layers.
        targets = ["Linear"] if len(members) == 1 else names
        groups[f"group_{number}"] = {"targets": targets, "weights": weights}
    left = [n for n, m in net.named_modules() if isinstance(m, nn.Linear)]
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": left,
        # Transformers 5 reserves another shape than the packed one for zero points,
        # unless it unpacks each weight while it reads it.
        "dequantize": not all(symmetric for _, _, symmetric in members),
    }


def _differs(model: Model, folder: Path) -> str:
    """Why the folder is not the network; empty if it is, or if nothing can open it."""
    if not can_check():
        return ""
    from transformers import AutoModelForCausalLM

    try:
        # The package draws a bar for each of its steps.
        with contextlib.redirect_stderr(io.StringIO()):
            opened = AutoModelForCausalLM.from_pretrained(folder).eval()
            same = plain_checkpoint.agree(model, opened)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as why:
        return f"transformers cannot open it: {type(why).__name__}: {str(why)[:200]}"
    return "" if same else "transformers computes other logits from it"


def _rounded(net: nn.Module, path: str) -> _Rounded:
    return cast(_Rounded, net.get_submodule(path))


def _others(
    state: dict[str, Tensor], described: saved_model.Description
) -> Iterator[tuple[str, Tensor]]:
    """The tensors that are not below a rounded layer."""
    for name, value in state.items():
        if not any(name.startswith(f"{path}.") for path in described.layers):
            yield name, value
