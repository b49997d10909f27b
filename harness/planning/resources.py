"""What a bundle may use: processors, devices, memory, time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Literal

from harness.core import BenchError
from harness.options import build, nearest

Placement = Literal["device", "blockwise", "auto"]
# Decimal and binary units differ by 7 % at GB, which decides whether a model fits.
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTES |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_NUMBER = r"\d+(?:\.\d*)?|\.\d+"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one bundle asks for.

    Args:
        cpus: Processor threads; torch and BLAS get as many.
        gpus: Devices, fractions allowed. None leaves it to the packing: the share
            that the predicted peak needs where there are devices, else none. With 2 or
            more, all on one machine, the blocks of a pretrained language model are
            spread over them.
        device_memory: Peak bytes on a device (``20GB`` in a grid), instead of the
            prediction; without ``gpus`` it becomes a share of a device.
        memory: Host memory in bytes (``4GB`` in a grid); None is as predicted.
        time: Limit of one trial in seconds (``30m`` in a grid); None sets none.
        placement: Where the weights of the network and of its compressed copies are:
            in memory of the ``device``, or ``blockwise`` in files of which the system
            holds in memory what the running block needs; with one device, a block is
            copied to it while it runs. ``auto`` decides by their size and the free
            memory. It changes a number by rounding at most.
    """

    cpus: float = 1.0
    gpus: float | None = None
    device_memory: int | str | None = None
    memory: int | str | None = None
    time: float | str | None = None
    placement: Placement = "auto"

    def __post_init__(self) -> None:
        for name, parse in _PARSED.items():
            # From ``4GB`` to bytes, once: every later reader gets numbers.
            object.__setattr__(self, name, parse(getattr(self, name)))
        gpus = self.gpus or 0.0
        if self.cpus <= 0 or gpus < 0:
            raise ValueError("cpus must be above 0 and gpus at least 0")
        # Ray accepts a share of one device, or a whole number of devices.
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"gpus {gpus:g} is neither at most 1 nor a whole number")
        if self.placement == "blockwise" and gpus > 1:
            raise ValueError(
                f"placement blockwise uses one device, and gpus is {gpus:g}"
            )
        if self.device_memory is not None and self.gpus == 0:
            raise ValueError("device_memory needs a device, and gpus is 0")

    @property
    def seconds(self) -> float | None:
        """The time limit of one trial in seconds."""
        return None if self.time is None else float(self.time)

    @property
    def bytes(self) -> int | None:
        """Returns the requested host memory."""
        return None if self.memory is None else int(self.memory)

    @property
    def device_bytes(self) -> int | None:
        """The peak on a device that the grid states."""
        return None if self.device_memory is None else int(self.device_memory)


def size(value: int | str | None) -> int | None:
    """Bytes of ``4GB``, ``512MiB`` or a plain number.

    Args:
        value: As a grid writes it.

    Returns:
        Whole bytes.

    Raises:
        ValueError: If it is not a size.

    >>> size("4GB"), size("1.5KiB"), size(7)
    (4000000000, 1536, 7)
    """
    if value is None:
        return None
    found = re.fullmatch(rf"\s*({_NUMBER})\s*([KMGT]?I?B)?\s*", str(value).upper())
    if not found:
        raise ValueError(f"{value!r} is not a size; write 4GB or 512MiB")
    return int(float(found[1]) * _BYTES[found[2] or "B"])


def duration(value: float | str | None) -> float | None:
    """Seconds of ``90s``, ``30m``, ``2h`` or a plain number.

    Args:
        value: As a grid writes it.

    Returns:
        Seconds.

    Raises:
        ValueError: If it is not a duration above 0.

    >>> duration("30m"), duration(2)
    (1800.0, 2.0)
    """
    if value is None:
        return None
    found = re.fullmatch(rf"\s*({_NUMBER})\s*([smhd])?\s*", str(value))
    if not found or float(found[1]) <= 0:
        raise ValueError(f"{value!r} is not a duration; write 90s, 30m or 2h")
    return float(found[1]) * _SECONDS[found[2] or "s"]


_PARSED: dict[str, Callable[[Any], int | float | None]] = {
    "memory": size,
    "device_memory": size,
    "time": duration,
}


@dataclass(frozen=True, slots=True)
class Rules:
    """The ``resources`` of a grid: a default, and rules for models or methods."""

    default: dict[str, Any]
    rules: tuple[dict[str, Any], ...] = ()

    def of(self, method: str, model: str) -> Resources:
        """What a bundle of this method and model gets; later rules win."""
        asked = dict(self.default)
        # In the order of the file, so that a special rule can stand below a general
        # one.
        for rule in self.rules:
            if _fits(rule, method, model):
                asked = _over(asked, rule)
        return Resources(**asked)


