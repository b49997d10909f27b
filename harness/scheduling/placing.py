"""On how many devices of a cluster the methods of a plan fit, and for how long."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from harness.planning.plan import Bundle, trained
from harness.planning.trial import PluginSpec
from harness.registry import find
from harness.scheduling.hardware import CPU
from harness.scheduling.interval import Interval
from harness.scheduling.packing import USABLE, Packer


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """All bundles of one method on one model.

    Args:
        model: As the grid names it.
        method: Name of the method; several options of it are together.
        dtype: Of the weights.
        peak: Bytes on all devices of a bundle together, of the largest bundle.
        asked: Devices that the grid states; None leaves it to the packing.
        gpus: Devices that hold the peak: 1, or as many as the blocks of a language
            model have to be spread over; None if no node has so many.
        hours: Sum over the bundles, on one device; on the processor if none fits.
    """

    model: str
    method: str
    dtype: str
    peak: Interval
    asked: float | None
    gpus: int | None
    hours: Interval

    @property
    def placement(self) -> str:
        """``device``, ``devices``, or ``blockwise`` (``gpus: 0``) if no node fits."""
        if self.gpus is None:
            return "blockwise"
        return "device" if self.gpus == 1 else "devices"

    @property
    def change(self) -> str:
        """What to write under ``resources``, if the grid's own number is too small."""
        if self.gpus is None:
            return "gpus: 0"
        too_few = self.gpus > 1 if self.asked is None else 0 < self.asked < self.gpus
        return f"gpus: {self.gpus}" if too_few else ""


def placed(bundles: Iterable[Bundle], packer: Packer) -> list[Placed]:
    """Place the bundles of each method and model.

    A device may be filled to 90 %. The upper end of the predicted peak counts, which
    has 0.6 GB for CUDA itself.

    Args:
        bundles: Of a plan.
        packer: Has a cluster with devices, and predicts.

    Returns:
        One entry for each method and model, in the order of the plan.
    """
    groups: dict[tuple[str, str, str], list[Bundle]] = {}
    for bundle in bundles:
        first = bundle.trials[0]
        key = (first.model.name, first.method.name, first.dtype)
        groups.setdefault(key, []).append(bundle)
    return [_placed(key, group, packer) for key, group in groups.items()]


def _placed(key: tuple[str, str, str], group: list[Bundle], packer: Packer) -> Placed:
    model, method, dtype = key
    needs = [packer.need(bundle) for bundle in group]
    first = group[0].trials[0]
    peak = max((need.device for need in needs), key=lambda one: one.high)
    gpus = _gpus(peak.high, can_spread(first.model, first.method), packer)
    if gpus is None:  # the processor computes
        needs = [packer.predictor.bundle(bundle, CPU) for bundle in group]
    hours = Interval(0.0, 0.0, 0.0)
    for need in needs:
        hours += need.seconds * (1 / 3600)
    return Placed(
        model=model,
        method=method,
        dtype=dtype,
        peak=peak,
        asked=group[0].resources.gpus,
        gpus=gpus,
        hours=hours,
    )


def can_spread(model: PluginSpec, method: PluginSpec) -> bool:
    """Whether several devices can hold the network of a method on a model."""
    language = find("model", model.plugin).facts["kind"] == "causal_lm"
    alone = getattr(find("method", method.plugin).cls, "one_device", False)
    return language and not trained(model) and not alone


def _gpus(peak: float, spreads: bool, packer: Packer) -> int | None:
    """The devices of one node that hold the peak; None if no node has them."""
    fitting = []
    for node in packer.cluster.nodes:
        if node.device is None or not node.gpus:
            continue
        size = node.device.bytes
        count = 1 if size is None else math.ceil(peak / (USABLE * size))
        if count <= (node.gpus if spreads else 1):
            fitting.append(count)
    return min(fitting, default=None)
