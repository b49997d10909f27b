"""`rerun`: run a finished trial again and compare its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from harness.cli import _common, _complete
from harness.cli._common import run_options, store_option

_SAME = 1e-6  # relative difference below which two numbers are the same


@click.command()
@click.argument("trial", shell_complete=_complete.trials)
@click.option(
    "--grid",
    shell_complete=_complete.grids,
    help="File or name of a grid with this trial; by default the grid that ran it.",
)
@store_option
@run_options
def rerun(trial: str, grid: str | None, store: str, **options: Any) -> int:
    """Run a finished TRIAL again and compare its numbers.

    The new attempt is stored and counts from then on; the older one stays in the view
    trials. Exit status: 0 the numbers are the same, 1 a number differs by more than one
    part in a million, 3 the new attempt failed.
    """
    from harness.cli import COMPLETE, TRIALS_FAILED
    from harness.cli.run import drive
    from harness.executors.address import check_address
    from harness.running import session
    from results.boards import trial_page
    from results.queries.trial_ids import find
    from results.storage.store import open_store

    check_address(options["address"])
    opened = open_store(store)
    wanted = find(opened, trial)
    before = trial_page.trials(opened, [wanted])[wanted]
    name = grid or _grid(before)
    opened = open_store(store, create=True)
    session.recover(opened)
    console = _common.console(stderr=True)
    selection = session.Selection(only=f"trial = '{wanted}'", again=True)
    with session.claim(name, opened, selection) as claimed:
        drive(claimed, opened, console, options)
    after = trial_page.trials(opened, [wanted])[wanted]
    differs = False
    for line, same in _compared(before, after):
        click.echo(line)
        differs |= not same
    if after["status"] != "ok" or len(after["attempts"]) == len(before["attempts"]):
        return TRIALS_FAILED
    return 1 if differs else COMPLETE


def _grid(page: Mapping[str, Any]) -> str:
    """The grid that ran a trial, if it is packaged or its file is in this folder."""
    from harness.core import BenchError
    from harness.planning.grid import packaged

    name = str(page["grid"])
    file = Path(f"{name}.yaml")
    if name in packaged():
        return name
    if file.is_file():
        return str(file)
    raise BenchError(
        f"the grid {name!r} that ran trial {page['trial']} is neither packaged nor "
        f"the file {file} in this folder; name the file with --grid"
    )


def _compared(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[tuple[str, bool]]:
    """A line for each number, and whether it is the same as before."""
    from results.text.formats import number

    yield (
        f"trial {after['trial']}: {before['status']} before, {after['status']} now",
        True,
    )
    new = {one["metric"]: one["value"] for one in after["metrics"]}
    for one in before["metrics"]:
        name, old = one["metric"], one["value"]
        if name not in new:
            yield f"  {name}  {number(old)} before, not measured again", False
            continue
        change = new[name] - old
        if abs(change) <= _SAME * max(abs(old), abs(new[name])):
            yield f"  {name}  {number(old)} both times", True
            continue
        error = one["stderr"]
        scale = f", {abs(change) / error:.1f} standard errors" if error else ""
        said = f"{number(old)} before, {number(new[name])} now"
        yield f"  {name}  {said} ({change:+.3g}{scale})", False
