"""Protocols that differ: in which fields, and what each says there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from results.queries.db import ask
from results.queries.messages import quoted
from results.storage.store import Store
from results.text import json_reader

Fields = Mapping[str, Any]


def stored(store: Store, protocols: Iterable[str]) -> dict[str, Fields]:
    """The fields of some protocols.

    Args:
        store: Store that the protocols are read from.
        protocols: Hashes of the protocols to look up.

    Returns:
        Hash -> fields, which are empty where none are stored.
    """
    listed = ", ".join(map(quoted, sorted(set(protocols))))
    if not listed:
        return {}
    rows = ask(
        store,
        "SELECT protocol, any_value(protocol_fields) FROM trials "
        f"WHERE protocol IN ({listed}) GROUP BY protocol",
    ).rows
    return {protocol: json_reader.mapping(text) for protocol, text in rows}


def differing(protocols: Iterable[Fields]) -> list[str]:
    """The fields in which protocols differ.

    >>> differing([{"host": "a", "batch": 1}, {"host": "b", "batch": 1}])
    ['host']
    """
    found = list(protocols)
    every = {key for fields in found for key in fields}
    return sorted(
        key for key in every if len({_text(fields.get(key)) for fields in found}) > 1
    )


def named(fields: Sequence[str]) -> str:
    """The names of differing fields, for a person."""
    return ", ".join(fields) or "fields that are not stored"


def told_apart(protocols: Mapping[str, Fields]) -> dict[str, str]:
    """What each protocol says where it differs from the others.

    >>> told_apart({"p1": {"host": "a", "n": 1}, "p2": {"host": "b", "n": 1}})
    {'p1': 'host=a', 'p2': 'host=b'}
    """
    keys = differing(protocols.values())
    return {
        protocol: " ".join(f"{key}={_text(fields.get(key))}" for key in keys)
        for protocol, fields in protocols.items()
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
