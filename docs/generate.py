"""Writes docs/reference.md: verbs, methods, models and tasks, from the code itself."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from harness.cli import VERBS, cli
from harness.options import fields
from harness.registry import Plugin, discover

PAGE = Path(__file__).parent / "reference.md"
FACTS = {
    "method": ("ratio_of", "needs", "kinds"),
    "model": ("kind", "gives", "trained"),
    "task": ("kind", "gives"),
}


def page() -> str:
    """The whole page; a test compares it with the file."""
    lines = [
        "# Reference",
        "",
        "Made by `make docs` from the code; edit docstrings, not this page.",
        "",
        *_verbs(),
    ]
    for kind in FACTS:
        lines += [f"## {kind.capitalize()}s", ""]
        for plugin in discover(kind).values():
            lines += _plugin(plugin)
    return "\n".join(lines).rstrip() + "\n"


def _verbs() -> Iterator[str]:
    yield from ("## Verbs", "")
    context = click.Context(cli)
    for name in VERBS:
        verb = cli.get_command(context, name)
        assert verb is not None
        usage = " ".join(verb.collect_usage_pieces(click.Context(verb)))
        yield from (f"### `shrinkgrid {name} {usage}`", "")
        yield from (inspect.cleandoc(verb.help or ""), "")
        for option in verb.params:
            if isinstance(option, click.Option):
                yield f"- `{', '.join(option.opts)}` {option.help or ''}".rstrip()
        yield ""


def _plugin(plugin: Plugin) -> Iterator[str]:
    yield from (f"### `{plugin.name}`", "")
    yield from (inspect.cleandoc(plugin.cls.__doc__ or ""), "")
    for base in plugin.cls.__mro__[1:]:  # options that several methods share
        _, args, lines = inspect.cleandoc(base.__doc__ or "").partition("Args:")
        if dataclasses.is_dataclass(base) and args:
            yield from (f"Shared options:{lines}", "")
    facts = ", ".join(
        f"{key}: {_words(plugin.facts[key])}" for key in FACTS[plugin.kind]
    )
    yield from (f"*{facts}*", "")
    options = [f"`{n}` = {_default(f)}" for n, f in fields(plugin.cls).items()]
    if options:
        yield from (f"Options: {', '.join(options)}", "")


def _words(value: Any) -> str:
    if isinstance(value, frozenset):
        return " ".join(sorted(value)) or "nothing"
    return str(value)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return "required"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(PAGE.read_text() != page())
    PAGE.write_text(page())
