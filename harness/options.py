"""Options of plugins: typed dataclass fields, checked, canonical, part of identity."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union

from harness.core import BenchError
from results.errors import suggestion


def nearest(kind: str, name: str, known: Iterable[str]) -> str:
    """One sentence that says that ``name`` is unknown, and offers the nearest.

    >>> nearest("method", "svdd", ["dense", "svd"])
    "no method called 'svdd'. Did you mean 'svd'? Known: dense, svd."
    """
    names = sorted(known)
    near = suggestion(str(name), names)
    hint = f" Did you mean {near!r}?" if near else ""
    return f"no {kind} called {name!r}.{hint} Known: {', '.join(names) or 'none'}."


def fields(plugin: type) -> dict[str, dataclasses.Field[Any]]:
    """The options of a plugin class, by name; those that start with ``_`` are not."""
    return {
        f.name: f
        for f in dataclasses.fields(plugin)
        if f.init and not f.name.startswith("_")
    }


def build(
    kind: str, name: str, plugin: type, options: Mapping[str, Any], base: Any = None
) -> Any:
    """Build an instance of a dataclass from options as YAML gives them.

    An option that is a dataclass itself (a training recipe) may be given in part: the
    fields that are left out keep the value that they have in the plugin's default.

    Args:
        kind: ``method``, ``task`` or ``model``, for the messages.
        name: The plugin's name, for the messages; empty if ``kind`` says it all.
        plugin: Dataclass of the plugin, whose fields are the options.
        options: Option name -> value as YAML gives it.
        base: An instance of ``plugin`` that has the values of the options left out;
            None takes the defaults of the class.

    Returns:
        The instance.

    Raises:
        BenchError: With every error in ``options``.
    """
    known = fields(plugin)
    hints = typing.get_type_hints(plugin)
    errors: list[str] = []
    named = f"{kind} {name!r}" if name else kind
    # Options that the user leaves out keep the plugin's default, also inside a nested
    # option.
    values = {} if base is None else {key: getattr(base, key) for key in known}
    for key, value in options.items():
        if key not in known:
            errors.append(nearest(f"option of {named}", key, known))
            continue
        default = values.get(key, _default(known[key]))
        try:
            values[key] = _coerce(value, hints[key], default)
        except ValueError as why:
            errors.append(f"option {key!r} of {named}: {why}")
    for key, known_field in known.items():
        given = key in options or key in values
        # Checked here: the dataclass would raise for the first missing option only.
        if not given and _default(known_field) is dataclasses.MISSING:
            errors.append(f"{named} needs the option {key!r}")
    if errors:
        raise BenchError(*errors)
    try:
        return plugin(**values)
    except (ValueError, OverflowError) as why:  # its __post_init__ says what is wrong
        raise BenchError(f"{named}: {why}") from why


def _default(known: dataclasses.Field[Any]) -> Any:
    """The default of a field, ``MISSING`` if it has none."""
    if known.default_factory is not dataclasses.MISSING:
        return known.default_factory()
    return known.default


def defaults(cls: type) -> dict[str, Any]:
    """The defaults of a plugin's options, by name, as plain values."""
    found = {name: _default(known) for name, known in fields(cls).items()}
    return {
        name: _inside(name, value)
        for name, value in found.items()
        if value is not dataclasses.MISSING
    }


def canonical(instance: Any, default: Any = None) -> dict[str, Any]:
    """The options that differ from their defaults, as plain JSON values.

    Only these enter a trial's identity, so that a plugin may gain an option without
    every stored trial of it running again. Of a nested dataclass, every field is
    written that differs from the plugin's default or from the default of its class:
    then the text has one meaning, whatever fields a reader fills in from where.

    Args:
        instance: A dataclass; ``build`` makes an equal one from the result.
        default: Another instance of its class, the default of the option that
            ``instance`` is the value of; None compares with the class alone.

    Returns:
        Option name -> plain value.
    """
    given: dict[str, Any] = {}
    for name, known_field in fields(type(instance)).items():
        value, of_class = getattr(instance, name), _default(known_field)
        usual = of_class if default is None else getattr(default, name)
        # Both comparisons: a value that equals the plugin's default but not that of its
        # class must be written, or a reader that starts from the class would get
        # another one.
        if value != usual or value != of_class:
            nested = dataclasses.is_dataclass(value) and type(value) is type(usual)
            given[name] = canonical(value, usual) if nested else _inside(name, value)
    return given


