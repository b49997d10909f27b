"""The page of commands: arguments, options, exit statuses and examples."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import click

from _generate.text import table
from harness.cli import COMMANDS, cli

TEXT = """\
# Commands

`shrinkgrid help COMMAND` prints what stands here. Rows go to standard output; progress,
warnings and errors go to standard error. GRID is the path of a YAML file or the name of
a packaged grid.

## Exit status

| status | meaning |
| --- | --- |
| 0 | Complete. |
| 1 | A bug in shrinkgrid (with a traceback). `verify`: a number has changed. \
`check`: a contract is broken. |
| 2 | A user error, in one message; all errors of a file at once. |
| 3 | The run ended, but some trials failed or did not run. |
| 130 | Interrupted by Ctrl-C: the first lets running trials finish, the second stops \
at once. Finished trials are stored. |
"""


def page(examples: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        examples: Command -> ``{line: ..., shows: ...}``, a list.
    """
    lines = [TEXT]
    for name in COMMANDS:
        lines += _section(name, examples.get(name, []))
    return "\n".join(lines)


def commands() -> Iterator[tuple[str, click.Command]]:
    """The name of every command, and the command."""
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        yield name, command


def _section(name: str, examples: list[Mapping[str, str]]) -> Iterator[str]:
    command = dict(commands())[name]
    context = click.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    yield from (f"## {name}", "", "```text", f"shrinkgrid {name} {usage}", "```", "")
    text = inspect.cleandoc(command.help or "").replace("\b", "")
    yield from (text, "")
    if "exit status" not in text.lower():
        yield from ("Exit status: 0 complete, 2 a user error.", "")
    named = [p for p in command.params if isinstance(p, click.Argument)]
    yield from table(
        ("argument", "values", "required"),
        (
            (f"`{p.make_metavar(context)}`", _values(p), "yes" if p.required else "no")
            for p in named
        ),
    )
    yield from table(
        ("option", "values", "default", "meaning"),
        (
            (_spelling(p, context), _values(p), _default(p), p.help or "")
            for p in command.params
            if isinstance(p, click.Option) and not p.hidden
        ),
    )
    for example in examples:
        yield from (example["shows"], "")
        yield from ("```text", example["line"], "```", "")


def _spelling(option: click.Option, context: click.Context) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f" {option.make_metavar(context)}"
    if isinstance(option.type, click.Choice):
        value = " " + (option.metavar or option.name or "").upper()
    return f"`{names}{value}`"


def _values(parameter: click.Parameter) -> str:
    kind = parameter.type
    if isinstance(kind, click.Choice):
        text = ", ".join(f"`{choice}`" for choice in kind.choices)
    elif isinstance(parameter, click.Option) and parameter.is_flag:
        text = "flag"
    elif isinstance(kind, click.types.IntParamType):
        text = "integer"
    elif isinstance(kind, click.types.FloatParamType):
        text = "number"
    elif isinstance(kind, click.Path):
        text = "path"
    else:
        text = "text"
    return text + (", repeatable" if parameter.multiple else "")


def _default(option: click.Option) -> str:
    given = option.to_info_dict()["default"]
    variable = f", or `{option.envvar}`" if option.envvar else ""
    if option.is_flag:
        return "off"
    if given is None or given == () or "Sentinel" in type(given).__name__:
        return "not set" + variable
    return f"`{given}`{variable}"
