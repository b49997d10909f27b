"""Default estimates without history; see docs/explanation/scheduling.md."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, fields
from functools import lru_cache
from typing import Any

from harness.declarations import declared
from harness.planning.answers import remembered
from harness.planning.plan import Artifact, configured, has_fit, trained
from harness.planning.trial import PluginSpec
from harness.registry import facts, find
from harness.scheduling import peaks
from harness.scheduling.interval import Interval
from harness.toolkit.recipe import Recipe
from harness.toolkit.shape import Shape

BASE = 700_000_000  # host bytes of a worker before any model: torch, Arrow, the engine
CONTEXT = 600_000_000  # device bytes of a process before any tensor: CUDA's own
# Parameters of a model of unknown size, by its kind, and of one that is trained here.
TYPICAL = {"classifier": 10**7, "seq2seq": 10**7, "causal_lm": 10**9, "any": 10**8}
TRAINED = 10**6
# Costs of a method that never ran, by the data that it needs. Columns: copies of the
# weights in memory at the peak; fixed seconds of the fit (of each compression if there
# is no fit); seconds per million parameters on one processor thread, of the fit and of
# each compression.
PRIORS = {
    "none": (3.0, 0.0, 0.0, 0.01),  # the dense baseline
    "weights": (8.0, 0.0, 0.1, 0.05),  # data-free: factors or sorted copies
    "calibration": (10.0, 1.0, 1.0, 0.1),  # statistics and their roots, in float64
    "training_data": (8.0, 10.0, 20.0, 20.0),  # gradients, two moments, activations
}
# (fixed seconds, seconds per million parameters) of loading, of evaluating, and of an
# epoch of training on some ten thousand small images or sentences.
LOAD, EVALUATE, EPOCH = (3.0, 0.05), (1.0, 0.05), (1.5, 5.0)
# The factor by which the true value may differ from an estimate, by its source: the
# same trial, the same trial with other options, another model, a prior.
WIDE = (1.0, 2.0, 3.0, 10.0)
# ``opt-125m``, ``llama-2-7b``, ``mixtral-8x7b``.
_SIZE = re.compile(
    r"(?<![\d.])(?:(\d{1,3})x)?(\d{1,4}(?:\.\d{1,3})?)([mb])(?![a-z0-9])"
)
_BATCHED = ("batch", "batch_size", "window", "length")


@lru_cache(maxsize=4096)
def step_seconds(step: str, method: PluginSpec, params: int, speed: float) -> Interval:
    """Estimates the seconds of one step of a trial.

    Args:
        step: ``load``, ``fit``, ``compress`` or ``evaluate``.
        method: Its kind decides the row of ``PRIORS``.
        params: The number of parameters of the model.
        speed: Relative speed of the hardware, 1 for one processor thread.

    Returns:
        Seconds; zero for the fit of a method that has none.
    """
    _, fixed, fit, compress = PRIORS[kind_of(method)]
    fits = has_fit(method)
    epochs = epochs_of("method", method)
    if epochs:  # they take most of its time, whatever else it does
        fit = compress = 0.0
    whole, each = {
        "load": LOAD,
        "fit": (fixed, fit) if fits else (0.0, 0.0),
        "compress": (0.0 if fits else fixed, compress),
        "evaluate": EVALUATE,
    }[step]
    # What `train` says trains before the ratio is known, where there is such a step.
    trains = sum(n for name, n in epochs.items() if fits and name == "train")
    trains = {"fit": trains, "compress": sum(epochs.values()) - trains}.get(step, 0)
    each += trains * EPOCH[1]
    # An epoch's fixed part is the processor's: a faster device does not shorten it.
    return _guess(whole + trains * EPOCH[0], each, params, speed)


def artifact_seconds(artifact: Artifact, params: int, speed: float) -> Interval:
    """Estimates the seconds that building an artifact takes.

    Args:
        artifact: A dense checkpoint (training) or calibration statistics (one fit).
        params: The number of parameters of the model.
        speed: Relative speed of the hardware, 1 for one processor thread.

    Returns:
        Seconds.
    """
    if artifact.kind == "dense":
        epochs = sum(epochs_of("model", artifact.model).values()) or Recipe().epochs
        return _guess(epochs * EPOCH[0], epochs * EPOCH[1], params, speed)
    return _guess(LOAD[0], LOAD[1] + PRIORS["calibration"][2], params, speed)


def _guess(fixed: float, each: float, params: int, speed: float) -> Interval:
    mid = fixed + each * params / 1e6 / speed
    return Interval(mid, mid, mid).wider(WIDE[3])


def alive_bytes(method: PluginSpec, params: int, dtype: str) -> Interval:
    """Estimates the bytes of all tensors at the peak of a bundle.

    Args:
        method: Its kind decides how many copies of the weights exist at once.
        params: The number of parameters of the model.
        dtype: The dtype of the weights, a key of ``peaks.DTYPES``.

    Returns:
        Bytes.
    """
    alive = PRIORS[kind_of(method)][0] * params * peaks.DTYPES[dtype]
    return Interval(alive / 3, alive, alive * 1.5)


@lru_cache(maxsize=4096)
def tokens(protocol: str) -> int:
    """Tokens of one forward pass: the product of the sizes in the protocol."""
    said = json.loads(protocol)
    sizes = [said[k] for k in _BATCHED if isinstance(said.get(k), int)]
    return max(1, math.prod(sizes))


@remembered
def kind_of(method: PluginSpec) -> str:
    """The key of ``PRIORS`` for a method: the most expensive data that it needs."""
    declared = facts(find("method", method.plugin), configured("method", method))
    if declared["ratio_of"] == "none":
        return "none"
    for need in ("training_data", "calibration"):
        if need in declared["needs"]:
            return need
    return "weights"


@remembered
def epochs_of(kind: str, part: PluginSpec) -> dict[str, int]:
    """Epochs of each training that a plugin's options state, by the option's name."""
    options = configured(kind, part)
    found = {f.name: getattr(options, f.name) for f in fields(options)}
    return {n: v.epochs for n, v in found.items() if isinstance(v, Recipe)}


@lru_cache(maxsize=4096)
def shape_of(model: PluginSpec) -> Shape | None:
    """The sizes of a language model, if its configuration is known on this machine."""
    sizes = _sizes(model)
    return None if sizes is None else Shape(**sizes)


@remembered
def _sizes(model: PluginSpec) -> dict[str, Any] | None:
    found = _declared(model, "shape")
    return None if found is None else asdict(found)


def _declared(model: PluginSpec, hook: str) -> Any:
    return declared(f"model {model.name!r}", configured("model", model), hook)


@lru_cache(maxsize=4096)
def peak_bytes(
    method: PluginSpec, model: PluginSpec, dtype: str, calibration: str, protocol: str
) -> Interval | None:
    """The peak of all tensors on a device, from sizes of the model.

    Args:
        method: The method; its default options are assumed.
        model: The model.
        dtype: Floating-point type of the weights.
        calibration: Canonical JSON of the calibration; ``{}`` without one.
        protocol: Canonical JSON of the task's protocol.

    Returns:
        Bytes; None if the shape of the model, or the method, is not known.
    """
    shape = shape_of(model)
    if shape is None:
        return None
    said = json.loads(protocol)
    sizes = (said.get(key) for key in ("batch_size", "window"))
    batch, window = (size if isinstance(size, int) else 1 for size in sizes)
    read = json.loads(calibration)
    return peaks.predicted(method.plugin, shape, dtype, read, (batch, window))


@remembered
def guessed_params(model: PluginSpec) -> int:
    """Parameters by the weight files, the configuration, the name, or the kind.

    Only the plugin knows whether a model has weight files on this machine. A plugin
    that can tell has a method ``stored_params``.
    """
    stored = _declared(model, "stored_params")
    if stored is not None:
        return int(stored)
    known = shape_of(model)
    if known is not None:
        return known.params
    found = _SIZE.search(model.name.lower())
    if found:
        experts, number, unit = found.groups()
        millions = float(number) * {"m": 1, "b": 1000}[unit]
        return round(int(experts or 1) * millions * 10**6)
    if trained(model):
        return TRAINED
    return TYPICAL[find("model", model.plugin).facts["kind"]]
