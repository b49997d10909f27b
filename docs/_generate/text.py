"""Markdown of docstrings, types and default values."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union

from harness.options import fields, plain

_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields|Example|Examples):$")
_ENTRY = re.compile(r"^ {4}(\w+)(?: \([^)]*\))?: (.*)$")
WORDS = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "`true` or `false`",
    type(None): "`null`",
    dict: "mapping",
    Any: "any value",
}


def body(doc: str | None) -> str:
    """A docstring up to its first section."""
    kept = []
    for line in inspect.cleandoc(doc or "").splitlines():
        if _SECTION.match(line):
            break
        kept.append(line)
    return "\n".join(kept).strip()


def described(cls: type) -> dict[str, str]:
    """Option -> meaning, from the ``Args:`` of a class and of its base classes."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found |= _entries(base.__doc__)
    return found


def _entries(doc: str | None) -> dict[str, str]:
    """The entries of the ``Args:`` section of one docstring."""
    found: dict[str, str] = {}
    inside, name = False, ""
    for line in inspect.cleandoc(doc or "").splitlines():
        if _SECTION.match(line):
            inside = line in ("Args:", "Attributes:")
        elif inside and (entry := _ENTRY.match(line)):
            name = entry[1]
            found[name] = entry[2].strip()
        elif inside and name and line.strip():
            found[name] += " " + line.strip()
    return found


def type_of(hint: Any) -> str:
    """A type in words; a dataclass is a link to the page of nested options."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(type_of(member) for member in inner)
    if origin is tuple and len(inner) == 2 and inner[1] is Ellipsis:
        return f"list of {type_of(inner[0])}"
    if origin is tuple:
        return f"list: {', '.join(map(type_of, inner))}"
    if origin in (dict, Mapping):
        return "mapping"
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return f"[{hint.__name__}](nested-options.md#{hint.__name__.lower()})"
    return WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def nested(hint: Any) -> Iterable[type]:
    """The dataclasses inside a type, in order."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield hint
    for inner in typing.get_args(hint):
        yield from nested(inner)


def default_of(field: dataclasses.Field[Any]) -> str:
    """The default value as a grid would write it."""
    if field.default is not dataclasses.MISSING:
        return f"`{as_yaml(plain(field.default))}`"
    if field.default_factory is not dataclasses.MISSING:
        return f"`{as_yaml(plain(field.default_factory()))}`"
    return "required"


def as_yaml(value: Any) -> str:
    """A plain value in YAML's one-line form.

    >>> as_yaml({"on": [1, None], "keep": True})
    '{on: [1, null], keep: true}'
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key}: {as_yaml(item)}" for key, item in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_yaml, value))}]"
    return str(value)


def options(cls: type) -> list[tuple[str, str, str, str]]:
    """Name, type, default and meaning of each option of a plugin class."""
    hints, meaning = typing.get_type_hints(cls), described(cls)
    return [
        (f"`{name}`", type_of(hints[name]), default_of(f), meaning.get(name, ""))
        for name, f in fields(cls).items()
    ]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """A Markdown table, with a blank line behind it; nothing if there are no rows."""
    cells = [[_cell(text) for text in row] for row in rows]
    if not cells:
        return []
    head = list(head)
    lines = [head, ["---"] * len(head), *cells]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", r"\|")
