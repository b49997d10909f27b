"""What a network really weighs: parameters, non-zeros, bytes, multiply-adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from harness.core import Model
from harness.toolkit import saved_model
from harness.toolkit.roles import LINEARS


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The size of one network.

    Args:
        params: Parameters and stored weight buffers, a shared one counted once.
        nonzero: Those that are not zero.
        bytes: Of the saved artifact.
        macs: Multiply-adds of one example's forward pass (FLOPs are twice as many).
    """

    params: int
    nonzero: int
    bytes: int
    macs: int


def size(model: Model) -> Size:
    """Weigh a model's network.

    Args:
        model: Its ``net`` is counted, its ``example`` runs once.

    Returns:
        The four counts.
    """
    weights = list(_weights(model.net))
    return Size(
        params=sum(w.numel() for w in weights),
        nonzero=sum(int(torch.count_nonzero(w)) for w in weights),
        bytes=saved_model.saved_bytes(model.net),
        macs=macs(model),
    )


def _weights(net: nn.Module) -> list[torch.Tensor]:
    """Parameters once each, and what layers store instead of them."""
    found: dict[int, torch.Tensor] = {}
    for module in net.modules():
        own = dict(module.named_parameters(recurse=False))
        stored = getattr(module, "weights", None)
        if callable(stored):  # a layer of ours that stores integers or k of n values
            own = stored()
        for tensor in own.values():
            found[id(tensor)] = tensor
    return list(found.values())


def achieved(
    ratio_of: str,
    dense: Model,
    net: nn.Module,
    sizes: tuple[Size, Size],
) -> float | None:
    """What share a method really removed of what its ratio speaks of.

    Args:
        ratio_of: As the method declares it.
        dense: Its roles name the matrices that a method may have treated.
        net: The compressed network.
        sizes: Of the dense and of the compressed network.

    Returns:
        The share; None where only the method can know (tracked weights).
    """
    before, after = sizes
    if ratio_of == "bits":
        return share_of_bits(dense, net)
    if ratio_of in ("weights", "zeros"):
        treated = treated_weights(dense)
        counted = "params" if ratio_of == "weights" else "nonzero"
        removed = getattr(before, counted) - getattr(after, counted)
        return removed / treated if treated else 0.0
    whole = {"parameters": "params", "none": "params", "macs": "macs"}
    if ratio_of not in whole:
        return None
    counts = [getattr(size, whole[ratio_of]) for size in sizes]
    return 1 - counts[1] / counts[0] if counts[0] else None


def treated_weights(dense: Model) -> int:
    """How many weights a ratio of weights is a share of.

    Args:
        dense: The dense model.

    Returns:
        Elements of the parameters called ``weight...`` in the matrices that low rank
        treats: all of them, also those that an allocation of ranks leaves dense.
    """
    return sum(
        p.numel()
        for _, module in dense.modules(*LINEARS)
        for name, p in module.named_parameters(recurse=False)
        if name.startswith("weight")
    )


def share_of_bits(dense: Model, net: nn.Module) -> float:
    """The share of bits that a compressed network saves in the matrices it changed.

    Args:
        dense: The dense model; only modules with a role count.
        net: The compressed network.

    Returns:
        1 - stored bytes / dense bytes, scales and biases included; 0 if none changed.
    """
    pairs = _changed(dense, net)
    before = sum(saved_model.saved_bytes(old, header=False) for old, _ in pairs)
    after = sum(saved_model.saved_bytes(new, header=False) for _, new in pairs)
    return 1 - after / before if before else 0.0


def _changed(dense: Model, net: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Modules with a role whose tensors differ, as they were and as they are."""
    there = dict(net.named_modules())
    found = []
    for name, old in dense.modules():
        new = there.get(name)
        if new is None or not list(old.parameters(recurse=False)):
            continue
        before, after = old.state_dict(), new.state_dict()
        same = before.keys() == after.keys() and all(
            torch.equal(before[k], after[k].to(before[k].device)) for k in before
        )
        if not same:
            found.append((old, new))
    return found


class _Counter(TorchDispatchMode):
    """Adds up torch's own formula of each operator that has one.

    What ``torch.utils.flop_counter.FlopCounterMode`` counts, without its tracking of
    modules and without the import of torch's compiler, which costs each worker 2 s.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:
                parts = func.decompose(*args, **named)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **named)
        if formula is not None:
            self.flops += formula(*args, **named, out_val=out)
        return out


@torch.no_grad()
def macs(model: Model) -> int:
    """Multiply-adds of one forward pass of ``model.example()``.

    Counted at the level of torch's operators, so that matrix products inside attention
    count and no layer can be forgotten; biases and element-wise work don't. A network
    whose work depends on the input (early exits) reports its own average through a
    method ``average_macs()``.

    Args:
        model: The model.

    Returns:
        Whole multiply-adds.
    """
    own = getattr(model.net, "average_macs", None)
    if own is not None:
        return int(own())
    device = next((p.device for p in model.net.parameters()), torch.device("cpu"))
    example = {
        k: v.to(device) if isinstance(v, torch.Tensor) else v
        for k, v in model.example().items()
    }
    counter = _Counter()
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its one operator has no formula
    try:
        # The fused kernels have a formula on some devices only; plain products on all.
        with sdpa_kernel(SDPBackend.MATH), counter:
            model.net(**example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.flops // 2
