"""Compressed image classifiers as ONNX graphs, checked with onnxruntime."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.core import BenchError, Model
from harness.toolkit import saved_model

GRAPH = "model.onnx"
TOLERANCE = 1e-5
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def check_packages() -> None:
    """Ask for the packages that write and run a graph.

    Raises:
        BenchError: If one of them is missing.
    """
    missing = [p for p in _PACKAGES if importlib.util.find_spec(p) is None]
    if missing:
        raise BenchError(
            f"--format onnx needs {', '.join(missing)}: install with `pip install "
            f"{' '.join(missing)}`"
        )


def _check(model: Model) -> None:
    """Refuse what cannot become a graph."""
    if model.kind != "classifier":
        raise BenchError(
            f"{model.name} is of the kind {model.kind}, and the form onnx is for image "
            "classifiers; for a language model take --format hf"
        )
    if any(
        e["layer"] == "exits" for e in saved_model.describe(model.net).layers.values()
    ):
        raise BenchError(
            f"{model.name} has early exits: which layers run depends on the sample, "
            "and a graph for batches would run all of them; leave --format out"
        )
    dtypes = {p.dtype for p in model.net.parameters()} - {torch.float32}
    if dtypes:
        raise BenchError(
            f"{model.name} has weights of {_names(dtypes)}, and the form onnx is for "
            "float32: run the trial with `dtype: float32`"
        )


def write(model: Model, folder: Path, card: str) -> float:
    """Write an image classifier as a graph, and compare its logits.

    The graph takes ``images``, float32 of shape ``(batch, channels, height, width)``,
    and gives ``logits``, float32 of shape ``(batch, classes)``; the batch has any size.

    Args:
        model: The model with its compressed network.
        folder: An empty folder, which gets the graph and the card.
        card: The model card in Markdown; how to run the graph is added to it.

    Returns:
        The largest difference between a logit of onnxruntime and one of torch, as a
        share of the largest logit (at least 1), for random images in batches of 1
        and 3.

    Raises:
        BenchError: If a package is missing, if the model is not an image classifier of
            float32, if samples leave its network early, if torch cannot export it, or
            if the difference is above ``TOLERANCE``. The folder is empty then.
    """
    check_packages()
    _check(model)
    net = copy.deepcopy(model.net).cpu().eval()
    (example,) = model.example().values()
    images = torch.randn(
        3, *example.shape[1:], generator=torch.Generator().manual_seed(0)
    )
    path = folder / GRAPH
    _export(net, images, path, model.name)
    gap = max(_gap(net, images[:n], path) for n in (1, 3))
    if not gap <= TOLERANCE:  # NaN, too, ends here
        path.unlink()
        raise BenchError(
            f"onnxruntime gives logits for {model.name} that differ from those of "
            f"torch by {gap:.1g} of the largest, and {TOLERANCE:g} is allowed; nothing "
            "was written"
        )
    shape = ", ".join(str(side) for side in example.shape[1:])
    (folder / "README.md").write_text(card + _HOW_TO_RUN.replace("@SHAPE@", shape))
    return gap


def _export(net: nn.Module, images: Tensor, path: Path, name: str) -> None:
    try:
        # The exporter prints its progress and warns of its own internals.
        with _quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                net,
                (images,),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
            )
            program.save(str(path))
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as why:
        path.unlink(missing_ok=True)
        cause: BaseException = why
        while cause.__cause__ is not None:  # the outer ones say how to use torch.onnx
            cause = cause.__cause__
        first = str(cause).strip().split("\n", maxsplit=1)[0][:200]
        raise BenchError(
            f"torch cannot write the network of {name} as an ONNX graph "
            f"({type(cause).__name__}: {first}); leave --format out"
        ) from why


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(action="ignore"),
        ):
            yield
    finally:
        logging.disable(before)


def _gap(net: nn.Module, images: Tensor, path: Path) -> float:
    """The largest difference between logits, as a share of the largest one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )
    (told,) = session.run(["logits"], {"images": images.numpy()})
    with torch.inference_mode():
        meant = net(images)
    return float(
        (torch.from_numpy(told) - meant).abs().max() / meant.abs().max().clamp_min(1)
    )


def _names(dtypes: set[torch.dtype]) -> str:
    return " and ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))


_HOW_TO_RUN = """
## How to run it

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
images = np.zeros((1, @SHAPE@), dtype=np.float32)
(logits,) = session.run(["logits"], {"images": images})
```

The graph takes a batch of any size. Images are prepared as for the measured task: see
its protocol above.
"""
