"""Count the peak bytes of every method on a fake device, beside what is predicted.

Each method fits and compresses small random LLaMA models. With `--write`, non-negative
least squares finds how often it holds each term of `harness/scheduling/peaks.py`; the
result is `harness/scheduling/peaks.json`. Two models check it and are not part of the
solution. What was counted is kept in a file and not counted again.

    python benchmarks/peaks.py --methods my_method --write
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import tiny_llm
from fake_device import FakeDevices

from harness.contracts.samples import OPTIONS
from harness.core import Context
from harness.registry import discover, facts, find
from harness.running.artifacts import seed_everything
from harness.scheduling import peaks
from harness.toolkit import calibration
from harness.toolkit.shape import Shape

# Width, neurons, blocks, vocabulary, windows, tokens of a window, dtype.
MODELS: dict[str, tuple[int, int, int, int, int, int, str]] = {
    "base": (96, 256, 4, 256, 4, 32, "float32"),
    "deep": (96, 256, 8, 256, 4, 32, "float32"),
    "wide": (160, 384, 3, 256, 4, 32, "float32"),
    "tokens": (96, 256, 4, 2048, 32, 32, "float32"),
    "half": (96, 320, 5, 512, 8, 32, "bfloat16"),
    "check half": (128, 320, 6, 1024, 16, 48, "bfloat16"),
    "check single": (112, 384, 5, 768, 12, 40, "float32"),
}
# Without one of these, depth, activations or the dtype would be confused with others.
NEEDED = {"base", "deep", "tokens", "half"}
RATIO = 0.2
Row = tuple[dict[str, float], float]  # the terms of a model, and what was counted
LEAST = 1e-3  # smaller factors are noise


def shape_of(name: str) -> Shape:
    """The sizes of one of the models."""
    width, inner, blocks, vocabulary, *_ = MODELS[name]
    return Shape(
        width=width,
        inner=inner,
        blocks=blocks,
        queries=width,
        keys=width // 2,
        vocabulary=vocabulary,
    )


def terms_of(name: str) -> dict[str, float]:
    """The terms of one of the models."""
    *_, samples, length, dtype = MODELS[name]
    return peaks.terms(shape_of(name), dtype, samples, length)


def count(name: str, method: str) -> dict[str, Any]:
    """The counted peak of each step of a method on a model."""
    width, inner, blocks, vocabulary, samples, length, dtype = MODELS[name]
    model = tiny_llm.tiny(
        "llama",
        dtype=getattr(torch, dtype),
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=blocks,
        vocab_size=vocabulary,
        tie_word_embeddings=False,
        head_dim=width // 4,
    )
    plugin = find("method", method)
    made = plugin.build(OPTIONS.get(method, {}))
    with tempfile.TemporaryDirectory() as folder, FakeDevices() as fake:
        (device,) = fake.devices
        fake.move(model.net, device)
        spec = calibration.CalibrationSpec(samples=samples, length=length)
        calibration.build(model, spec, Path(folder))
        ctx = Context(
            model=model,
            seed=0,
            device=device,
            calibrate=lambda: calibration.open(Path(folder)),
        )
        found = {"design": name, "method": method, "weights": fake.used[device]}
        fake.reset_peak()
        seed_everything(0, "fit")
        fitted = made.fit(model, ctx) if hasattr(made, "fit") else None
        found["fit"] = fake.peak[device]
        gc.collect()
        fake.reset_peak()
        fixed = made.ratios(dtype) if hasattr(made, "ratios") else None
        nothing = facts(plugin, made)["ratio_of"] == "none"
        net = made.compress(fitted, 0.0 if nothing else (fixed or (RATIO,))[0], ctx)
        found["compress"] = fake.peak[device]
        gc.collect()
        fake.reset_peak()
        with torch.inference_mode():
            ids = torch.arange(length)[None].to(device)
            float(net(input_ids=ids, use_cache=False).logits.float().sum())
        found["forward"] = fake.peak[device]
    return found


def solve(rows: list[Row], names: list[str]) -> dict[str, float]:
    """How often each term is held; the dense weights are there at least once."""
    matrix = np.array([[sizes[n] for n in names] for sizes, _ in rows])
    counted = np.array([peak for _, peak in rows])
    rest = counted - matrix[:, names.index("weights")]
    found, _ = nnls(matrix / counted[:, None], rest / counted)
    found[names.index("weights")] += 1
    held = zip(names, found.tolist(), strict=True)
    return {name: round(times, 4) for name, times in held if times > LEAST}


def table(counted: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """The factors of every method from what was counted on the models to solve on."""
    rows: dict[tuple[str, str], list[Row]] = defaultdict(list)
    seen: dict[str, set[str]] = defaultdict(set)
    for one in counted:
        seen[one["method"]].add(one["design"])
    for one in counted:
        name = one["design"]
        if name.startswith("check") or not seen[one["method"]] >= NEEDED:
            continue
        for step in ("fit", "compress"):
            rows[one["method"], step].append((terms_of(name), one[step]))
        if one["method"] == "dense":
            *_, length, dtype = MODELS[name]
            window = peaks.terms(shape_of(name), dtype, 1, length)
            rows["dense", "evaluate"].append((window, one["forward"]))
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    every = list(terms_of("base"))
    for (method, step), known in sorted(rows.items()):
        names = ["weights", "batch", "logits"] if step == "evaluate" else every
        found[method][step] = solve(known, names)
    return dict(found)


def checked(counted: list[dict[str, Any]]) -> Iterator[tuple[str, str, float]]:
    """Method, model, and the prediction as a multiple of what was counted."""
    for one in counted:
        *_, samples, length, dtype = MODELS[one["design"]]
        found = peaks.predicted(
            one["method"],
            shape_of(one["design"]),
            dtype,
            {"samples": samples, "length": length},
            (1, length),
        )
        if found is not None:
            most = max(one["fit"], one["compress"], one["forward"])
            yield one["method"], one["design"], found.mid / most


def main() -> None:
    """Count what is missing in the file, and print it beside the predictions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kept = Path(tempfile.gettempdir()) / "shrinkgrid-peaks.jsonl"
    parser.add_argument("--counted", type=Path, default=kept)
    parser.add_argument("--write", action="store_true", help="solve, and keep factors")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=[*MODELS])
    parser.add_argument("--methods", nargs="*")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    lines = asked.counted.read_text().splitlines() if asked.counted.exists() else []
    counted = [json.loads(line) for line in lines]
    done = {(one["design"], one["method"]) for one in counted}
    language = [
        n for n, m in discover("method").items() if "causal_lm" in m.facts["kinds"]
    ]
    for name in asked.models:
        for method in asked.methods or language:
            if (name, method) not in done:
                counted.append(count(name, method))
                with asked.counted.open("a") as file:
                    file.write(json.dumps(counted[-1]) + "\n")
    if asked.write:
        found = dict(peaks.factors()) | table(counted)
        text = json.dumps(found, indent=1, sort_keys=True)
        peaks.FILE.write_text(text + "\n")
        peaks.factors.cache_clear()
    for method, name, times in sorted(checked(counted), key=lambda one: one[::-1]):
        print(f"{method:20} {name:14} {times:5.2f} of what was counted")


if __name__ == "__main__":
    main()
