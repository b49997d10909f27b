"""YAML that people write: safe, without duplicate keys, without bombs."""

from __future__ import annotations

from typing import Any

import yaml

MAX_BYTES = 1_000_000
MAX_NODES = 100_000  # after aliases are followed: `*a` of `*b` of `*c` ...
MAX_DEPTH = 40
MAX_DIGITS = 40  # of a number; Python needs minutes for a million of them


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A safe loader that refuses a key written twice, and every tag."""


def read(text: bytes) -> Any:
    """The value of a YAML text.

    Args:
        text: Of a file.

    Returns:
        Plain lists, dicts with plain keys, and scalars; a date is a text.

    Raises:
        ValueError: If it is no YAML, has a tag or a key twice, or is larger or deeper
            than any honest file.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has {len(text)} bytes; {MAX_BYTES} are allowed")
    try:
        _shallow(text.decode())
        loader = _Loader(text.decode())
        try:
            node = loader.get_single_node()
            _bounded(node, [0])
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except UnicodeDecodeError as why:
        raise ValueError(f"it is not UTF-8 text: {why}") from why
    except yaml.YAMLError as why:
        raise ValueError(f"it is not YAML: {' '.join(str(why).split())}") from why
    except (RecursionError, OverflowError) as why:
        raise ValueError(f"it cannot be read as YAML: {why}") from why


def _shallow(text: str) -> None:
    """Refuse what is nested deeply: libyaml's loader would end the process."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"it has more than {MAX_DEPTH} levels")


def _bounded(node: Any, count: list[int], within: tuple[Any, ...] = ()) -> None:
    """Refuse a document that is huge once its aliases are followed."""
    count[0] += 1
    if count[0] > MAX_NODES:
        raise ValueError(f"it has more than {MAX_NODES} values")
    if isinstance(node, yaml.CollectionNode):
        if node in within or len(within) > MAX_DEPTH:
            raise ValueError(f"it has more than {MAX_DEPTH} levels, or holds itself")
        for child in node.value:
            for one in child if isinstance(child, tuple) else (child,):
                _bounded(one, count, (*within, node))


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    made: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool | None):
            raise ValueError(f"line {_line(key_node)}: a key is a name")
        if key in made:
            raise ValueError(f"line {_line(key_node)}: the key {key!r} stands twice")
        made[key] = loader.construct_object(value_node, deep=True)
    return made


def _number(kind: str) -> Any:
    """The loader's own constructor of a kind of number, for texts of honest length."""
    construct = getattr(yaml.constructor.SafeConstructor, f"construct_yaml_{kind}")

    def constructs(loader: Any, node: yaml.ScalarNode) -> Any:
        if len(node.value) > MAX_DIGITS:
            raise ValueError(
                f"line {_line(node)}: a number of {len(node.value)} characters; write "
                "a text in quotation marks"
            )
        try:
            return construct(loader, node)
        except ValueError as why:
            raise ValueError(f"line {_line(node)}: {why}") from why

    return constructs


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _text(loader: Any, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _number("int"))
_Loader.add_constructor("tag:yaml.org,2002:float", _number("float"))
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _text)
for _tag in ("binary", "omap", "pairs", "set"):
    _Loader.add_constructor(
        f"tag:yaml.org,2002:{_tag}",
        yaml.constructor.SafeConstructor.construct_undefined,
    )
