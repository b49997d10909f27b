"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from harness.cli import _complete
from results.outcomes import RETRIES

if TYPE_CHECKING:
    from rich.console import Console

    from harness.running.session import Selection


store_option = click.option(
    "--store",
    envvar="SHRINKGRID_STORE",
    default="store",
    show_default=True,
    help="Folder or URI of the results (or set SHRINKGRID_STORE).",
)


format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "csv-raw", "json", "md"]),
    default="table",
    show_default=True,
    help="How to print the rows; csv puts an apostrophe before texts that begin with "
    "= + - @, so that a spreadsheet does not compute them, csv-raw does not.",
)


max_failures_option = click.option(
    "--max-failures",
    type=click.IntRange(min=1),
    help="Stop after this many failures; default: never.",
)


keep_models_option = click.option(
    "--keep-models",
    is_flag=True,
    help="Store the compressed network of each trial, which `save-model` then takes; "
    "each needs as many bytes as its column `bytes`.",
)


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say where trials run: --address and --cpus."""
    for decorate in (
        click.option(
            "--cpus",
            type=click.IntRange(min=1),
            help="Processors of a local Ray; default: all.",
        ),
        click.option(
            "--address",
            default="local",
            show_default=True,
            help="Ray cluster: local, auto, HOST:PORT or ray://HOST:PORT; inline runs "
            "all trials in this process, without Ray.",
        ),
    ):
        command = decorate(command)
    return command


_FAILED = [str(status) for status in RETRIES["all"] if not status.finished]


def _retry(
    ctx: click.Context, param: click.Parameter, given: tuple[str, ...]
) -> tuple[str, ...]:
    """Check the values of --retry: statuses, or the older short names for them."""
    del ctx, param
    wrong = [one for one in given if one not in (*RETRIES, *_FAILED)]
    if wrong:
        allowed = ", ".join(["all", *_FAILED])
        hint = ""
        if wrong[0].endswith((".yaml", ".yml")):  # `run --retry GRID`
            hint = "; put GRID before --retry, or write --retry=all GRID"
        raise click.UsageError(
            f"--retry {wrong[0]!r} is not a status of failed trials ({allowed}){hint}"
        )
    return given


def changes(
    ctx: click.Context, param: click.Parameter, given: tuple[str, ...]
) -> dict[str, Any]:
    """Read the values of --set, which are YAML."""
    from results.text import yaml_reader

    del ctx, param
    found = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise click.UsageError(f"--set {text!r} is not KEY=VALUE")
        try:
            found[key.strip()] = yaml_reader.read(value.encode())
        except ValueError as why:
            raise click.UsageError(f"--set {text!r}: {why}") from why
    return found


def grid_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The argument and options that choose trials: GRID, --only, --set and others."""
    for decorate in (
        click.option(
            "--refresh",
            type=click.Choice(["stale"]),
            help="Also run finished trials whose code has changed.",
        ),
        click.option(
            "--retry",
            multiple=True,
            is_flag=False,
            flag_value="all",
            metavar="[STATUS]",
            callback=_retry,
            help="Also run failed trials: all, or those with this status "
            f"({', '.join(_FAILED)}); may be given several times.",
        ),
        click.option(
            "--set",
            "changed",
            multiple=True,
            metavar="KEY=VALUE",
            callback=changes,
            help="Another value for a key of GRID, written as in the file: "
            "ratios=[0.2,0.4]; may be repeated.",
        ),
        click.option(
            "--only",
            metavar="EXPR",
            help="SQL over method, model, task, ratio, seed: \"method = 'svd'\".",
        ),
        click.argument("grid", shell_complete=_complete.grids),
    ):
        command = decorate(command)
    return command


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console of rich that obeys ``--color``, NO_COLOR and TERM=dumb."""
    from rich.console import Console

    ctx = click.get_current_context(silent=True)
    color = None if ctx is None else ctx.color
    options: dict[str, Any] = {} if color is not False else {"color_system": None}
    if color:
        options["force_terminal"] = True
    return Console(stderr=stderr, quiet=quiet, **options)


def on_store(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option ``--store``, and pass it the opened store.

    Warnings about unreadable files are printed to stderr at the end.
    """

    @store_option
    @functools.wraps(command)
    def opened(store: str, **arguments: Any) -> Any:
        from results.storage.store import open_store
        from results.text.clean import clean

        found = open_store(store)
        try:
            return command(found, **arguments)
        finally:
            for warning in found.warnings:
                click.echo(f"warning: {clean(warning)}", err=True)

    return opened


def select_from(
    only: str | None,
    retry: tuple[str, ...],
    refresh: str | None,
    changed: dict[str, Any],
) -> Selection:
    """Build the ``Selection`` that the options of ``grid_options`` ask for."""
    from harness.running.session import Selection

    statuses = (status for key in retry for status in RETRIES.get(key, (key,)))
    return Selection(
        only=only,
        retry=tuple(statuses),
        refresh=refresh == "stale",
        changed=changed,
    )
