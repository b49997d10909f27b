"""Seconds to decompose: each method's fit for all ratios, beside one plain SVD.

Processor time of one thread, so that other work on the machine counts for little.
`python benchmarks/decompose.py` takes SmolLM2; `--llama` takes one matrix of each
LLaMA-7B shape with random weights and inputs, which needs minutes and 4 GB, and
`--llama --part 0.5` the same shapes at half of the width.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import threadpoolctl
import torch
from _figures import show
from scipy.linalg import qr
from torch import Tensor

from harness.core import Context, Model
from harness.registry import find
from harness.toolkit import calibration
from methods._kernels.low_rank.factors import factorize, linears, matrix
from methods._kernels.low_rank.pivots import pivots
from methods._kernels.low_rank.ranks import rank_for

METHODS: dict[str, dict[str, Any]] = {
    "svd": {},
    "joint_rank_k": {},
    "joint_rank_k, whitened": {"whiten": True, "extra_groups": "qkv"},
    "asvd, no search": {"search": False},
    "fwsvd, 2 windows": {"samples": 2},
    "svd_llm": {},
    "basis_sharing": {},
    "water_filling, 2 windows": {"gradient_samples": 2},
}
BARS = {"svd_llm": 0.5}
SHAPES = {"query": (4096, 4096), "gate": (11008, 4096), "down": (4096, 11008)}


def seconds(work: Callable[[], Any]) -> float:
    """Processor time of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def plain(weights: list[Tensor], dtype: torch.dtype) -> float:
    """Seconds of one `torch.linalg.svd` of each weight."""
    return seconds(
        lambda: [torch.linalg.svd(w.to(dtype), full_matrices=False) for w in weights]
    )


def row(name: str, spent: float, reference: float) -> None:
    """Print a line: seconds, and how many plain SVDs they are."""
    print(f"{name:28} {spent:9.1f} s {spent / reference:9.2f} x")


def smollm2(blocks: int) -> None:
    """The first blocks of SmolLM2-135M; all are alike."""
    loaded = find("model", "smollm2-135m").build({}).load()
    some = "|".join(map(str, range(blocks)))
    roles = {k.replace(r"\d+", f"(?:{some})"): v for k, v in loaded.roles.items()}
    fields = {name: getattr(loaded, name) for name in Model.__slots__}
    model = Model(**{**fields, "roles": roles})
    weights = [matrix(module) for module in linears(model).values()]
    reference = plain(weights, torch.float64)
    print(f"SmolLM2-135M, {blocks} blocks, {len(weights)} matrices")
    row("torch.linalg.svd, float64", reference, reference)
    row("torch.linalg.svd, float32", plain(weights, torch.float32), reference)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = calibration.CalibrationSpec(samples=4, length=256)
        calibration.build(loaded, spec, folder)
        for label, options in METHODS.items():
            method = find("method", label.split(",")[0]).build(options)
            ctx = Context(
                model=model,
                seed=0,
                device=torch.device("cpu"),
                calibrate=lambda: calibration.open(folder),
            )
            spent = seconds(lambda m=method, c=ctx: m.fit(model, c))
            row(label, spent, reference)
            if label in BARS:
                what = f"{label}: the fit beside one float64 SVD of the same matrices"
                show(what, spent / reference, "x", side="most", bar=BARS[label])


def llama(part: float) -> None:
    """One random matrix of each shape, under a Gram matrix of random inputs."""
    rng = torch.Generator().manual_seed(0)
    for label, whole in SHAPES.items():
        out, inner = (int(part * width) for width in whole)
        weight = torch.randn(out, inner, generator=rng)
        x = torch.randn(inner + 64, inner, generator=rng)
        gram = x.T @ x
        reference = plain([weight], torch.float64)
        print(f"LLaMA-7B {label}, {out} x {inner}")
        row("torch.linalg.svd, float64", reference, reference)
        row("torch.linalg.svd, float32", plain([weight], torch.float32), reference)
        row("svd", seconds(lambda w=weight: factorize(w)), reference)
        row("svd_llm", seconds(lambda w=weight, g=gram: factorize(w, g)), reference)
        left = torch.randn(out, rank_for(out, inner, 0.2), generator=rng)
        theirs = seconds(
            lambda f=left: qr(f.double().numpy().T, mode="r", pivoting=True)
        )
        row("pivots", seconds(lambda f=left: pivots(f)), reference)
        row("pivoted QR of SciPy, alone", theirs, reference)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama", action="store_true", help="LLaMA-7B shapes")
    parser.add_argument("--part", type=float, default=1.0, help="of LLaMA-7B's width")
    parser.add_argument("--blocks", type=int, default=30, help="of SmolLM2, 1 to 30")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    threadpoolctl.threadpool_limits(1)  # SciPy has threads of its own
    if asked.llama:
        llama(asked.part)
    else:
        smollm2(asked.blocks)


if __name__ == "__main__":
    main()
