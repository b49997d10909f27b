"""The pages of methods, models and tasks, and of the options that several share."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

from _generate.text import options, table
from harness.cli._describe import body, described, nested
from harness.options import fields
from harness.registry import Plugin, discover

HEAD = ("option", "type", "default", "meaning")
INTRO = {
    "method": "A method compresses a network. `ratio` is the share to remove; each "
    "method says what it is a share of.",
    "model": "A model is a network with its input encoding and the roles of its "
    "modules. Any Hugging Face id or folder of a causal language model is a model "
    "too, and so is a folder that `save-model` wrote.",
    "task": "A task is data, a protocol and the measurements. Every task of the "
    "installed lm-eval is a task too, by its own name.",
}
FACTS = {
    "method": {
        "ratio_of": "The ratio is a share of",
        "needs": "Needs",
        "kinds": "Compresses",
    },
    "model": {"kind": "Kind", "gives": "Provides", "trained": "Trained here"},
    "task": {"kind": "Measures", "gives": "Provides"},
}


def page(kind: str) -> str:
    """The page of ``method``, ``model`` or ``task``."""
    found = discover(kind)
    lines = [f"# {kind.capitalize()}s", "", INTRO[kind], ""]
    lines += table(
        ("name", "in one sentence"),
        (
            (f"[`{name}`](#{anchor(name)})", _first(plugin.cls.__doc__))
            for name, plugin in found.items()
        ),
    )
    for plugin in found.values():
        lines += _plugin(plugin)
    return "\n".join(lines)


def anchor(name: str) -> str:
    """The anchor of a heading, as the Markdown parser makes it."""
    return "".join(c for c in name.lower() if c.isalnum() or c in "-_ ")


def nested_page() -> str:
    """The page of options that are mappings: training recipes and the like."""
    lines = [
        "# Nested options",
        "",
        "The value of these options is a mapping. A field that a grid leaves out keeps "
        "the default of the plugin, which may differ from the default listed here.",
        "",
    ]
    for cls in _nested_classes():
        lines += [f"## {cls.__name__}", "", body(cls.__doc__), ""]
        lines += table(HEAD, options(cls))
    return "\n".join(lines)


def undescribed() -> list[str]:
    """``kind plugin.option`` of every option without a meaning."""
    lacking = [
        f"{kind} {plugin.name}.{name}"
        for kind in FACTS
        for plugin in discover(kind).values()
        for name in fields(plugin.cls)
        if not described(plugin.cls).get(name)
    ]
    return lacking + [
        f"{cls.__name__}.{name}"
        for cls in _nested_classes()
        for name in fields(cls)
        if not described(cls).get(name)
    ]


def _nested_classes() -> list[type]:
    found: dict[str, type] = {}
    waiting = [plugin.cls for kind in FACTS for plugin in discover(kind).values()]
    while waiting:
        cls = waiting.pop()
        for name, hint in typing.get_type_hints(cls).items():
            for inner in nested(hint) if name in fields(cls) else ():
                if inner.__name__ not in found:
                    found[inner.__name__] = inner
                    waiting.append(inner)
    return [found[name] for name in sorted(found)]


def _plugin(plugin: Plugin) -> Iterator[str]:
    yield from (f"## {plugin.name}", "", body(plugin.cls.__doc__), "")
    words = FACTS[plugin.kind]
    facts = [f"{said}: {_words(plugin.facts[key])}." for key, said in words.items()]
    yield from (" ".join(facts), "")
    yield from table(HEAD, options(plugin.cls))


def _first(doc: str | None) -> str:
    return body(doc).split("\n\n", maxsplit=1)[0]


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, frozenset):
        return ", ".join(f"`{item}`" for item in sorted(value)) or "nothing"
    return f"`{value}`"
