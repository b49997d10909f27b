"""The command line: `shrinkgrid VERB`. Each module beside this one holds verbs."""

from __future__ import annotations

import errno
import importlib
import sys
import traceback
from typing import Any

import click

from harness.core import BenchError
from results.errors import StoreError

# Verb -> module; a module is imported when its verb is used, or for --help.
VERBS = {
    "run": "run",
    "plan": "run",
    "submit": "submit",
    "attach": "submit",
    "cancel": "submit",
    "status": "look",
    "leaderboard": "ask",
    "sql": "ask",
    "table": "show",
    "verify": "show",
    "report": "show",
    "plot": "show",
    "export": "ask",
    "list": "look",
    "why": "look",
    "doctor": "look",
    "prepare": "prepare",
    "save-model": "save_model",
    "compact": "ask",
    "gc": "tidy",
    "new": "new",
}

_FUNCTIONS = {"list": "list_"}  # `list` is a builtin

SHOWN, LONGEST = 100, 5000  # mistakes of one file, and characters of one mistake
COMPLETE, OURS, MISTAKE, TRIALS_FAILED = 0, 1, 2, 3  # exit statuses


class _Verbs(click.Group):
    """Finds verbs by name, so that `--help` loads no plugin and no torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module = importlib.import_module(f"harness.cli.{VERBS[name]}")
        command: click.Command = getattr(
            module, _FUNCTIONS.get(name, name.replace("-", "_"))
        )
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS:
            from harness.options import nearest

            raise click.UsageError(nearest("verb", args[0], VERBS))
        return super().resolve_command(ctx, args)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shrinkgrid")
def cli() -> None:
    """Benchmark neural-network compression: a grid, a Ray cluster, SQL, the tables.

    GRID is a path to a YAML file or the name of a packaged grid.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a person's mistakes are one message and exit status 2.

    Args:
        arguments: Words after the command's name; None reads the process's own.
    """
    sys.exit(_status(arguments))


def _status(arguments: list[str] | None) -> int:
    try:
        returned: Any = cli(arguments, standalone_mode=False)
    except click.ClickException as why:
        why.show()
        return MISTAKE
    except (BenchError, StoreError) as why:
        complain(list(why.mistakes), getattr(why, "where", ""))
        return MISTAKE
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted: what was finished is stored", err=True)
        return 130
    except BrokenPipeError:  # `shrinkgrid sql ... | head`
        sys.stderr.close()
        return COMPLETE
    except (UnicodeEncodeError, OSError) as why:
        return _unwritten(why)
    except Exception:
        return _ours()
    return returned if isinstance(returned, int) else COMPLETE


def _unwritten(why: UnicodeEncodeError | OSError) -> int:
    """What is printed goes nowhere: a full disk behind ``>``, or an old encoding."""
    if isinstance(why, UnicodeEncodeError):
        letter = why.object[why.start]
        complain([f"this terminal cannot print {letter!r}; set PYTHONIOENCODING=utf-8"])
        return MISTAKE
    if why.errno != errno.ENOSPC:
        return _ours()
    where = why.filename or "the output"
    complain([f"{where} cannot be written: {why.strerror}"])
    return MISTAKE


def _ours() -> int:
    traceback.print_exc()
    click.echo("error: this is a fault of shrinkgrid, not yours", err=True)
    return OURS


def complain(mistakes: list[str], where: str = "") -> None:
    """Print what a person did wrong, all of it at once, to stderr."""
    if len(mistakes) == 1:
        only = mistakes[0][:LONGEST]
        click.echo(f"error: {where + ': ' if where else ''}{only}", err=True)
        return
    has = f"{where} has " if where else ""
    click.echo(f"error: {has}{len(mistakes)} mistakes:", err=True)
    for mistake in mistakes[:SHOWN]:
        click.echo(f"  - {mistake[:LONGEST]}", err=True)
    if len(mistakes) > SHOWN:
        click.echo(f"  ... and {len(mistakes) - SHOWN} more", err=True)
