"""Trials: the points of a grid, and what makes two of them the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from harness.options import dumps
from results.text.labels import label


def digest(value: Any, length: int = 16) -> str:
    """The first hexadecimal digits of the SHA-256 of ``value`` as canonical JSON."""
    return _hash(dumps(value), length)


def _hash(text: str, length: int = 16) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSpec:
    """Identifies a configured plugin of a trial by text that is stored and sent.

    Args:
        name: Name of the plugin in the grid.
        plugin: The plugin behind the name; differs for names that a plugin claims.
        options: Canonical JSON of the options that differ from their defaults.
        version: The plugin's declared version.
        revision: A model's commit, or a task's data fingerprint; empty for methods.
        protocol: A task's protocol fields as canonical JSON; empty elsewhere.
    """

    name: str
    plugin: str
    options: str = "{}"
    version: int = 1
    revision: str = ""
    protocol: str = ""

    def identity(self) -> list[Any]:
        """Returns what determines a trial's number; callers must not change it."""
        return _identity(self)

    @property
    def label(self) -> str:
        """The name with its options, as the leaderboard writes it."""
        return label(self.name, self.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One point of the grid; ``id`` is the hash of what is meant to change its number.

    Args:
        method: The compression method with its options.
        model: The dense model that is compressed.
        task: The task that measures the compressed model.
        ratio: The share removed, in [0, 1).
        seed: Seed of all random generators.
        dtype: Floating-point type of the weights during measurement.
        calibration: Canonical JSON of the calibration, None where none is read.
        id: 16 hexadecimal digits; equal for trials of equal semantic content.
    """

    method: PluginSpec
    model: PluginSpec
    task: PluginSpec
    ratio: float
    seed: int
    dtype: str = "float32"
    calibration: str | None = None
    id: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        # Hashed in two stages: a grid has few combinations of plugins and many ratios
        # and seeds, and JSON of the plugins is the expensive part. ``repr`` of the
        # ratio is exact.
        constant = _constant(self.method, self.model, self.task)
        varied = f"{self.ratio!r}|{self.seed}|{self.dtype}|{self.calibration}"
        object.__setattr__(self, "id", _hash(f"{constant}|{varied}"))

    def identity(self) -> dict[str, Any]:
        """The semantic content, field by field, in the order in which ``why`` looks."""
        fields: dict[str, Any] = {
            "method": self.method.identity(),
            "model": self.model.identity(),
            "task": self.task.identity(),
            "ratio": self.ratio,
            "seed": self.seed,
            "dtype": self.dtype,
        }
        if self.calibration is not None:
            fields["calibration"] = json.loads(self.calibration)
        return fields

    def __str__(self) -> str:
        return (
            f"{self.method.label} on {self.model.label}, {self.task.label}, "
            f"ratio {self.ratio:g}, seed {self.seed}"
        )


@lru_cache(maxsize=4096)
def _identity(part: PluginSpec) -> list[Any]:
    named: dict[str, Any] = {"name": part.name, "version": part.version}
    named["options"] = json.loads(part.options)
    if part.revision:
        named["revision"] = part.revision
    if part.protocol:
        named["protocol"] = json.loads(part.protocol)
    return [named]


@lru_cache(maxsize=65536)
def _constant(method: PluginSpec, model: PluginSpec, task: PluginSpec) -> str:
    """Returns the hash that all trials of the same three plugins share."""
    return digest([method.identity(), model.identity(), task.identity()], 64)
