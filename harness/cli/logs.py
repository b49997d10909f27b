"""`logs`: what the process of a trial printed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from harness.cli import _complete
from harness.cli._common import on_store

if TYPE_CHECKING:
    from results.storage.logs import Log
    from results.storage.store import Store

_PAUSE = 1.0  # seconds between two looks of --follow
_OVERLAP = 200  # characters that find the end of what was shown in a newer copy


@click.command()
@click.argument("trial", shell_complete=_complete.trials)
@click.option(
    "-f", "--follow", is_flag=True, help="Show what is added until the bundle ends."
)
@on_store
def logs(store: Store, trial: str, follow: bool) -> None:
    """Show what was printed while TRIAL ran.

    Trials of a bundle share a process and thus a log: output, warnings and errors of
    loading and fitting stand in the part of the bundle's first trial. A log keeps its
    first and last half MiB; the values of secrets are replaced. Trials that run with
    `--address inline` print to the terminal and have no log.
    """
    from results.errors import StoreError
    from results.queries.trial_ids import find
    from results.queries.trial_logs import log_of
    from results.storage import logs as stored

    running = _running(store, trial)
    wanted = running or find(store, trial)
    lease, log = stored.of_running(store, wanted) if running else (None, None)
    if lease is None:
        log = log_of(store, wanted)
    if log is None and not (lease and follow):
        what = "has printed nothing so far" if lease else "has no log"
        raise StoreError(
            f"trial {wanted} {what}; a log is stored where the process of the bundle "
            "prints something, but not with `--address inline`"
        )
    shown = _show(log, wanted, "")
    while lease is not None and follow:
        time.sleep(_PAUSE)
        lease, log = stored.of_running(store, wanted)
        shown = _show(log, wanted, shown)
        if lease is None:
            time.sleep(_PAUSE)  # the last copy is stored just after the lease is gone
            _show(log_of(store, wanted), wanted, shown)


def _running(store: Store, beginning: str) -> str | None:
    """The trial of a running job whose id begins so, if there is exactly one."""
    from results.storage import leases

    found = {
        trial
        for lease in leases.read_all(store)
        for _, trial in lease.attempts
        if trial.startswith(beginning)
    }
    return found.pop() if len(found) == 1 else None


def _show(log: Log | None, trial: str, shown: str) -> str:
    """Print what a log has beyond what was shown; return all of its text."""
    from results.text.clean import as_seen

    if log is None:
        return shown
    text = as_seen("".join(_headed(log, trial)))
    if text.startswith(shown):
        added = text[len(shown) :]
    else:  # the middle was cut meanwhile
        _, found, added = text.rpartition(shown[-_OVERLAP:])
        added = added if found else text
    click.echo(added, nl=False)
    sys.stdout.flush()
    return text


def _headed(log: Log, trial: str) -> Iterator[str]:
    """The parts of a log, each with a heading that names its trial."""
    before = "\n"
    for one, text in log.sections():
        if not text:
            continue
        if not before.endswith("\n"):
            yield "\n"
        if one:
            mark = " (this trial)" if one == trial else ""
            yield f"== trial {one}{mark} ==\n"
        yield text
        before = text
