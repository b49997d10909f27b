"""Predicts the peak bytes on a device of a method on a language model, by its shape.

Every peak is a sum of terms: copies of the weights, float32 scores of all matrices,
what belongs to one block, to the largest matrix, to the widest input, and activations.
How often a method holds each term is in ``peaks.json``. `benchmarks/peaks.py` finds
these factors: it counts the bytes of small networks on a fake device, and solves for
them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from harness.scheduling.interval import Interval
from harness.toolkit.shape import Shape

FILE = Path(__file__).with_name("peaks.json")
WITHIN = 1.25  # the factor between a prediction and the counted peak
DTYPES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
BATCH = 1024  # tokens of a batch of ``harness.toolkit.blockwise``, or one window


def terms(shape: Shape, dtype: str, samples: int, length: int) -> dict[str, float]:
    """The bytes of each term.

    Args:
        shape: Sizes of the network.
        dtype: Of its weights, a key of ``DTYPES``.
        samples: Windows that are read.
        length: Tokens of a window.

    Returns:
        ``weights``: all of them, as stored. ``scores``: four bytes for each element of
        the blocks' matrices. ``block``: the same for one block. ``matrix``: eight bytes
        for each element of the largest matrix. ``gram``: the second moment of the
        widest input, in float64. ``states``: the hidden states of all windows.
        ``batch``: the widest input for the tokens of one batch, in float32. ``logits``:
        the outputs for one batch, in float32.
    """
    size = DTYPES[dtype]
    widest = max(shape.width, shape.inner)
    batch = min(samples, max(1, BATCH // length)) * length
    return {
        "weights": shape.params * size,
        "scores": 4 * shape.blocks * shape.block,
        "block": 4 * shape.block,
        "matrix": 8 * shape.width * widest,
        "gram": 8 * widest**2,
        "states": samples * length * shape.width * size,
        "batch": 4 * batch * widest,
        "logits": 4 * batch * shape.vocabulary,
    }


@cache
def factors() -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    """Method -> step -> term -> how often the method holds it at its peak."""
    found: dict[str, dict[str, dict[str, float]]] = json.loads(FILE.read_text())
    return found


def predicted(
    method: str,
    shape: Shape,
    dtype: str,
    calibration: Mapping[str, Any],
    evaluated: tuple[int, int] = (1, 1),
) -> Interval | None:
    """The peak of a bundle: of its fit, its compressions or its evaluations.

    Args:
        method: Name of the plugin.
        shape: Sizes of the network.
        dtype: Of its weights.
        calibration: ``samples`` and ``length`` of the calibration that it reads.
        evaluated: Windows of a batch of the task, and tokens of a window.

    Returns:
        Bytes of tensors, with default options; None for a method that was not counted.
    """
    steps = factors().get(method)
    if steps is None:
        return None
    samples, length = calibration.get("samples", 64), calibration.get("length", 512)
    fitted = terms(shape, dtype, samples, length)
    measured = terms(shape, dtype, *evaluated)
    totals = [_sum(steps[step], fitted) for step in ("fit", "compress")]
    peak = max(*totals, _sum(factors()["dense"]["evaluate"], measured))
    return Interval(peak / WITHIN, peak, peak * WITHIN)


def _sum(held: Mapping[str, float], sizes: Mapping[str, float]) -> float:
    return sum(times * sizes[term] for term, times in held.items())
