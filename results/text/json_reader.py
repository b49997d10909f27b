"""JSON of files that anybody may have written."""

from __future__ import annotations

import json
from typing import Any


def read(text: bytes | str) -> Any:
    """The value of a JSON text.

    Args:
        text: Of a file.

    Returns:
        Plain lists, dicts and scalars.

    Raises:
        ValueError: If it is no JSON, is no UTF-8, or is nested too deeply to be read.

    >>> read(b'{"a": [1]}')
    {'a': [1]}
    """
    try:
        return json.loads(text)
    except RecursionError as why:
        raise ValueError("it is nested too deeply") from why
