"""What a network really weighs: parameters, non-zeros, bytes, multiply-adds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from harness.core import Model
from harness.toolkit import experts, saved_model
from harness.toolkit.roles import LINEARS, TOWER, block_of


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a network holds, module by module.

    Args:
        numbers: Tensor -> its numbers, and those of them that are not zero.
        held: Module -> its own tensors, those of its children apart.
        form: The tensors of the saved network.
    """

    numbers: Mapping[int, tuple[int, int]]
    held: Mapping[nn.Module, Sequence[int]]
    form: saved_model.Description


def size(model: Model, counts: Counts | None = None) -> Size:
    """Weigh a model's network.

    Args:
        model: Its ``net`` is counted, its ``example`` runs once.
        counts: Of the network, where they are known already.

    Returns:
        The four counts.
    """
    counts = counts or count(model.net)
    return Size(
        params=sum(whole for whole, _ in counts.numbers.values()),
        nonzero=sum(nonzero for _, nonzero in counts.numbers.values()),
        bytes=saved_model.saved_bytes(counts.form),
        macs=macs(model),
    )


def count(net: nn.Module) -> Counts:
    """Count the parameters of each module, and what layers store instead of them.

    Args:
        net: Dense or compressed.

    Returns:
        The counts; a tied weight is one tensor, which several modules may hold.
    """
    # Tensors are told apart by identity, so that each must live until the end.
    found: dict[int, torch.Tensor] = {}
    held: dict[nn.Module, list[int]] = {}
    for module in net.modules():
        own = dict(module.named_parameters(recurse=False))
        stored = getattr(module, "weights", None)
        if callable(stored):  # a layer of ours that stores integers or k of n values
            own = stored()
        held[module] = [id(tensor) for tensor in own.values()]
        found |= {id(tensor): tensor for tensor in own.values()}
    numbers = {
        key: (tensor.numel(), int(torch.count_nonzero(tensor)))
        for key, tensor in found.items()
    }
    return Counts(numbers=numbers, held=held, form=saved_model.describe(net))


