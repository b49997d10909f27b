"""JSON of files that anybody may have written."""

from __future__ import annotations

import json
from typing import Any


def read(text: bytes | str) -> Any:
    """The value of a JSON text.

    Args:
        text: Content of the file as text or bytes.

    Returns:
        Plain lists, dicts and scalars.

    Raises:
        ValueError: If it is not valid JSON or UTF-8, or is nested too deeply.

    >>> read(b'{"a": [1]}')
    {'a': [1]}
    """
    try:
        return json.loads(text)
    except RecursionError as why:
        raise ValueError("it is nested too deeply") from why


def mapping(text: str | None) -> dict[str, Any]:
    """Returns the JSON object in a stored text, which may be anything.

    Args:
        text: A column such as ``method_options``; None is the empty object.

    Returns:
        The object; a text that is not one is shown under the key ``unreadable``.

    >>> mapping('{"a": 1}'), mapping(None), mapping("{")
    ({'a': 1}, {}, {'unreadable': '{'})
    """
    try:
        found = read(text or "{}")
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"unreadable": text}
