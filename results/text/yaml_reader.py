"""Reads YAML that people write: no duplicate keys, no tags, no alias bombs."""

from __future__ import annotations

import re
from typing import Any

import yaml

MAX_BYTES = 1_000_000
MAX_NODES = 100_000  # after aliases are followed: `*a` of `*b` of `*c` ...
MAX_DEPTH = 40
MAX_DIGITS = 40  # of a number; Python needs minutes for a million of them


_MERGE = "tag:yaml.org,2002:merge"
_FLOAT = "tag:yaml.org,2002:float"
# YAML 1.2 reads these as numbers; YAML 1.1, and so PyYAML, reads 1e-1 as a text.
_EXPONENT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A safe loader that refuses every tag and every number that can be misread."""


def read(text: bytes) -> Any:
    """Read one YAML document.

    Args:
        text: The bytes of a file, UTF-8, with or without a byte order mark.

    Returns:
        Plain lists, dicts with plain keys, and scalars; a date is a text.

    Raises:
        ValueError: If it is not valid YAML, has a tag, has a key twice in one mapping,
            or is larger or deeper than a hand-written file can be.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has {len(text)} bytes; {MAX_BYTES} are allowed")
    try:
        decoded = text.decode("utf-8-sig")
        _shallow(decoded)
        loader = _Loader(decoded)
        try:
            node = loader.get_single_node()
            _bounded(node, [0])
            _unique(loader, node)
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except UnicodeDecodeError as why:
        raise ValueError(f"it is not UTF-8 text: {why}") from why
    except yaml.YAMLError as why:
        raise ValueError(f"it is not YAML: {_position(why, decoded)}") from why
    except (RecursionError, OverflowError) as why:
        raise ValueError(f"it cannot be read as YAML: {why}") from why


def _position(why: yaml.YAMLError, text: str) -> str:
    """What is wrong, with its line and column, that line, and how to fix it."""
    mark = getattr(why, "problem_mark", None)
    if mark is None:
        return " ".join(str(why).split())
    problem = " ".join(str(getattr(why, "problem", None) or why).split())
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    hint = ""
    if "\t" in line[: mark.column + 1]:
        problem, hint = "a tab", "; indent with spaces"
    elif "mapping values are not allowed" in problem:
        hint = "; put a value that has a colon in quotation marks, or fix the indent"
    elif "did not find expected" in problem:
        hint = "; look at the indent and the brackets of this line and the one above"
    shown = f" in {line.strip()[:80]!r}" if line.strip() else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}{shown}{hint}"


def _shallow(text: str) -> None:
    """Refuse deep nesting, which makes libyaml's loader end the process."""
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
        if node in within or len(within) >= MAX_DEPTH:
            raise ValueError(f"it has more than {MAX_DEPTH} levels, or holds itself")
        for child in node.value:
            for one in child if isinstance(child, tuple) else (child,):
                _bounded(one, count, (*within, node))


def _unique(loader: Any, node: Any) -> None:
    """Refuse a key that is written twice in one mapping.

    This runs on the nodes as they are written: a merge key ``<<`` adds the keys of
    another mapping later, and a key written beside it overrides the merged one.
    """
    if not isinstance(node, yaml.CollectionNode):
        return
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _unique(loader, child)
        return
    seen = set()
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise ValueError(f"line {_line(key_node)}: a key must be a name")
        merge = key_node.tag == _MERGE
        key = "<<" if merge else loader.construct_object(key_node, deep=True)
        if key in seen:
            raise ValueError(f"line {_line(key_node)}: the key {key!r} stands twice")
        seen.add(key)
        _unique(loader, value_node)


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    return {
        key: loader.construct_object(value, deep=True)
        for key, value in _merged(loader, node).items()
    }


def _merged(loader: Any, node: yaml.MappingNode) -> dict[Any, yaml.Node]:
    """Keys of a mapping and of what ``<<`` merges into it, with their value nodes.

    A key that the mapping has itself wins; of several merged mappings the first wins.
    PyYAML's own ``flatten_mapping`` changes the nodes, so that a mapping that merges
    another one is merged wrongly into a third.
    """
    found: dict[Any, yaml.Node] = {}
    for key_node, value in node.value:
        if key_node.tag == _MERGE:
            several = isinstance(value, yaml.SequenceNode)
            for one in reversed(value.value if several else [value]):
                if not isinstance(one, yaml.MappingNode):
                    raise ValueError(f"line {_line(one)}: `<<` merges mappings only")
                found |= _merged(loader, one)
    for key_node, value in node.value:
        if key_node.tag != _MERGE:
            found[loader.construct_object(key_node, deep=True)] = value
    return found


def _number(kind: str) -> Any:
    """Wrap the loader's constructor of a number; refuse what two people read apart."""
    construct = getattr(yaml.constructor.SafeConstructor, f"construct_yaml_{kind}")

    def constructs(loader: Any, node: yaml.ScalarNode) -> Any:
        if len(node.value) > MAX_DIGITS:
            raise ValueError(
                f"line {_line(node)}: a number of {len(node.value)} characters; write "
                "a text in quotation marks"
            )
        # YAML 1.1 reads 010 as 8 and 1:30 as 90.
        if ":" in node.value or re.fullmatch(r"[-+]?0[0-9_]+", node.value):
            raise ValueError(
                f"line {_line(node)}: {node.value} is a number to base 8 or 60 in YAML "
                "1.1; write it in decimal, or in quotation marks if it is a text"
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
_Loader.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))
for _tag in ("binary", "omap", "pairs", "set"):
    _Loader.add_constructor(
        f"tag:yaml.org,2002:{_tag}",
        yaml.constructor.SafeConstructor.construct_undefined,
    )
