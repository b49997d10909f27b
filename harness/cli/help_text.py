"""`help`: the help of a command, or the list of commands."""

from __future__ import annotations

import click


def _names(ctx: click.Context, param: click.Parameter, typed: str) -> list[str]:
    from harness.cli import COMMANDS

    del ctx, param
    return [name for name in COMMANDS if name.startswith(typed)]


@click.command()
@click.argument("command", required=False, shell_complete=_names)
@click.pass_context
def help_(ctx: click.Context, command: str | None) -> None:
    """Show the help of COMMAND, or the list of all commands."""
    group = ctx.parent
    assert group is not None
    assert isinstance(group.command, click.Group)
    if command is None:
        click.echo(group.get_help())
        return
    name, found, _ = group.command.resolve_command(group, [command])
    assert found is not None
    with click.Context(found, info_name=name, parent=group) as context:
        click.echo(found.get_help(context))