def unmatched(rules: Rules, pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Say which rules under ``for`` can have no effect.

    Args:
        rules: The rules, already checked.
        pairs: Method and model of every bundle of the grid.

    Returns:
        One sentence for each pattern that matches no name, each rule whose patterns
        match no method and model together, and each rule that asks for nothing.
    """
    found = []
    all_pairs = list(pairs)
    for rule in rules.rules:
        named = {key: rule.get(key, "*") for key in ("method", "model")}
        if rule.keys() <= named.keys():
            found.append(f"the rule {rule} asks for nothing; add cpus, gpus, time ...")
        absent = []
        for place, (key, patterns) in enumerate(named.items()):
            names = sorted({pair[place] for pair in all_pairs})
            several = [patterns] if isinstance(patterns, str) else patterns
            absent += [
                nearest(f"{key} in this grid", pattern, names)
                for pattern in several
                if not any(fnmatch(name, pattern) for name in names)
            ]
        # If a pattern matches nothing, that error is enough: no pair can match then.
        found.extend(absent)
        if not absent and not any(_fits(rule, *pair) for pair in all_pairs):
            found.append(f"the rule {rule} matches no method with a model of a block")
    return [f"resources: {why}" for why in found]


def _fits(rule: dict[str, Any], method: str, model: str) -> bool:
    names = (("model", model), ("method", method))
    return all(_matches(name, rule.get(key, "*")) for key, name in names)


def _matches(name: str, patterns: str | list[str]) -> bool:
    several = [patterns] if isinstance(patterns, str) else patterns
    return any(fnmatch(name, pattern) for pattern in several)


def _over(asked: dict[str, Any], rule: dict[str, Any]) -> dict[str, Any]:
    """The keys of a request under one more rule; ``gpus: 0`` drops device memory."""
    plain = {k: v for k, v in rule.items() if k not in ("model", "method")}
    merged = asked | plain
    # A rule may take the device from a method whose default states device memory; the
    # two together would be an error.
    if plain.get("gpus") == 0 and "device_memory" not in plain:
        merged.pop("device_memory", None)
    return merged


def read(value: Any) -> tuple[Rules, list[str]]:
    """The resources of a grid file.

    Args:
        value: What stands under ``resources``.

    Returns:
        The rules, and the errors found.
    """
    if value is None:
        return Rules({}), []
    if not isinstance(value, dict):
        return Rules({}), [f"resources {value!r} is not a mapping like {{cpus: 1}}"]
    default = {k: v for k, v in value.items() if k != "for"}
    rules = value.get("for", [])
    if not isinstance(rules, list) or not all(isinstance(r, dict) for r in rules):
        return Rules({}), ["resources: 'for' is a list of {model: ..., gpus: ...}"]
    errors = []
    for asked in (default, *rules):
        plain = {k: v for k, v in asked.items() if k not in ("model", "method")}
        if asked is default and len(plain) < len(asked):
            errors.append("resources: 'model' and 'method' belong under 'for'")
        for key in ("model", "method"):
            named = asked.get(key, "*")
            texts = named if isinstance(named, list) else [named]
            if not all(isinstance(text, str) for text in texts):
                errors.append(f"resources: {key} {named!r} is not a pattern of names")
        # A rule is checked together with the default that it changes, since a conflict
        # may need both.
        if asked is not default:
            plain = _over(default, asked)
        errors.extend(f"resources: {why}" for why in _wrong(plain))
    return Rules(default, tuple(rules)), list(dict.fromkeys(errors))


def _wrong(asked: Mapping[str, Any]) -> list[str]:
    """Every error in one mapping of resources.

    The texts are parsed before the rest is built, so that an unknown key, a wrong size
    and a wrong duration are reported together.
    """
    found, readable = [], dict(asked)
    # What cannot be parsed is removed, so that the second check does not report it
    # again.
    for name, parse in _PARSED.items():
        try:
            parse(asked.get(name))
        except ValueError as why:
            found.append(f"{name}: {why}")
            del readable[name]
    try:
        build("resources", "", Resources, readable)
    except BenchError as why:
        found = why.errors + found
    return [re.sub("^resources: ", "", one) for one in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceRequest:
    """What a bundle takes of the cluster while it runs.

    Args:
        cpus: Number of processor threads.
        gpus: Devices, or the share of one.
        memory: Host bytes; None asks for nothing.
        device: The kind of device that it must be, in a cluster of several kinds.
        device_bytes: Bytes that must be free on the device before the bundle starts;
            None checks nothing.
        host_bytes: Bytes that must be free on the host; None checks nothing.
    """

    cpus: float
    gpus: float = 0.0
    memory: int | None = None
    device: str | None = None
    device_bytes: int | None = None
    host_bytes: int | None = None

    def __str__(self) -> str:
        """The request in words: ``1 CPU, 0.5 GPUs of kind H100, 2 GB of memory``."""
        kind = f" of kind {self.device}" if self.device else ""
        parts = [
            f"{self.cpus:g} CPU{'s' * (self.cpus != 1)}",
            f"{self.gpus:g} GPU{'s' * (self.gpus != 1)}{kind}",
        ]
        if self.memory:
            parts.append(f"{gigabytes(self.memory)} of memory")
        return ", ".join(parts)


def shortage(
    request: ResourceRequest,
    device_free: int | None,
    host_free: int | None,
    held: int = 0,
) -> str | None:
    """Why a bundle cannot start on the node that it was placed on, or None.

    Args:
        request: The request by which it was placed.
        device_free: Bytes that are really free on its device; None on a CPU.
        host_free: Bytes that are free on the host; None if that is unknown.
        held: Host bytes that the worker's process already uses.

    Returns:
        One sentence.
    """
    for what, wanted, free in (
        ("device", request.device_bytes, device_free),
        (
            "host",
            # What this process already holds counts as part of the bundle's need: the
            # peak was measured for a whole process.
            None if request.host_bytes is None else request.host_bytes - held,
            host_free,
        ),
    ):
        if wanted is not None and free is not None and free < wanted:
            return (
                f"not started: it needs {gigabytes(wanted)} of {what} memory, and only "
                f"{gigabytes(max(0, free))} is free"
            )
    return None


def gigabytes(count: float) -> str:
    """Bytes as a person reads them.

    >>> gigabytes(80e9), gigabytes(1_230_000_000)
    ('80 GB', '1.23 GB')
    """
    return f"{count / 1e9:.3g} GB"
