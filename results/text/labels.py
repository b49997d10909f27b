"""Names with their options, as short as can be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=4096)
def label(name: str, options: str | None) -> str:
    """A name with its options, as short as can be.

    An option that only repeats the name (of a task of lm-eval) is left out; one that is
    a mapping (a training recipe) is told apart by four digits of its hash. A chain is
    called by its links.

    >>> label("svd", "{}"), label("gptq", '{"bits":4,"group":[1,2]}')
    ('svd', 'gptq bits=4 group=[1,2]')
    >>> label("piqa", '{"id":"piqa","limit":3}')
    'piqa limit=3'
    >>> label("mlp", '{"recipe":{"epochs":3}}')
    'mlp recipe=#cc63'
    >>> label("chain", '{"chain":["svd",{"bits":4,"name":"round_to_nearest"}]}')
    'svd + round_to_nearest bits=4'
    """
    given = json.loads(options) if options else {}
    if isinstance(given.get("chain"), list):
        name = " + ".join(map(_link, given.pop("chain")))
    words = [f"{k}={_short(v)}" for k, v in given.items() if v != name]
    return " ".join([name, *words])


def _link(entry: Any) -> str:
    if not isinstance(entry, Mapping):
        return str(entry)
    options = {key: value for key, value in entry.items() if key != "name"}
    return label(str(entry.get("name")), json.dumps(options))


def method_label(row: Mapping[str, Any]) -> str:
    """A method with all that tells two rows of one board and ratio apart.

    Args:
        row: Has ``method``, ``method_options``, ``calibration`` and ``dtype``.

    Returns:
        Its label, with the calibration where it reads one, and the floating-point type
        where that is not float32.
    """
    name = label(row["method"], row["method_options"])
    if row["calibration"]:
        name = label(name, _short_content(row["calibration"]))
    if row["dtype"] not in (None, "float32"):
        name = f"{name} {row['dtype']}"
    return name


def _short_content(calibration: str) -> str:
    """Calibration options with six digits of the content of the text.

    >>> _short_content('{"content":"sha256:0123456789abcdef","samples":8}')
    '{"content": "012345", "samples": 8}'
    """
    given = json.loads(calibration)
    if "content" in given:
        given["content"] = str(given["content"]).removeprefix("sha256:")[:6]
    return json.dumps(given)


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value
    text = json.dumps(value, separators=(",", ":"), sort_keys=True)
    if isinstance(value, Mapping):
        return f"#{hashlib.sha256(text.encode()).hexdigest()[:4]}"
    return text
