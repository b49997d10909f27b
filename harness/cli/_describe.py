"""What the classes of plugins say of themselves: docstrings, types, defaults."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Union

import yaml

from harness.options import fields, plain

_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields|Example|Examples):$")
_ENTRY = re.compile(r"^ {4}(\w+)(?: \([^)]*\))?: (.*)$")
_WORDS = {
    int: "integer",
    float: "number",
    str: "text",
    dict: "mapping",
    Any: "any value",
}
_VALUES = {bool: ("true", "false"), type(None): ("null",)}
_IN_GRIDS = {"None": "null", "True": "true", "False": "false"}


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """One option of a plugin.

    Args:
        name: As a grid writes it.
        type: Its type in words.
        default: The default as a grid would write it; None if the option is required.
        meaning: From the docstring, with values as a grid would write them.
    """

    name: str
    type: str
    default: str | None
    meaning: str


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


def meanings(cls: type) -> dict[str, str]:
    """As ``described``, with None, True and False as a grid would write them."""
    words = rf"\b({'|'.join(_IN_GRIDS)})\b"
    return {
        name: re.sub(words, lambda found: _IN_GRIDS[found[0]], meaning)
        for name, meaning in described(cls).items()
    }


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


def type_of(
    hint: Any,
    value: Callable[[str], str] = str,
    link: Callable[[type], str] = lambda cls: cls.__name__,
) -> str:
    """A type in words.

    Args:
        hint: The annotation of an option.
        value: Writes a value that an option may have.
        link: Writes the name of a dataclass, which is a nested option.

    Returns:
        The words.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)

    def words(one: Any) -> str:
        return type_of(one, value, link)

    if origin is Literal:
        return " or ".join(value(str(one)) for one in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(map(words, inner))
    if origin is tuple and len(inner) == 2 and inner[1] is Ellipsis:
        return f"list of {words(inner[0])}"
    if origin is tuple:
        return f"list: {', '.join(map(words, inner))}"
    if origin in (dict, Mapping):
        return "mapping"
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return link(hint)
    if hint in _VALUES:
        return " or ".join(map(value, _VALUES[hint]))
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def nested(hint: Any) -> Iterable[type]:
    """The dataclasses inside a type, in order."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield hint
    for inner in typing.get_args(hint):
        yield from nested(inner)


def default_of(field: dataclasses.Field[Any]) -> str | None:
    """The default value as a grid would write it; None if there is none."""
    if field.default is not dataclasses.MISSING:
        return as_yaml(plain(field.default))
    if field.default_factory is not dataclasses.MISSING:
        return as_yaml(plain(field.default_factory()))
    return None


def as_yaml(value: Any) -> str:
    """A plain value in YAML's one-line form, as a grid file would have it.

    >>> as_yaml({"pattern": "2:4", "layers": [1, None], "keep": True})
    "{pattern: '2:4', layers: [1, null], keep: true}"
    """
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, width=math.inf
    )
    return str(text).removesuffix("\n").removesuffix("\n...")


def options(
    cls: type,
    value: Callable[[str], str] = str,
    link: Callable[[type], str] = lambda cls: cls.__name__,
) -> list[Option]:
    """The options of a plugin class.

    Args:
        cls: The class.
        value: As for ``type_of``.
        link: As for ``type_of``.

    Returns:
        One entry an option, in their order.
    """
    hints, meaning = typing.get_type_hints(cls), meanings(cls)
    return [
        Option(
            name,
            type_of(hints[name], value, link),
            default_of(f),
            meaning.get(name, ""),
        )
        for name, f in fields(cls).items()
    ]