class NotPlain(ValueError):
    """A value that JSON cannot store, or not so that equal values give equal texts.

    Args:
        value: The value.
    """

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.shown = shown(value)
        self.path: list[str] = []  # keys from the outermost to the innermost

    def __str__(self) -> str:
        where = f"{'.'.join(self.path)} is " if self.path else ""
        return (
            f"{where}{self.shown}; allowed are text, finite numbers, True, False, "
            "None, lists, and mappings whose keys are text"
        )


def shown(value: Any) -> str:
    """A value and its type for an error, also where its ``repr`` raises.

    >>> shown({1})
    '{1}, a set'
    """
    kind = type(value).__name__
    try:
        return f"{value!r:.80}, a {kind}"
    except Exception:  # of the value's own class
        return f"an object of type {kind}"


def plain(value: Any) -> Any:
    """``value`` as JSON knows it: dataclasses become their non-default options.

    Args:
        value: Text, numbers, and lists, mappings and dataclasses of them.

    Returns:
        An equal value of JSON's types.

    Raises:
        NotPlain: If there is anything else in it: a set has no order, the text of an
            object has its address, and NaN is not JSON.
    """
    if value is None or type(value) is bool:
        return value
    if isinstance(value, str | int | float):
        return _plain_scalar(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return canonical(value)
    if isinstance(value, tuple | list):
        return [_inside(str(index), item) for index, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {_plain_scalar(key): _inside(key, item) for key, item in value.items()}
    raise NotPlain(value)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, str):
        # A half of a surrogate pair has no UTF-8, and the store's readers of JSON end
        # at a NUL.
        if "\0" in value or not (value.isascii() or _is_unicode(value)):
            raise NotPlain(value)
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**64:  # more bits than the store's readers take
            raise NotPlain(value)
    elif not math.isfinite(value):
        raise NotPlain(value)
    return value


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _inside(key: str, item: Any) -> Any:
    """A part of a value; an error says where the part is."""
    try:
        return plain(item)
    except NotPlain as why:
        why.path.insert(0, key)
        raise


def dumps(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces.

    >>> dumps({"b": 1, "a": [0.5]})
    '{"a":[0.5],"b":1}'
    """
    return json.dumps(
        plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False
    )


def _coerce(value: Any, hint: Any, default: Any = None) -> Any:
    """Convert ``value`` to ``hint``; a ValueError says what is allowed.

    ``default`` has the fields that a mapping for a dataclass leaves out.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _coerce_union(value, inner, default)
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
        base = default if isinstance(default, hint) else None
        try:
            return build("option", hint.__name__, hint, value, base)
        except BenchError as why:
            raise ValueError("; ".join(why.errors)) from why
    return _coerce_scalar(value, hint)


def _coerce_union(value: Any, inner: tuple[Any, ...], default: Any) -> Any:
    # Members are tried in order, so that ``int | str`` reads 4 as a number.
    if value is None and type(None) in inner:
        return None
    reasons = []
    for member in inner:
        if member is type(None):
            continue
        try:
            return _coerce(value, member, default)
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
    # YAML writes 1 for 1.0. A bool is an ``int`` in Python and is refused for numbers.
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    exact = isinstance(value, hint) and not (
        isinstance(value, bool) and hint is not bool
    )
    if not exact:
        words = {int: "a whole number", float: "a number", str: "a text"}
        words[bool] = "true or false"
        raise ValueError(f"{value!r} is not {words.get(hint, hint)}")
    # Refuses NaN, too, which no comparison includes.
    if hint is float and not -1e300 < value < 1e300:
        raise ValueError(f"{value!r} is not a finite number")
    return value
