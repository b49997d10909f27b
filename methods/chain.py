"""Several methods in sequence, as one method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from harness.core import BenchError, Context, Measurement, Model
from harness.registry import Plugin, facts, find, method, resolve
from harness.toolkit.model_size import COUNTED
from methods._kernels.low_rank.factors import matrix
from methods._kernels.masks import prunable


@dataclass(frozen=True, slots=True)
class Member:
    """One configured method of a chain.

    Args:
        plugin: The plugin of the method.
        instance: The plugin built with its options.
        ratio: The ratio fixed by the entry or by the method; None if the member takes
            the ratio of the trial.
    """

    plugin: Plugin
    instance: Any
    ratio: float | None


@method("chain", ratio_of="weights")
class Chain:
    """Applies several methods in sequence, each to the result of the one before.

    With members ``m_1 ... m_n`` and a network N, the result is
    ``m_n(... m_2(m_1(N)))``, for example a low-rank method followed by rounding to 8
    bits. At most one member takes the ratio of the trial, and the ratio of the chain is
    a share of what that member counts. The others have a fixed ratio, either by
    themselves, as ``round_to_nearest``, or from ``ratio`` in their entry. A ratio is a
    share of the network that the member gets; what was achieved is a share of the dense
    network, so that it is larger than the ratio where an earlier member removed some of
    the same. Other metrics that a member records, such as ``macs_saved`` of early exits
    and the weight energies of DropBack, stay shares of the network that the member got.
    The first member is fitted once for all ratios, the later ones to each network that
    they get.
    Calibration statistics are those of the dense model. Ratio 0 is the dense network.

    It has no default members, and it is not from a paper.

    Args:
        chain: The members in order: names of methods, or mappings with ``name``, the
            options of the method, and optionally ``ratio``.
    """

    chain: tuple[Any, ...]

    def __post_init__(self) -> None:
        """Build the members once, to report errors before anything runs.

        Raises:
            BenchError: If a member is unknown, or not exactly one takes the ratio.
        """
        free = [m.plugin.name for m in self.members() if m.ratio is None]
        if len(free) > 1:
            raise BenchError(
                f"one method of a chain takes the ratio, not {' and '.join(free)}: "
                "give the others a fixed one, as in {name: svd, ratio: 0.1}"
            )

    def members(self) -> list[Member]:
        """The configured methods, in order.

        Returns:
            One member for each entry.

        Raises:
            BenchError: If the chain is empty or an entry does not name a method.
        """
        if not self.chain:
            raise BenchError("a chain needs at least one method")
        return [_member(entry) for entry in self.chain]

    def facts(self) -> dict[str, Any]:
        """Needs of all members, kinds that all treat, the ratio of the free member."""
        found = [(m, facts(m.plugin, m.instance)) for m in self.members()]
        # The ratio of the chain means what it means for the member that takes it.
        lead = next((f for m, f in found if m.ratio is None), found[0][1])
        return {
            **find("method", "chain").facts,
            "ratio_of": lead["ratio_of"],
            "tolerance": lead["tolerance"],
            "needs": frozenset().union(*(f["needs"] for _, f in found)),
            "kinds": frozenset.intersection(*(f["kinds"] for _, f in found)),
            "stochastic": any(f["stochastic"] for _, f in found),
        }

    def ratios(self, dtype: str = "float32") -> tuple[float, ...] | None:
        """None where a member takes the trial's ratio, else the first member's own."""
        members = self.members()
        if any(m.ratio is None for m in members):
            return None
        first, own = members[0], getattr(members[0].instance, "ratios", None)
        # A method that has `ratios` may still leave the ratio open: None.
        found = None if own is None else own(dtype)
        return (first.ratio or 0.0,) if found is None else found

    def fit(self, model: Model, ctx: Context) -> Any:
        """The result of the first member's ``fit``."""
        return _fit(self.members()[0], model, ctx)

    def compress(self, fitted: Any, ratio: float, ctx: Context) -> nn.Module:
        """The network that the last member returns; the dense one at ratio 0."""
        if ratio == 0:
            return ctx.dense()
        net: nn.Module | None = None
        # Members may record the same metric; that of the last one describes the result.
        recorded: dict[tuple[str, int | None], Measurement] = {}
        members = self.members()
        # The ratio of the chain means what it means for the member that takes it.
        lead = next((i for i, m in enumerate(members) if m.ratio is None), 0)
        for place, member in enumerate(members):
            # A list of its own, so that the records of each member can be merged.
            here = replace(ctx, recorded=[])
            # The first member was fitted by `fit`, on the dense network. The dense
            # network of every later one is the result so far.
            if net is not None:
                here = replace(here, model=ctx.model.with_net(net.eval()))
                fitted = _fit(member, here.model, here)
            own = ratio if member.ratio is None else member.ratio
            net = member.instance.compress(fitted, own, here)
            # Another member records a share of the network that it got.
            recorded |= {
                (one.metric, one.step): one
                for one in here.recorded
                if one.metric != "achieved_ratio" or place == lead
            }
        assert net is not None
        share = ("achieved_ratio", None)
        ratio_of = self.facts()["ratio_of"]
        # A share of a network that was compressed already; or zeros that a later member
        # may have filled. Both are counted in the result, against the dense network.
        if ratio_of == "zeros" or (lead and ratio_of in COUNTED):
            recorded.pop(share, None)
        if ratio_of == "zeros" and ctx.model.kind != "causal_lm":
            zeros = Measurement(metric="achieved_ratio", value=_zeros(ctx, net))
            recorded[share] = zeros
        ctx.record(*recorded.values())
        return net


def _zeros(ctx: Context, net: nn.Module) -> float:
    """The share of the dense network's weights that are zero or gone."""
    whole, left = (
        [matrix(module) for _, module in prunable(ctx.model, one)]
        for one in (ctx.model.net, net)
    )
    kept = sum(int(weight.count_nonzero()) for weight in left)
    return 1 - kept / sum(weight.numel() for weight in whole)


def _fit(member: Member, model: Model, ctx: Context) -> Any:
    fit = getattr(member.instance, "fit", None)
    return None if fit is None else fit(model, ctx)


def _member(entry: Any) -> Member:
    options: Any = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(options, Mapping) or "name" not in options:
        raise BenchError(
            f"{entry!r} in a chain is neither a name nor has one: write svd or "
            "{name: svd, ratio: 0.1}"
        )
    rest = {k: v for k, v in options.items() if k not in ("name", "ratio")}
    plugin, implied = resolve("method", options["name"])
    instance = plugin.build({**implied, **rest})
    own = getattr(instance, "ratios", None)
    # A method with a single ratio of its own (8 bits, a pattern 2:4) needs no `ratio`
    # in its entry.
    fixed = own() if own is not None else None
    ratio = options.get("ratio", fixed[0] if fixed else None)
    if ratio is not None and not 0 <= ratio < 1:
        raise BenchError(
            f"ratio {ratio!r} of {plugin.name} in a chain is not in [0, 1)"
        )
    return Member(plugin, instance, ratio)
