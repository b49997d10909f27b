"""The command line; each module of this package has some commands."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import traceback
from typing import Any

import click

from results.errors import UserError
from results.text.clean import clean

# Heading of --help -> command -> module, which is imported when the command is used,
# or for --help.
GROUPS = {
    "Run a grid": {
        "init": "new",
        "plan": "plan",
        "prepare": "prepare",
        "run": "run",
        "rerun": "rerun",
        "status": "look",
        "why": "look",
    },
    "On a cluster": {
        "submit": "submit",
        "attach": "submit",
        "cancel": "submit",
        "doctor": "look",
    },
    "Read results": {
        "leaderboard": "ask",
        "show": "details",
        "logs": "logs",
        "compare": "details",
        "sql": "ask",
        "table": "show",
        "verify": "show",
        "report": "show",
        "serve": "serve",
        "plot": "show",
    },
    "Take away and tidy": {
        "save-model": "save_model",
        "export": "ask",
        "publish": "publish",
        "merge": "merge",
        "compact": "ask",
        "rm": "rm",
        "gc": "tidy",
    },
    "Methods, models, tasks": {
        "list": "look",
        "describe": "details",
        "new": "new",
        "check": "check",
        "schema": "schema",
        "help": "help_text",
    },
}
COMMANDS = {name: module for group in GROUPS.values() for name, module in group.items()}

_FUNCTIONS = {"list": "list_", "help": "help_"}  # both are builtins

SHOWN, LONGEST = 100, 5000  # errors of one file that are shown; characters of each
COMPLETE, INTERNAL_ERROR, USER_ERROR, TRIALS_FAILED = 0, 1, 2, 3  # exit statuses
INTERRUPTED = 130  # as a shell reports a program that Ctrl-C ended


class _Commands(click.Group):
    """Imports a command by its name, so that `--help` imports no plugin, no torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"harness.cli.{COMMANDS[name]}")
        command: click.Command = getattr(
            module, _FUNCTIONS.get(name, name.replace("-", "_"))
        )
        return command

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        longest = max(map(len, COMMANDS))
        for heading, names in GROUPS.items():
            rows = []
            for name in names:
                command = self.get_command(ctx, name)
                assert command is not None
                limit = formatter.width - 6 - longest
                rows.append((name.ljust(longest), command.get_short_help_str(limit)))
            with formatter.section(heading):
                formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS:
            from harness.options import nearest

            raise click.UsageError(nearest("command", args[0], COMMANDS))
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shrinkgrid")
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Colours; auto obeys NO_COLOR and TERM=dumb.",
)
@click.pass_context
def cli(ctx: click.Context, color: str) -> None:
    """Benchmark neural-network compression: a grid, a Ray cluster, SQL, the tables.

    GRID is a path to a YAML file or the name of a packaged grid.

    \b
    shrinkgrid init mine.yaml        write a small grid with comments
    shrinkgrid run mine.yaml         run it; run it again to resume
    shrinkgrid leaderboard           compare the methods
    shrinkgrid report                a page with every number
    shrinkgrid help COMMAND          the options of a command
    """  # noqa: D301
    # The backspace above tells click to keep the lines as they are.
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    ctx.color = {"always": True, "never": False}.get(color, False if plain else None)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user error is one message and exit status 2.

    Args:
        arguments: Words after ``shrinkgrid``; None reads those of the process.
    """
    if arguments is None and _drives(sys.argv[1:]):
        from harness.executors.supervisor import supervise

        supervise()
    sys.exit(_status(arguments))


def _drives(words: list[str]) -> bool:
    """Whether a command line starts Ray or joins it, to run trials there."""
    command = next((word for word in words if word in COMMANDS), None)
    alone = {"inline", "--address=inline", "--help", "-h"}
    return command in ("run", "rerun") and alone.isdisjoint(words)


def _status(arguments: list[str] | None) -> int:
    try:
        os.getcwd()  # without it, libraries fail in many ways, some without a message
    except FileNotFoundError:
        complain(["the current folder was removed; change to another with `cd`"])
        return USER_ERROR
    try:
        returned: Any = cli(arguments, standalone_mode=False)
    except click.ClickException as why:
        complain([why.format_message()])
        ctx = getattr(why, "ctx", None)
        if ctx is not None:
            click.echo(f"`{ctx.command_path} --help` shows how to call it", err=True)
        return USER_ERROR
    except UserError as why:
        complain(why.errors, why.where)
        return USER_ERROR
    except (KeyboardInterrupt, click.Abort, SystemExit) as ended:
        # Ray sets a handler of SIGTERM that exits with the number of the signal.
        if isinstance(ended, SystemExit) and ended.code != signal.SIGTERM:
            raise
        # That handler also sets an alarm that aborts this process in three seconds,
        # while Ray is being ended.
        signal.alarm(0)
        click.echo("interrupted: finished trials are stored", err=True)
        from harness.executors.supervisor import note_interrupt

        note_interrupt()
        return INTERRUPTED
    except BrokenPipeError:  # `shrinkgrid sql ... | head`
        sys.stderr.close()
        return COMPLETE
    except (UnicodeEncodeError, OSError) as why:
        return _unwritten(why)
    except Exception:
        return _internal_error()
    return returned if isinstance(returned, int) else COMPLETE


def _unwritten(why: UnicodeEncodeError | OSError) -> int:
    """The output cannot be written: the disk is full, or the encoding too small."""
    if isinstance(why, UnicodeEncodeError):
        letter = why.object[why.start]
        complain([f"this terminal cannot print {letter!r}; set PYTHONIOENCODING=utf-8"])
        return USER_ERROR
    if why.errno != errno.ENOSPC:
        return _internal_error()
    where = why.filename or "the output"
    complain([f"{where} cannot be written: {why.strerror}"])
    return USER_ERROR


def _internal_error() -> int:
    click.echo(clean(traceback.format_exc()), err=True, nl=False)
    click.echo(
        "error: this is a bug of shrinkgrid; please report the lines above", err=True
    )
    return INTERNAL_ERROR


def complain(errors: list[str], where: str = "") -> None:
    """Print user errors, all of them at once, to stderr."""
    errors, where = [clean(one) for one in errors], clean(where)
    if len(errors) == 1:
        only = errors[0][:LONGEST]
        click.echo(f"error: {where + ': ' if where else ''}{only}", err=True)
        return
    has = f"{where} has " if where else ""
    click.echo(f"error: {has}{len(errors)} errors:", err=True)
    for error in errors[:SHOWN]:
        click.echo(f"  - {error[:LONGEST]}", err=True)
    if len(errors) > SHOWN:
        click.echo(f"  ... and {len(errors) - SHOWN} more", err=True)
