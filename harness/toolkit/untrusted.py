"""Saved networks that anybody may have written: read within bounds, or refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch.utils._python_dispatch import TorchDispatchMode

from harness.core import BenchError
from results.text import json_reader

MAX_FORM = 50_000_000  # bytes of structure.json
MAX_REASON = 300  # characters of a foreign error
# The dense network may be this many times larger than its compressed file, or this
# many bytes larger; a file that needs more was not written by this project.
LARGEST, SPARE = 64, 2**30
# What plugins, torch and safetensors raise where the two files are not as saved.
BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
)
# That build one network, and more for each part that its form lists: an expert takes
# ten. A hundred layers take a thousand.
OPERATIONS, OF_A_PART = 20_000, 50
_WIDEST = 8  # bytes of the widest element
GROWTH = 1000.0  # times longer that a tokenizer's rules may make a text


class Budget(TorchDispatchMode):
    """While it is entered, a network may be built that fits what was stored of it.

    The sizes of tensors are looked at before anything is allocated.

    Args:
        stored: Bytes of the file with its tensors.
        what: Who asks, for the message.
        parts: Number of modules that the form lists.
    """

    def __init__(self, stored: int, what: str, parts: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.limit, self.what = SPARE + LARGEST * stored, what
        self.steps = OPERATIONS + OF_A_PART * parts
        self.bytes = self.operations = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Count what a factory is about to make, then let it."""
        self.operations += 1
        # Sums all allocations and not only those alive: a bound that is simple and
        # large enough.
        self.bytes += _asked(str(func), args)
        if self.bytes > self.limit or self.operations > self.steps:
            raise BenchError(
                f"{self.what} asks for {self.bytes:.3g} bytes in {self.operations} "
                f"steps; at most {self.limit} bytes fit what was stored"
            )
        return func(*args, **(kwargs or {}))


def _asked(name: str, args: Sequence[Any]) -> int:
    """Bytes of what ``empty``, ``zeros``, ``rand``, ``arange`` ... will make."""
    first = args[0] if args else None
    if isinstance(first, list | tuple) and all(isinstance(n, int) for n in first):
        return math.prod(first) * _WIDEST
    if name.startswith(("aten.arange", "aten.linspace", "aten.eye")):
        numbers = [abs(n) for n in args[:2] if isinstance(n, int | float)]
        power = 2 if name.startswith("aten.eye") else 1
        return int(max(numbers, default=0)) ** power * _WIDEST
    return 0


def refuse_bomb(tokenizer: Any, what: str) -> None:
    """Refuse a tokenizer that blows up what it reads: thirty rules "a becomes aa".

    Args:
        tokenizer: Of transformers; one without rules in the file passes.
        what: Whose it is, for the message.

    Raises:
        BenchError: If its rules, one after the other, can make a text longer than
            ``GROWTH`` times.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    for part in ("normalizer", "decoder"):
        rules = getattr(backend, part, None)
        if (
            rules is not None
            and growth(json_reader.read(rules.__getstate__())) > GROWTH
        ):
            raise BenchError(
                f"the {part} in the tokenizer of {what} makes a text more than "
                f"{GROWTH:g} times longer; no honest one does"
            )


def growth(rule: Mapping[str, Any]) -> float:
    """How many times longer a text can become by a rule of a tokenizer's file.

    >>> growth({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
    1.0
    >>> twice = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    >>> growth({"type": "Sequence", "normalizers": [twice] * 10})
    1024.0
    """
    inner = [r for k in ("normalizers", "decoders") for r in rule.get(k) or ()]
    if inner:
        return math.prod(map(growth, inner))
    content = len(rule.get("content") or rule.get("prepend") or "")
    pattern = (rule.get("pattern") or {}).get("String")
    if pattern:
        return max(1.0, content / len(pattern))
    return 1.0 + content  # before every character, at most


def read_form(path: Path, newest: int) -> dict[str, Any]:
    """The content of ``structure.json``, in the shape that ``structure.save`` gives it.

    Args:
        path: Path of the file ``structure.json``.
        newest: The newest format that can be read.

    Returns:
        ``origin``, ``layers``, ``sizes``, ``same`` and ``tied``.

    Raises:
        ValueError: If it has another shape.
        BenchError: If its format is newer.
    """
    if path.stat().st_size > MAX_FORM:
        raise ValueError(f"{path.name} has more than {MAX_FORM} bytes")
    form = json_reader.read(path.read_bytes())
    keys: dict[str, type] = {"format": int, "origin": dict, "layers": dict}
    keys |= {"sizes": dict, "same": dict, "tied": dict}
    for key, kind in keys.items():
        if not isinstance(form, dict) or not isinstance(form.get(key), kind):
            raise ValueError(f"{path.name} has no {key!r} of type {kind.__name__}")
    if form["format"] > newest:
        raise BenchError(
            f"{path} has format {form['format']}, this version reads up to {newest}: "
            "update shrinkgrid"
        )
    return dict(form)
