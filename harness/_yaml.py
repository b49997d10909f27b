"""YAML that people write: safe, without duplicate keys, without bombs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from harness.core import BenchError

MAX_BYTES = 1_000_000
MAX_NODES = 100_000  # after aliases are followed: `*a` of `*b` of `*c` ...
MAX_DEPTH = 40


class _Loader(yaml.SafeLoader):
    """``SafeLoader`` that refuses a key written twice."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    keys: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool | None):
            raise BenchError(f"line {key_node.start_mark.line + 1}: a key is a name")
        if key in keys:
            raise BenchError(
                f"line {key_node.start_mark.line + 1}: the key {key!r} stands twice"
            )
        keys.add(key)
    return {
        loader.construct_object(k, deep=True): loader.construct_object(v, deep=True)
        for k, v in node.value
    }


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read(path: Path) -> Any:
    """The value of a YAML file.

    Args:
        path: The file.

    Returns:
        Plain lists, dicts and scalars.

    Raises:
        BenchError: If it cannot be read, is no YAML, has a tag, a key twice, or is
            larger or deeper than any honest file.
    """
    try:
        text = path.read_bytes()
    except OSError as why:
        raise BenchError(f"cannot read {path}: {why.strerror}") from why
    if len(text) > MAX_BYTES:
        raise BenchError(f"{path} has {len(text)} bytes; {MAX_BYTES} are allowed")
    try:
        node = yaml.compose(text.decode(), Loader=_Loader)
        _bounded(node, 0, [0])
        return yaml.load(text.decode(), Loader=_Loader)
    except UnicodeDecodeError as why:
        raise BenchError(f"{path} is not UTF-8 text: {why}") from why
    except yaml.YAMLError as why:
        raise BenchError(f"{path} is not YAML: {' '.join(str(why).split())}") from why
    except (RecursionError, ValueError) as why:
        raise BenchError(f"{path} cannot be read as YAML: {why}") from why
    except BenchError as why:
        raise BenchError(*(f"{path}: {m}" for m in why.mistakes)) from why


def _bounded(node: yaml.Node | None, depth: int, count: list[int]) -> None:
    """Refuse a document that is huge once its aliases are followed."""
    count[0] += 1
    if count[0] > MAX_NODES or depth > MAX_DEPTH:
        raise BenchError(f"more than {MAX_NODES} values or {MAX_DEPTH} levels")
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _bounded(child, depth + 1, count)
    elif isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            _bounded(key, depth + 1, count)
            _bounded(child, depth + 1, count)
