"""A method fitted and compressed on one sample, with what it may not change checked."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.contracts import samples
from harness.core import Context, Measurement
from harness.registry import Plugin, facts
from harness.running.artifacts import seed_everything
from harness.toolkit.recipe import Recipe

RATIOS = (0.2, 0.5)


class BrokenContract(AssertionError):
    """A method does not do what every method owes; says what was found."""


def require(kept: bool, found: str) -> None:
    """Raise ``BrokenContract`` with what was found unless the contract is kept."""
    if not kept:
        raise BrokenContract(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """What the checks look at.

    Args:
        method: The configured method.
        declared: Its facts: ``ratio_of``, ``needs``, ``kinds``, ``tolerance``.
        coarse: Added to the tolerance, because the samples are small.
        sample: Name of the sample.
        ctx: The context that the method received.
        fitted: What its ``fit`` returned.
        nets: Ratio -> networks; two of the largest ratio, made with the same seed.
        notes: Ratio -> what the method recorded.
    """

    method: Any
    declared: Mapping[str, Any]
    coarse: float
    sample: str
    ctx: Context
    fitted: Any
    nets: Mapping[float, list[nn.Module]]
    notes: Mapping[float, list[Measurement]]

    @property
    def last(self) -> list[nn.Module]:
        """The networks of the largest ratio."""
        return list(self.nets.values())[-1]

    def outputs(self, net: nn.Module) -> Tensor:
        """What a network answers to the example of its model."""
        with torch.inference_mode():
            found = net(**self.ctx.model.example())
        logits: Tensor = getattr(found, "logits", found)
        return logits


def configured(plugin: Plugin, options: Mapping[str, Any]) -> Any:
    """The method with these options; its trainings last one epoch.

    Args:
        plugin: The method.
        options: What differs from the defaults.

    Returns:
        The instance.
    """
    method = plugin.build(options)
    short = {
        field.name: dataclasses.replace(recipe, epochs=1)
        for field in dataclasses.fields(method)
        if isinstance(recipe := getattr(method, field.name), Recipe)
    }
    return dataclasses.replace(method, **short)


def compress(plugin: Plugin, method: Any, sample: str, coarse: float) -> Compressed:
    """Fit a method once and compress at each ratio, as a bundle of trials does.

    Args:
        plugin: The method.
        method: Its instance; see ``configured``.
        sample: Name of the sample.
        coarse: Added to the tolerance of the achieved ratio.

    Returns:
        The networks.

    Raises:
        BrokenContract: If the method changes the model or what it fitted, leaves hooks
            behind, or returns another dtype.
    """
    ctx, declared = samples.context(sample), facts(plugin, method)
    seed_everything(0, "fit")
    with _unchanged(ctx.model.net, "fit"):
        fitted = method.fit(ctx.model, ctx) if hasattr(method, "fit") else None
    nets, notes = _networks(method, declared, ctx, fitted)
    dtype = next(ctx.model.net.parameters()).dtype
    kinds = {p.dtype for made in nets.values() for p in made[0].parameters()}
    require(
        kinds <= {dtype},
        f"parameters have the dtypes {', '.join(sorted(map(str, kinds)))}, and the "
        f"model has {dtype}",
    )
    return Compressed(
        method=method,
        declared=declared,
        coarse=coarse,
        sample=sample,
        ctx=ctx,
        fitted=fitted,
        nets=nets,
        notes=notes,
    )


def _networks(
    method: Any, declared: Mapping[str, Any], ctx: Context, fitted: Any
) -> tuple[dict[float, list[nn.Module]], dict[float, list[Measurement]]]:
    dtype = str(next(ctx.model.net.parameters()).dtype).removeprefix("torch.")
    fixed = method.ratios(dtype) if hasattr(method, "ratios") else None
    some = () if declared["ratio_of"] == "none" else (fixed or RATIOS)
    ratios = (0.0, *some)
    given = copy.deepcopy(_tensors(fitted))
    nets: dict[float, list[nn.Module]] = {}
    notes: dict[float, list[Measurement]] = {}
    for ratio in (*ratios, ratios[-1]):  # the last one twice: same seed, same network
        seed_everything(0, f"compress {ratio!r}")
        ctx.recorded.clear()
        with _unchanged(ctx.model.net, "compress"):
            net = method.compress(fitted, ratio, ctx).eval()
        nets.setdefault(ratio, []).append(net)
        notes[ratio] = list(ctx.recorded)
    found = _tensors(fitted)
    same = found.keys() == given.keys() and all(
        torch.equal(found[key], value) for key, value in given.items()
    )
    require(same, "compress changed what fit returned")
    return nets, notes


@contextmanager
def _unchanged(net: nn.Module, step: str) -> Iterator[None]:
    """Check that a network has the weights and the hooks that it had before."""
    before, hooks = copy.deepcopy(net.state_dict()), _hooks_of(net)
    yield
    after = net.state_dict()
    changed = [key for key, one in before.items() if not torch.equal(after[key], one)]
    require(not changed, f"{step} changed the dense model, first {changed[:1]}")
    require(_hooks_of(net) == hooks, f"{step} left hooks on the dense model")


def _tensors(value: Any, path: str = "") -> dict[str, Tensor]:
    """Every tensor and number in what a method fitted, by its place."""
    if isinstance(value, nn.Module):
        return _tensors(dict(value.state_dict()), path)
    if isinstance(value, Tensor):
        return {path: value}
    if isinstance(value, int | float):
        return {path: torch.tensor(value, dtype=torch.float64)}
    items: list[tuple[str, Any]] = []
    if dataclasses.is_dataclass(value):
        items = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        items = [(str(key), one) for key, one in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(index), one) for index, one in enumerate(value)]
    found: dict[str, Tensor] = {}
    for key, one in items:
        found |= _tensors(one, f"{path}/{key}")
    return found


def _hooks_of(net: nn.Module) -> int:
    """The number of hooks on all modules and parameters of a network."""
    # ``Any``: only torch knows these attributes.
    parameters: list[Any] = list(net.parameters())
    count = sum(len(p._post_accumulate_grad_hooks or ()) for p in parameters)
    for module in net.modules():
        count += len(module._forward_hooks) + len(module._forward_pre_hooks)
    return count
