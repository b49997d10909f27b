"""Peak memory and time of calibrate, fit, compress and perplexity on large models.

The models have random weights, the block shapes of published models and a vocabulary of
bytes, and are written to a folder once. Each method runs in a process of its own.
Anonymous memory is what a process allocated; pages of mapped files are apart, since
the system can drop them and read them again.

    python benchmarks/memory.py --model 1B --methods wanda --placement blockwise

`--limit 4` ends a run that allocates more than 4 GB (``RLIMIT_DATA``). `--blocks 4`
lets the methods treat the first four blocks only.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast
from transformers.initialization import no_init_weights

from harness.core import Context
from harness.registry import find, resolve
from harness.toolkit import calibration, host_memory, model_size
from tasks._perplexity import WindowPerplexity

# Hidden width, width of the MLP, blocks, heads, heads of keys: Qwen2-0.5B,
# TinyLlama-1.1B, Llama-3.2-3B, LLaMA-7B.
SHAPES = {
    "0.5B": (896, 4864, 24, 14, 2),
    "1B": (2048, 5632, 22, 32, 4),
    "3B": (3072, 8192, 28, 24, 8),
    "7B": (4096, 11008, 32, 32, 32),
}
METHODS: dict[str, dict[str, Any]] = {
    "dense": {},
    "wanda": {},
    "sparsegpt": {},
    "svd_llm": {},
    "basis_sharing": {},
    "water_filling": {"gradient_samples": 2},
}
RATIO = 0.5
LENGTH = 64  # tokens of a window: time grows with it, the memory of weights does not
EVERY = 0.005  # seconds between two readings of the memory


class Text(WindowPerplexity):
    """Perplexity over a few windows of the packaged text."""

    text: ClassVar[str] = "pydoc-test"
    window: ClassVar[int] = LENGTH


def written(shape: str, dtype: str, folder: Path) -> Path:
    """The folder of a model; written block by block of the initialisation, once."""
    place = folder / f"{shape}-{dtype}"
    if (place / "config.json").is_file():
        return place
    hidden, inner, blocks, heads, keys = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=None,
    )
    with no_init_weights():
        net = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    torch.manual_seed(0)
    for value in net.parameters():
        if value.ndim == 2:
            torch.nn.init.normal_(value, std=value.shape[1] ** -0.5)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    encoder = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=encoder).save_pretrained(place)
    net.save_pretrained(place)
    return place


def anonymous() -> tuple[int, int]:
    """Bytes of this process that no file holds, and bytes of mapped files."""
    found = {"RssAnon": 0, "RssFile": 0}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in found:
            found[name] = int(value.split()[0]) * 1024
    return found["RssAnon"], found["RssFile"]


class Meter:
    """Prints the seconds and the largest anonymous memory of each step.

    Args:
        weights: Bytes of the dense weights, of which the share is printed.
    """

    def __init__(self, weights: int) -> None:
        self.weights = weights
        self.base = anonymous()[0]
        self.most = 0
        self._peak = 0
        self._stop = threading.Event()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure while the context is open."""
        self._peak = 0
        self._stop.clear()
        watch = threading.Thread(target=self._watch)
        watch.start()
        began, used = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            took, cpu = time.perf_counter() - began, time.process_time() - used
            self._stop.set()
            watch.join()
            self.most = max(self.most, self._peak)
            print(
                f"  {name:12} {took:8.1f} s ({cpu:.1f} s of processor), "
                f"anonymous {self._peak / 1e9:6.2f} GB, "
                f"mapped {anonymous()[1] / 1e9:6.2f} GB",
                flush=True,
            )

    def _watch(self) -> None:
        while not self._stop.wait(EVERY):
            self._peak = max(self._peak, anonymous()[0] - self.base)


def one(method: str, folder: Path, asked: argparse.Namespace) -> None:
    """All steps of one method in this process."""
    torch.set_num_threads(asked.threads)
    weights = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    if asked.limit:
        # A private mapping of the checkpoint counts as data, though nothing of it is.
        most = int(asked.limit * 1e9) + weights
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    family, implied = resolve("model", str(folder))
    model = family.build(implied).load()
    plugin = find("method", method)
    made = plugin.build(METHODS[method])
    meter = Meter(weights)
    print(f"{method} on {folder.name}, {weights / 1e9:.2f} GB, {asked.placement}")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        host = None
        if asked.placement == "blockwise":
            host = host_memory.HostMemory(Path(scratch))
            host_memory.hold(model.net, host)
        spec = calibration.CalibrationSpec(samples=asked.windows, length=LENGTH)
        where = Path(scratch) / "calibration"
        if "calibration" in plugin.facts["needs"]:
            with meter.step("calibrate"):
                calibration.build(model, spec, where)
        if asked.blocks:
            some = "|".join(map(str, range(asked.blocks)))
            roles = {
                k.replace(r"\d+", f"(?:{some})"): v for k, v in model.roles.items()
            }
            model = replace(model, roles=roles)
        ctx = Context(
            model=model,
            seed=0,
            device=torch.device("cpu"),
            calibrate=lambda: calibration.open(where),
        )
        fitted = None
        if hasattr(made, "fit"):
            with meter.step("fit"):
                fitted = made.fit(model, ctx)
        with meter.step("compress"):
            net = made.compress(fitted, 0.0 if method == "dense" else RATIO, ctx)
        with meter.step("size"):
            size = model_size.size(model.with_net(net))
        with meter.step("perplexity"):
            loss = next(iter(Text(limit=asked.evaluated).evaluate(model.with_net(net))))
    print(
        f"  in all {meter.most / 1e9:.2f} GB anonymous, "
        f"{meter.most / weights:.2f} x the weights; "
        f"perplexity {loss.value:.4f}, {size.params} parameters",
        flush=True,
    )


def main() -> None:
    """Write the model if it is missing, then run each method in a new process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, default="0.5B")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument(
        "--placement", choices=("device", "blockwise"), default="device"
    )
    parser.add_argument("--blocks", type=int, default=0)
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--evaluated", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--limit", type=float, default=0.0, help="GB of anonymous memory"
    )
    parser.add_argument("--folder", type=Path, default=Path("/tmp/shrinkgrid-memory"))
    asked = parser.parse_args()
    folder = written(asked.model, asked.dtype, asked.folder)
    if len(asked.methods) == 1:
        one(asked.methods[0], folder, asked)
        return
    same = [a for a in sys.argv[1:] if a not in asked.methods and a != "--methods"]
    for method in asked.methods:
        command = [sys.executable, __file__, *same, "--methods", method]
        subprocess.run(command, check=False, env=os.environ)


if __name__ == "__main__":
    main()
