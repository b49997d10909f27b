"""What is wrong with keys and plain values of a grid file, in words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from harness.options import nearest

SHORT_DTYPES = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp64": "float64",
}


def full_dtype(value: Any) -> Any:
    """The full name of a floating-point type; any other value as it is."""
    return SHORT_DTYPES.get(value, value) if isinstance(value, str) else value


def unknown_key(key: str, known: Sequence[str]) -> str:
    """As ``nearest``; a singular for a plural needs no list of all keys."""
    if f"{key}s" in known:
        return f"no key called {key!r}. Did you mean '{key}s'?"
    return nearest("key", key, known)


def not_a_list(key: str, value: Any) -> str:
    """The error for a value where a grid needs a list; shows the list to write."""
    if isinstance(value, list) or value is None:
        return f"{key} is an empty list; write {key}: [...] with at least one value"
    # PyYAML ends a scalar document with "..." on a line of its own.
    shown = yaml.safe_dump(value, default_flow_style=True, width=1000)
    shown = shown.removesuffix("\n").removesuffix("\n...")
    return f"{key} {value!r} is not a list; write {key}: [{shown}]"


def bad_ratio(value: Any) -> str | None:
    """Why a value is not a ratio, or None."""
    # Python's bool is an int, so that ``true`` in a grid would pass as 1.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and math.isfinite(value) and 0 <= value < 1:
        return None
    return (
        f"ratio {value!r} is not in [0, 1): it is the share to remove "
        f"(write {_share(value)})"
    )


def _share(value: Any) -> str:
    """A valid ratio in place of a wrong one.

    >>> _share("40%"), _share(30), _share("a lot")
    ("0.4 for '40%'", '0.3 for 30 %', "0.2 for '20%'")
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", str(value))
    if not found or float(found[1]) >= 100:
        return "0.2 for '20%'"
    share = float(found[1])
    if found[2] or share > 1:
        share /= 100
    # "1" may mean 1 % or everything; neither guess is safe.
    if share == 1:
        return "a number below 1"
    shown = repr(value) if isinstance(value, str) else f"{value} %"
    return f"{share:g} for {shown}"


def bad_seed(value: Any) -> str | None:
    """Why a value is not a seed, or None."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return None
    return f"seed {value!r} is not a whole number from 0 up"


def too_many(trials: int, most: int) -> list[str]:
    """The error for a product with more than ``most`` trials, if it has more."""
    if trials <= most:
        return []
    return [
        f"the product has {trials} trials, and {most} are allowed: cut it into several "
        "grids, which may share a store"
    ]


def with_changes(
    value: Mapping[Any, Any], changed: Mapping[str, Any]
) -> dict[Any, Any]:
    """Return a grid with other values for some keys.

    Args:
        value: The content of the file.
        changed: Key -> value that replaces the file's, in every block.

    Returns:
        The content; what a block says of these keys is left out.
    """
    made = {**value, **changed}
    blocks = value.get("blocks")
    if isinstance(blocks, list) and "blocks" not in changed:
        made["blocks"] = [
            {k: v for k, v in block.items() if k not in changed}
            if isinstance(block, dict)
            else block
            for block in blocks
        ]
    return made
