"""Stated guesses for what no finished trial has shown yet; docs/scheduling.md."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import lru_cache

from harness.planning.plan import Artifact, configured, has_fit, trained
from harness.planning.trial import Part
from harness.registry import facts, find

BASE = 700_000_000  # host bytes of a worker before any model: torch, Arrow, the engine
CONTEXT = 600_000_000  # device bytes of a process before any tensor: CUDA's own
DTYPES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
# Parameters of a model that nobody knows, by its kind; and of one that is trained here.
TYPICAL = {"classifier": 10**7, "seq2seq": 10**7, "causal_lm": 10**9, "any": 10**8}
TRAINED = 10**6
# An unknown method, by what it needs: copies of the weights that are alive at its peak;
# seconds of a fit, or of one compression where it trains then; and more for a million
# parameters at the pace of one processor thread (fit, compression).
PRIORS = {
    "none": (3.0, 0.0, 0.0, 0.01),  # the dense baseline
    "weights": (8.0, 0.0, 0.1, 0.05),  # data-free: factors or sorted copies
    "calibration": (10.0, 1.0, 1.0, 0.1),  # statistics and their roots, in float64
    "training_data": (8.0, 10.0, 20.0, 20.0),  # gradients, two moments, activations
}
# The same for loading, evaluating, and training a dense network.
LOAD, EVALUATE, TRAINING = (3.0, 0.05), (1.0, 0.05), (30.0, 100.0)
# How far the truth may lie from a guess, as a factor, by where the guess is from: the
# same trial, its options aside, another model, nothing.
WIDE = (1.0, 2.0, 3.0, 10.0)
_BATCHED = ("batch", "batch_size", "window", "length")


@dataclass(frozen=True, slots=True)
class Span:
    """A guess with its interval: nine of ten lie above ``low``, and below ``high``."""

    low: float
    mid: float
    high: float

    def __add__(self, other: Span) -> Span:
        """Of two parts that go wrong together."""
        return Span(self.low + other.low, self.mid + other.mid, self.high + other.high)

    def __mul__(self, factor: float) -> Span:
        """So many times the same."""
        return Span(self.low * factor, self.mid * factor, self.high * factor)

    def wider(self, factor: float) -> Span:
        """The same guess, less sure by a factor."""
        return Span(self.low / factor, self.mid, self.high * factor)


@lru_cache(maxsize=4096)
def step_seconds(step: str, method: Part, params: int, pace: float) -> Span:
    """A guess at one step of a trial.

    Args:
        step: ``load``, ``fit``, ``compress`` or ``evaluate``.
        method: The method.
        params: Of the model.
        pace: Of what it runs on.

    Returns:
        Seconds.
    """
    _, fixed, fit, compress = PRIORS[kind_of(method)]
    fits = has_fit(method)
    fixed, each = {
        "load": LOAD,
        "fit": (fixed, fit) if fits else (0.0, 0.0),
        "compress": (0.0 if fits else fixed, compress),
        "evaluate": EVALUATE,
    }[step]
    return _guess(fixed, each, params, pace)


def artifact_seconds(artifact: Artifact, params: int, pace: float) -> Span:
    """A guess at building an artifact.

    Args:
        artifact: A dense checkpoint or calibration statistics.
        params: Of its model.
        pace: Of what builds it.

    Returns:
        Seconds.
    """
    if artifact.kind == "dense":
        return _guess(*TRAINING, params, pace)
    return _guess(LOAD[0], LOAD[1] + PRIORS["calibration"][2], params, pace)


def _guess(fixed: float, each: float, params: int, pace: float) -> Span:
    mid = fixed + each * params / 1e6 / pace
    return Span(mid, mid, mid).wider(WIDE[3])


def alive_bytes(method: Part, params: int, dtype: str) -> Span:
    """A guess at the bytes of tensors that are alive at a bundle's peak.

    Args:
        method: The method; its kind says how many copies of the weights.
        params: Of the model.
        dtype: Of the weights.

    Returns:
        Bytes.
    """
    alive = PRIORS[kind_of(method)][0] * params * DTYPES[dtype]
    return Span(alive / 3, alive, alive * 1.5)


@lru_cache(maxsize=4096)
def tokens(protocol: str) -> int:
    """What one forward pass of a task reads: batch x window, where it says so."""
    fields = json.loads(protocol)
    sizes = [fields[k] for k in _BATCHED if isinstance(fields.get(k), int)]
    return max(1, math.prod(sizes))


@lru_cache(maxsize=4096)
def kind_of(method: Part) -> str:
    """The key of ``PRIORS`` for a method."""
    declared = facts(find("method", method.plugin), configured("method", method))
    if declared["ratio_of"] == "none":
        return "none"
    for need in ("training_data", "calibration"):
        if need in declared["needs"]:
            return need
    return "weights"


@lru_cache(maxsize=4096)
def guessed_params(model: Part) -> int:
    """Parameters by the name (``opt-125m``, ``llama-2-7b``), else by the kind."""
    found = re.search(r"(\d+(?:\.\d+)?)([mb])(?![a-z0-9])", model.name.lower())
    if found:
        return int(float(found[1]) * {"m": 10**6, "b": 10**9}[found[2]])
    if trained(model):
        return TRAINED
    return TYPICAL[find("model", model.plugin).facts["kind"]]
