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
class Part:
    """One configured plugin of a trial; equal parts are the same object in a grid.

    Args:
        name: As the grid writes it.
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
        """What of this part is meant to change a trial's number; not to be changed."""
        return _identity(self)

    @property
    def label(self) -> str:
        """The name with its options, as the leaderboard writes it."""
        return label(self.name, self.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One point of the grid; ``id`` is the hash of what is meant to change its number.

    Args:
        method: What compresses.
        model: What is compressed.
        task: What measures.
        ratio: The share removed, in [0, 1).
        seed: Of every random choice.
        dtype: Of the weights while measuring.
        calibration: Canonical JSON of the calibration, None where none is read.
        id: 16 hexadecimal digits; equal for trials of equal semantic content.
    """

    method: Part
    model: Part
    task: Part
    ratio: float
    seed: int
    dtype: str = "float32"
    calibration: str | None = None
    id: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
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
def _identity(part: Part) -> list[Any]:
    named: dict[str, Any] = {"name": part.name, "version": part.version}
    named["options"] = json.loads(part.options)
    if part.revision:
        named["revision"] = part.revision
    if part.protocol:
        named["protocol"] = json.loads(part.protocol)
    return [named]


@lru_cache(maxsize=65536)
def _constant(method: Part, model: Part, task: Part) -> str:
    """The hash that all trials of the same three parts share."""
    return digest([method.identity(), model.identity(), task.identity()], 64)
