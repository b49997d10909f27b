"""Inputs that a grid names twice: the same content under two names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Protocol

from harness.declarations import declared
from harness.options import dumps
from harness.planning.configured_plugin import UNSEEN, ConfiguredPlugin


class Block(Protocol):
    """What this module reads of a block of a grid."""

    @property
    def models(self) -> tuple[ConfiguredPlugin, ...]:
        """Its models."""

    @property
    def tasks(self) -> tuple[ConfiguredPlugin, ...]:
        """Its tasks."""

    @property
    def calibration(self) -> str:
        """Canonical JSON, with the content of the text where a method reads it."""


def wrong(blocks: Iterable[Block]) -> list[str]:
    """Find models, tasks and calibration texts that are the same under two names.

    A trial's id has the name as the grid writes it beside the content, so that each
    name would be measured, and have a leaderboard of its own.

    Args:
        blocks: All blocks of a grid.

    Returns:
        One error for each name after the first one of the same content.
    """
    known = list(blocks)
    return [
        *_plugins("models", (model for block in known for model in block.models)),
        *_plugins("tasks", (task for block in known for task in block.tasks)),
        *_named_twice("calibration texts", _texts(known)),
    ]


def _plugins(kind: str, plugins: Iterable[ConfiguredPlugin]) -> list[str]:
    seen = (one for one in plugins if one.part.revision != UNSEEN)
    return _named_twice(kind, ((content(one), one.part.label) for one in seen))


def _texts(blocks: Iterable[Block]) -> Iterator[tuple[str, str]]:
    for block in blocks:
        spec = json.loads(block.calibration)
        if spec.get("content", UNSEEN) != UNSEEN:  # else no method reads the text
            yield spec["content"], spec.get("text", "the default")


def _named_twice(kind: str, named: Iterable[tuple[str, str]]) -> list[str]:
    first: dict[str, str] = {}  # content -> its first name
    pairs = [(first.setdefault(key, name), name) for key, name in named]
    return [
        f"{kind} {one!r} and {other!r} have the same content, which would be measured "
        "twice: write one name"
        for one, other in dict.fromkeys(pairs)
        if one != other
    ]


def content(one: ConfiguredPlugin) -> str:
    """The identity of a plugin without the paths of what it reads.

    Args:
        one: A model or task. Its method ``paths``, where it has one, names the options
            that are paths whose content is in the revision.

    Returns:
        Canonical JSON; equal for two names of the same content.
    """
    options, part = json.loads(one.part.options), one.part
    named = declared(str(one.plugin), one.instance, "paths") or ()
    paths = [options.pop(name) for name in named if name in options]
    protocol = json.loads(part.protocol or "{}")
    rest = {key: value for key, value in protocol.items() if value not in paths}
    name = part.plugin if part.name in paths else part.name
    return dumps([name, part.version, part.revision, options, rest])
