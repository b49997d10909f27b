"""GGUF files opened by llama.cpp, and compared with the network that was measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.core import BenchError, Model

PACKAGE = "llama_cpp"
# Of the norm of the logits. llama.cpp rounds activations to the 8 digits of bfloat16
# before it multiplies them with such weights; a wrong layout is off by about 1.
ALLOWED = 0.05
# Letters, digits, blanks and signs, which pre-tokenizers cut in different ways.
TEXTS = (
    "The capital of France is",
    "def f(n):\n    return n + 1234567  # they'll see\n\n\tx = 3.14",
    "Größe, naïve, 東京 и мир… 'S 😀!!",
)


def can_check() -> bool:
    """Whether llama-cpp-python is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def compare(model: Model, path: Path) -> float:
    """Let llama.cpp compute what a network computes.

    Args:
        model: The network that was measured, with its tokenizer.
        path: A GGUF file of it.

    Returns:
        The norm of the difference between the logits of all tokens of ``TEXTS``, as a
        share of the norm of those of the network.

    Raises:
        BenchError: If llama.cpp does not open the file, cuts a text into other tokens,
            or computes other logits.
    """
    from llama_cpp import Llama

    try:
        # Keys and values in float32 (type 0), which are rounded to 16 bits by default.
        exact = {"type_k": 0, "type_v": 0, "flash_attn": False}
        opened = Llama(str(path), n_ctx=128, logits_all=True, verbose=False, **exact)
    except (ValueError, OSError, RuntimeError) as why:
        raise BenchError(f"llama.cpp does not open the file: {why}") from why
    here, there = [], []
    for text in TEXTS:
        ids = model.tokenizer(text).input_ids
        told = opened.tokenize(text.encode(), add_bos=True, special=True)
        if told != ids:
            raise BenchError(
                f"llama.cpp cuts {text!r} into other tokens ({told[:8]}) than the "
                f"tokenizer of {model.name} ({ids[:8]}); take --format hf"
            )
        opened.reset()
        opened.eval(ids)
        there.append(torch.from_numpy(opened.scores[: len(ids)].copy()).double())
        here.append(_logits(model.net, ids))
    wanted, found = torch.cat(here), torch.cat(there)
    gap = float((found - wanted).norm() / wanted.norm())
    if not gap <= ALLOWED:  # NaN, too, ends here
        raise BenchError(
            f"the logits of llama.cpp differ from those of {model.name} by {gap:.1g} "
            f"of their norm, and {ALLOWED} is allowed; take --format hf"
        )
    return gap


@torch.no_grad()
def _logits(net: Any, ids: list[int]) -> Tensor:
    device = next(net.parameters()).device
    given = torch.tensor([ids], device=device)
    logits: Tensor = net(input_ids=given, use_cache=False).logits[0]
    return logits.double().cpu()
