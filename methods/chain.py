"""Methods one after the other, as one method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from harness.core import BenchError, Context, Model
from harness.registry import Plugin, facts, find, method, resolve


@dataclass(frozen=True, slots=True)
class Member:
    """One configured method of a chain.

    Args:
        plugin: Its plugin.
        instance: The plugin with its options.
        ratio: Its own ratio; None where it takes that of the trial.
    """

    plugin: Plugin
    instance: Any
    ratio: float | None


@method("chain", ratio_of="weights")
class Chain:
    """Each method compresses what the one before made.

    One member takes the trial's ratio. The others fix theirs, by themselves as
    ``round_to_nearest`` does or by ``ratio`` in their entry. The first member is fitted
    once for all ratios, later ones to each network they get; calibration statistics
    are those of the dense model.

    Args:
        chain: Names, or mappings with ``name``, options, and perhaps ``ratio``.
    """

    chain: tuple[Any, ...]

    def __post_init__(self) -> None:
        """Build the members once, to find mistakes before anything runs.

        Raises:
            BenchError: If a member is unknown, or not exactly one takes the ratio.
        """
        free = [m.plugin.name for m in self.members() if m.ratio is None]
        if len(free) > 1:
            raise BenchError(
                f"of a chain one method takes the ratio, not {' and '.join(free)}: "
                "give the others a fixed one, as in {name: svd, ratio: 0.1}"
            )

    def members(self) -> list[Member]:
        """The configured methods, in order.

        Returns:
            One member an entry.

        Raises:
            BenchError: If the chain is empty or an entry is none.
        """
        if not self.chain:
            raise BenchError("a chain needs at least one method")
        return [_member(entry) for entry in self.chain]

    def facts(self) -> dict[str, Any]:
        """Needs of all members, kinds that all treat, the ratio of the free one."""
        found = [(m, facts(m.plugin, m.instance)) for m in self.members()]
        lead = next((f for m, f in found if m.ratio is None), found[0][1])
        return {
            **find("method", "chain").facts,
            "ratio_of": lead["ratio_of"],
            "tolerance": lead["tolerance"],
            "needs": frozenset().union(*(f["needs"] for _, f in found)),
            "kinds": frozenset.intersection(*(f["kinds"] for _, f in found)),
            "stochastic": any(f["stochastic"] for _, f in found),
        }

    def ratios(self) -> tuple[float, ...] | None:
        """None where a member takes the trial's ratio, else the first one's own."""
        fixed = [m.ratio for m in self.members()]
        return None if None in fixed else (fixed[0] or 0.0,)

    def fit(self, model: Model, ctx: Context) -> Any:
        """What the first member fits."""
        return _fit(self.members()[0], model, ctx)

    def compress(self, fitted: Any, ratio: float, ctx: Context) -> nn.Module:
        """The network that the last member makes; ratio 0 is the dense one."""
        if ratio == 0:
            return ctx.dense()
        net: nn.Module | None = None
        for member in self.members():
            here = ctx
            if net is not None:
                here = replace(ctx, model=ctx.model.with_net(net.eval()))
                fitted = _fit(member, here.model, here)
            own = ratio if member.ratio is None else member.ratio
            net = member.instance.compress(fitted, own, here)
        assert net is not None
        return net


def _fit(member: Member, model: Model, ctx: Context) -> Any:
    fit = getattr(member.instance, "fit", None)
    return None if fit is None else fit(model, ctx)


def _member(entry: Any) -> Member:
    options: Any = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(options, Mapping) or "name" not in options:
        raise BenchError(f"{entry!r} in a chain is neither a name nor has one")
    rest = {k: v for k, v in options.items() if k not in ("name", "ratio")}
    plugin, implied = resolve("method", options["name"])
    instance = plugin.build({**implied, **rest})
    own = getattr(instance, "ratios", None)
    fixed = own() if own is not None else None
    ratio = options.get("ratio", fixed[0] if fixed else None)
    if ratio is not None and not 0 <= ratio < 1:
        raise BenchError(
            f"ratio {ratio!r} of {plugin.name} in a chain is not in [0, 1)"
        )
    return Member(plugin, instance, ratio)
