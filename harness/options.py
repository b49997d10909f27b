"""Options of plugins: typed dataclass fields, checked, canonical, part of identity."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union

from harness.core import BenchError


def nearest(kind: str, name: str, known: Iterable[str]) -> str:
    """One sentence that says that ``name`` is unknown, and offers the nearest.

    >>> nearest("method", "svdd", ["dense", "svd"])
    "no method called 'svdd'. Did you mean 'svd'? Known: dense, svd."
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"no {kind} called {name!r}.{hint} Known: {', '.join(names) or 'none'}."


def fields(plugin: type) -> dict[str, dataclasses.Field[Any]]:
    """The options of a plugin class, by name; those that start with ``_`` are not."""
    return {
        f.name: f
        for f in dataclasses.fields(plugin)
        if f.init and not f.name.startswith("_")
    }


def build(kind: str, name: str, plugin: type, options: Mapping[str, Any]) -> Any:
    """An instance of ``plugin`` with checked options.

    Args:
        kind: ``method``, ``task`` or ``model``, for the messages.
        name: The plugin's name, for the messages.
        plugin: A dataclass.
        options: Option name -> value as YAML gives it.

    Returns:
        The instance.

    Raises:
        BenchError: With every mistake in ``options``.
    """
    known = fields(plugin)
    hints = typing.get_type_hints(plugin)
    mistakes: list[str] = []
    values: dict[str, Any] = {}
    for key, value in options.items():
        if key not in known:
            mistakes.append(nearest(f"option of {kind} {name!r}", key, known))
            continue
        try:
            values[key] = _coerce(value, hints[key])
        except ValueError as why:
            mistakes.append(f"option {key!r} of {kind} {name!r}: {why}")
    for key, known_field in known.items():
        required = (
            known_field.default is dataclasses.MISSING
            and known_field.default_factory is dataclasses.MISSING
        )
        if required and key not in options:
            mistakes.append(f"{kind} {name!r} needs the option {key!r}")
    if mistakes:
        raise BenchError(*mistakes)
    try:
        return plugin(**values)
    except (ValueError, OverflowError) as why:  # its __post_init__ says what is wrong
        raise BenchError(f"{kind} {name!r}: {why}") from why


def canonical(instance: Any) -> dict[str, Any]:
    """The options that differ from their defaults, as plain JSON values.

    Only these enter a trial's identity, so that a plugin may gain an option without
    every stored trial of it running again.
    """
    given: dict[str, Any] = {}
    for name, known_field in fields(type(instance)).items():
        value = getattr(instance, name)
        default = known_field.default
        if known_field.default_factory is not dataclasses.MISSING:
            default = known_field.default_factory()
        if value != default:
            given[name] = plain(value)
    return given


def plain(value: Any) -> Any:
    """``value`` as JSON knows it: dataclasses become their non-default options."""
    if value is None or type(value) in (str, int, float, bool):  # nearly all are
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return canonical(value)
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return value


def dumps(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces.

    >>> dumps({"b": 1, "a": [0.5]})
    '{"a":[0.5],"b":1}'
    """
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"))


def _coerce(value: Any, hint: Any) -> Any:
    """``value`` as ``hint`` wants it; raises ValueError with what is allowed."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _coerce_union(value, inner)
    if origin is Literal:
        if value not in inner:
            raise ValueError(f"{value!r} is not one of {', '.join(map(repr, inner))}")
        return value
    if origin is tuple:
        return _coerce_tuple(value, inner)
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{value!r} is not a mapping")
        return dict(value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"{value!r} is not a mapping of options")
        try:
            return build("option", hint.__name__, hint, value)
        except BenchError as why:
            raise ValueError("; ".join(why.mistakes)) from why
    return _coerce_scalar(value, hint)


def _coerce_union(value: Any, inner: tuple[Any, ...]) -> Any:
    if value is None and type(None) in inner:
        return None
    reasons = []
    for member in inner:
        if member is type(None):
            continue
        try:
            return _coerce(value, member)
        except ValueError as why:
            reasons.append(str(why))
    raise ValueError(" and ".join(reasons))


def _coerce_tuple(value: Any, inner: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{value!r} is not a list")
    if len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(_coerce(item, inner[0]) for item in value)
    if len(inner) != len(value):
        raise ValueError(f"{value!r} has {len(value)} items, not {len(inner)}")
    return tuple(_coerce(i, hint) for i, hint in zip(value, inner, strict=True))


def _coerce_scalar(value: Any, hint: Any) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    exact = isinstance(value, hint) and not (
        isinstance(value, bool) and hint is not bool
    )
    if not exact:
        words = {int: "a whole number", float: "a number", str: "a text"}
        words[bool] = "true or false"
        raise ValueError(f"{value!r} is not {words.get(hint, hint)}")
    if hint is float and not -1e300 < value < 1e300:
        raise ValueError(f"{value!r} is not a finite number")
    return value
