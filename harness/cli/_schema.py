"""The JSON Schema of grid files, made of the plugins that are installed."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union

from harness.cli import _describe
from harness.options import fields, plain

_DRAFT = "http://json-schema.org/draft-07/schema#"  # what editors know
_SCALARS: dict[Any, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    type(None): {"type": "null"},
    dict: {"type": "object"},
}
_MEANINGS = {
    "name": "Name of the grid; by default that of the file.",
    "description": "What the grid is to show.",
    "blocks": "Several products; a key beside `blocks` is the default of every block.",
    "models": "Names, or {name: ..., option: ...}.",
    "methods": "Names, or {name: ..., option: ...}, or {chain: [...]}.",
    "tasks": "Names, or {name: ..., option: ...}.",
    "ratios": "The shares to remove, in [0, 1).",
    "seeds": "Whole numbers; by default one seed, 0.",
    "exclude": "Rules; a trial that matches every key of a rule is dropped.",
    "calibration": "Text and windows for methods that read calibration text.",
    "dtype": "Floating-point type of the weights.",
    "resources": "What one bundle may use; what is left out is predicted.",
}
_RATIO = {"type": "number", "minimum": 0, "exclusiveMaximum": 1}


def schema() -> dict[str, Any]:
    """The schema; a file that it refuses is also refused by ``plan``.

    Not every error can be seen in it: a name of a model or task may be one of the
    Hugging Face hub or of lm-eval, and ranges of options are checked by the plugins.

    Returns:
        JSON Schema of draft 7.
    """
    from harness.planning.grid import BLOCK_KEYS, GRID_KEYS

    keys = _keys()
    block = _mapping({key: keys[key] for key in BLOCK_KEYS})
    keys["blocks"] = _listed(block) | {"description": _MEANINGS["blocks"]}
    kinds = ("model", "method", "task")
    return {
        "$schema": _DRAFT,
        "title": "Grid of shrinkgrid",
        "type": "object",
        "properties": {key: keys[key] for key in GRID_KEYS},
        "patternProperties": {"^x-": {"description": "For YAML anchors; not read."}},
        "additionalProperties": False,
        "definitions": {kind: _item(kind) for kind in kinds} | {"member": _member()},
    }


def _keys() -> dict[str, Any]:
    """Key of a grid, other than ``blocks`` -> its schema."""
    from harness.planning.exclude import KEYS
    from harness.planning.grid import DTYPES
    from harness.planning.resources import Resources
    from harness.planning.values import SHORT_DTYPES
    from harness.toolkit.calibration import CalibrationSpec

    patterns = {"type": ["string", "array", "number"]}
    request = _properties(Resources)
    rule = request | {"model": patterns, "method": patterns}
    keys: dict[str, dict[str, Any]] = {
        "name": {"type": "string", "minLength": 1},
        "description": {"type": "string"},
        "models": _listed({"$ref": "#/definitions/model"}),
        "methods": _listed({"$ref": "#/definitions/method"}),
        "tasks": _listed({"$ref": "#/definitions/task"}),
        "ratios": _listed(_RATIO),
        "seeds": _listed({"type": "integer", "minimum": 0}),
        "exclude": {"type": "array", "items": _mapping(dict.fromkeys(KEYS, patterns))},
        "calibration": _mapping(_properties(CalibrationSpec)),
        "dtype": {"enum": [*DTYPES, *SHORT_DTYPES]},
        "resources": _mapping(
            request | {"for": {"type": "array", "items": _mapping(rule)}}
        ),
    }
    for key, one in keys.items():
        one["description"] = _MEANINGS[key]
    return keys


def _listed(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": dict(items), "minItems": 1}


def _mapping(
    properties: Mapping[str, Any], required: Iterable[str] = ()
) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "object", "properties": dict(properties)}
    # Anything may stand under ``x-...``: that is where people keep YAML anchors.
    made["patternProperties"] = {"^x-": {}}
    return made | {"additionalProperties": False, "required": list(required)}


def _item(kind: str) -> dict[str, Any]:
    """One line of ``models``, ``methods`` or ``tasks``."""
    forms = _forms(kind, {})
    if kind == "method":
        chain = {"type": "array", "items": {"$ref": "#/definitions/member"}}
        forms.append(_mapping({"chain": chain, "name": {"const": "chain"}}, ["chain"]))
    return {"anyOf": forms}


def _member() -> dict[str, Any]:
    """A method in a chain, which may have a ratio of its own."""
    return {"anyOf": _forms("method", {"ratio": _RATIO})}


def _forms(kind: str, more: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A plugin by its name, and with options; ``more`` are keys beside these."""
    from harness.registry import discover

    plugins = discover(kind)
    known = [
        {"const": name, "description": plugin.summary}
        for name, plugin in plugins.items()
    ]
    # Other names of models are those of a hub, and other tasks those of lm-eval.
    free = [] if kind == "method" else [{"type": "string", "minLength": 1}]
    name = {"anyOf": [*known, *free]}
    # The options depend on the name, which JSON Schema says as one if-then per plugin.
    chosen = [
        {
            "if": {"properties": {"name": {"const": plugin.name}}},
            "then": _options(plugin.cls, more),
        }
        for plugin in plugins.values()
    ]
    whole = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": name},
        "allOf": chosen,
    }
    return [name, whole]


def _options(cls: type, more: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a plugin, each with its type, default and meaning."""
    required = [
        name
        for name, field in fields(cls).items()
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    return {
        "properties": {"name": {}, **_properties(cls), **more},
        "required": required,
        "additionalProperties": False,
    }


def _properties(cls: type) -> dict[str, Any]:
    hints, meaning = typing.get_type_hints(cls), _describe.meanings(cls)
    found = {}
    for name, field in fields(cls).items():
        one = dict(_type(hints[name]))
        if meaning.get(name):
            one["description"] = meaning[name]
        if field.default is not dataclasses.MISSING:
            one["default"] = plain(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            one["default"] = plain(field.default_factory())
        found[name] = one
    return found


def _type(hint: Any) -> dict[str, Any]:
    """The schema of the values that ``harness.options.build`` takes for a type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_type(one) for one in inner]}
    # ``tuple[int, ...]`` is a list of any length; other tuples have one type per place.
    if origin is tuple and len(inner) == 2 and inner[1] is Ellipsis:
        return {"type": "array", "items": _type(inner[0])}
    if origin is tuple:
        many = len(inner)
        items = [_type(one) for one in inner]
        return {"type": "array", "items": items, "minItems": many, "maxItems": many}
    if origin in (dict, Mapping):
        return {"type": "object"}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _mapping(_properties(hint))
    # An unknown type allows everything: the schema must not refuse what ``plan`` takes.
    return _SCALARS.get(hint, {})