# What a ratio can speak of that `achieved` counts in a network.
COUNTED = frozenset({"bits", "weights", "zeros", "parameters", "none", "macs"})


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
        net: The compressed network to measure.
        sizes: Of the dense and of the compressed network.

    Returns:
        The share; None where only the method can know (tracked weights).
    """
    if ratio_of not in COUNTED:
        return None
    before, after = sizes
    # Bits are those of the file, which packed layers decide.
    if ratio_of == "bits":
        return share_of_bits(dense, net)
    if ratio_of in ("weights", "zeros"):
        whole = ratio_base(dense)
        counted = "params" if ratio_of == "weights" else "nonzero"
        # The share of the matrices that the ratio speaks of, not of the whole network
        # with its embeddings.
        removed = getattr(before, counted) - getattr(after, counted)
        return removed / whole if whole else 0.0
    column = "macs" if ratio_of == "macs" else "params"
    counts = [getattr(size, column) for size in sizes]
    return 1 - counts[1] / counts[0] if counts[0] else None


def ratio_base(dense: Model) -> int:
    """The number of weights that a ratio of weights is a share of.

    Args:
        dense: The dense model before compression.

    Returns:
        For a language model, all its block weights, with a role or not. For another
        model, the parameters called ``weight...`` of every matrix with a role, also of
        those that an allocation of ranks leaves dense.
    """
    if dense.kind == "causal_lm":
        return sum(weight.numel() for _, weight in block_weights(dense))
    return sum(
        p.numel()
        for _, module in dense.modules(*LINEARS)
        for name, p in module.named_parameters(recurse=False)
        if name.startswith("weight")
    )


def block_weights(model: Model) -> Iterator[tuple[str, nn.Parameter]]:
    """The matrices in the blocks of a language model, each shared one once.

    Embeddings, the head and the towers that read images or sound are no part of a
    block; vectors (biases, norms) are no matrices.

    Args:
        model: A language model; its network may be on torch's meta device.

    Yields:
        Name and parameter, of two dimensions or more.
    """
    seen: set[int] = set()
    for path, module in model.net.named_modules():
        if isinstance(module, nn.Embedding) or block_of(path) is None:
            continue
        if re.match(TOWER, f"{path}."):
            continue
        for name, weight in module.named_parameters(recurse=False):
            if weight.ndim >= 2 and id(weight) not in seen:
                seen.add(id(weight))
                yield f"{path}.{name}", weight


def reads_roles(method: Mapping[str, Any]) -> bool:
    """Whether a method treats the modules of a language model by their roles.

    Args:
        method: Facts that the method declares.

    Returns:
        True for methods that need ``linears``, and for masks over weights.
    """
    return "linears" in method["needs"] or method["ratio_of"] == "zeros"


def coverage(model: Model) -> float | None:
    """The share of a language model's block weights that belong to a known role.

    Methods treat the modules with a role and leave all others dense: routers, state
    spaces, and the matrices of families without roles.

    Args:
        model: The dense model; its network may be on torch's meta device.

    Returns:
        In [0, 1], 0 where no matrix has a role; None for other kinds of model.
    """
    if model.kind != "causal_lm":
        return None
    weights = dict(block_weights(model))
    whole = sum(w.numel() for w in weights.values())
    known = treated(model)
    counted = (w.numel() for n, w in weights.items() if n.rpartition(".")[0] in known)
    return sum(counted) / whole if whole else 0.0


def treated(model: Model) -> set[str]:
    """Paths of the modules whose matrices have a role.

    Args:
        model: The dense model; its network may be on torch's meta device, where the
            experts of a mixture are not split.

    Returns:
        Module paths; that of all experts of a block where they are one module.
    """
    return {path for path, _ in model.modules(*LINEARS)} | {
        path
        for path, module in model.net.named_modules()
        if experts.is_fused(module) and model.role(f"{path}.0.down_proj")
    }


def single_roles(model: Model) -> set[str]:
    """The roles of which each block of a language model has exactly one matrix.

    Args:
        model: The dense model; its network may be on torch's meta device.

    Returns:
        Roles; none of an MLP where a block has several experts.
    """
    blocks: dict[int | None, Counter[str]] = {}
    for path, module in model.net.named_modules():
        first = f"{path}.0.down_proj" if experts.is_fused(module) else path
        if (role := model.role(first)) and block_of(path) is not None:
            many = 2 if experts.is_fused(module) else 1
            blocks.setdefault(block_of(path), Counter())[role] += many
    found = [{role for role, n in one.items() if n == 1} for one in blocks.values()]
    return set.intersection(*found) if found else set()


def share_of_bits(dense: Model, net: nn.Module) -> float:
    """The share of bits that a compressed network saves.

    Args:
        dense: The dense model; only modules with a role count.
        net: The compressed network to measure.

    Returns:
        1 - stored bytes / dense bytes of the matrices that changed, scales and biases
        included, and of a language model's other block weights; 0 if none changed.
    """
    pairs = _changed(dense, net)
    before = sum(saved_model.saved_bytes(old, header=False) for old, _ in pairs)
    after = sum(saved_model.saved_bytes(new, header=False) for _, new in pairs)
    if not before:
        return 0.0
    # ``left`` counts in both: block weights that were not changed are still stored.
    return 1 - (after + (left := _left(dense, pairs))) / (before + left)


def _left(dense: Model, pairs: list[tuple[nn.Module, nn.Module]]) -> int:
    """Bytes of the block weights of a language model that no changed module holds."""
    if dense.kind != "causal_lm":
        return 0
    changed = {id(p) for old, _ in pairs for p in old.parameters()}
    return sum(
        w.numel() * w.element_size()
        for _, w in block_weights(dense)
        if id(w) not in changed
    )


def _changed(dense: Model, net: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Modules with a role whose tensors differ, as they were and as they are."""
    there = dict(net.named_modules())
    found = []
    for name, old in dense.modules():
        new = there.get(name)
        if new is None or not list(old.parameters(recurse=False)):
            continue
        before, after = old.state_dict(), new.state_dict()
        # By content, since a compressed network is a copy: no tensor keeps its
        # identity.
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
        # A composite operator is split into parts, which come back to this method.
        if formula is None:
            with self:
                parts = func.decompose(*args, **named)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **named)
        if formula is not None:
            self.flops += formula(*args, **named, out_val=out)
        return out


def _as(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """An input where the weights are; images also in their dtype, tokens as whole."""
    both = value.is_floating_point() and like.is_floating_point()
    return value.to(like.device, like.dtype if both else value.dtype)


@torch.no_grad()
def macs(model: Model) -> int:
    """Multiply-adds of one forward pass of ``model.example()``.

    Counted at the level of torch's operators, so that matrix products inside attention
    count and no layer can be forgotten; biases and element-wise work don't. A network
    whose work depends on the input (early exits) reports its own average over
    validation data through a method ``average_macs()``; None counts the example.

    Args:
        model: Model with an example input.

    Returns:
        Whole multiply-adds.
    """
    own = getattr(model.net, "average_macs", None)
    average = None if own is None else own()
    if average is not None:
        return int(average)
    # A network without parameters counts on the CPU.
    like = next(model.net.parameters(), torch.zeros(()))
    example = {
        k: _as(v, like) if isinstance(v, torch.Tensor) else v
        for k, v in model.example().items()
    }
    counter = _Counter()
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its one operator has no formula
    try:
        # The fused kernels have a formula on some devices only; plain products on all.
        # So does cuDNN's recurrent kernel, which has none.
        plain = torch.backends.cudnn.flags(enabled=False)
        with plain, sdpa_kernel(SDPBackend.MATH), counter:
            model.net(**example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    # torch counts a multiplication and an addition as two operations.
    return counter.flops // 2
