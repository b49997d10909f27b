"""`submit`, `attach`, `cancel`: a grid as a job of a cluster."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli._common import (
    grid_options,
    keep_models_option,
    max_failures_option,
    store_option,
)

if TYPE_CHECKING:
    from harness.executors.job_server import Jobs, State

cluster_option = click.option(
    "--cluster",
    envvar="SHRINKGRID_CLUSTER",
    default="http://127.0.0.1:8265",
    show_default=True,
    help="The head's dashboard (or set SHRINKGRID_CLUSTER).",
)


@click.command()
@grid_options
@store_option
@cluster_option
@click.option("--fail-fast", is_flag=True, help="Stop at the first failure.")
@max_failures_option
@keep_models_option
@click.option("--detach", is_flag=True, help="Do not wait: print the job's id.")
def submit(
    grid: str, store: str, cluster: str, detach: bool, **options: Any
) -> int | None:
    """Run GRID on a cluster, as a job that outlives this terminal.

    Ships this code, the grid file with its lock, and SHRINKGRID_PLUGINS; shows the
    log. Ctrl-C detaches. Exit status: that of the run; 130 after Ctrl-C or `cancel`.
    """
    from harness.planning import grid as grids
    from harness.planning.configured_plugin import tolerate_unseen

    _for_all_machines(store)
    path = grids.locate(grid)
    with tolerate_unseen():  # models and data need be on the cluster alone
        grids.read(path, changed=options["changed"])
    packaged = path in grids.packaged().values()
    # The cluster has the packaged grids, but of a user's file only the copy in the
    # job's folder.
    words = ["run", grid if packaged else path.name, "--store", store]
    words += ["--address", "auto", *_options(options)]
    jobs = _jobs(cluster)
    job = _submit(jobs, words, None if packaged else path)
    if detach:
        click.echo(job)
        return None
    click.echo(f"job {job} at {jobs.address}; Ctrl-C detaches from it", err=True)
    return _follow(jobs, job)


def _submit(jobs: Jobs, words: list[str], grid: Path | None) -> str:
    from harness.executors import shipping
    from harness.planning import provenance

    told = {k: os.environ[k] for k in ("HF_HUB_OFFLINE",) if k in os.environ}
    head, dirty = provenance.commit()
    if head:
        told["SHRINKGRID_COMMIT"] = f"{head}{'+' if dirty else ''}"
    with tempfile.TemporaryDirectory(prefix="shrinkgrid-") as folder:
        plugins = shipping.pack(Path(folder), grid)
        if plugins:
            told["SHRINKGRID_PLUGINS"] = os.pathsep.join(plugins)
        return jobs.submit(words, Path(folder), told)


def _for_all_machines(store: str) -> None:
    """Refuse a store that is a different folder on each machine of the cluster."""
    from harness.core import BenchError

    if "://" not in store and not Path(store).is_absolute():
        raise BenchError(
            f"--store {store!r} is a folder of this machine; name an object store "
            "(s3://bucket/store), or the absolute path of a folder that every machine "
            "of the cluster mounts"
        )


def _options(options: dict[str, Any]) -> list[str]:
    """Options that ``run`` has too, as words."""
    words: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if name == "changed":
            pairs = (f"{key}={json.dumps(one)}" for key, one in value.items())
            words += [word for pair in pairs for word in ("--set", pair)]
        elif value is True:
            words.append(flag)
        elif isinstance(value, tuple):
            words += [word for one in value for word in (flag, one)]
        elif value not in (None, False):
            words += [flag, str(value)]
    return words


def _jobs(cluster: str) -> Jobs:
    from harness.core import BenchError

    try:
        from harness.executors.job_server import Jobs

        return Jobs(cluster)
    except ModuleNotFoundError as why:
        raise BenchError(
            f"the module {why.name} is missing: pip install 'shrinkgrid[cluster]'"
        ) from why


@click.command()
@click.argument("job", required=False)
@cluster_option
def attach(job: str | None, cluster: str) -> int:
    """Show the log of JOB (by default the newest) until it ends.

    Exit status: that of the run; 130 after Ctrl-C or `cancel`.
    """
    jobs = _jobs(cluster)
    return _follow(jobs, job or _newest(jobs))


def _newest(jobs: Jobs) -> str:
    from harness.core import BenchError

    found = jobs.ours()
    if not found:
        raise BenchError(f"no grid was submitted to {jobs.address} yet")
    return found[0]


@click.command()
@click.argument("job")
@cluster_option
def cancel(job: str, cluster: str) -> int:
    """End JOB after its running trials; `submit` resumes it."""
    from harness.cli import COMPLETE

    jobs = _jobs(cluster)
    state = jobs.state(job)
    if state.ended or not jobs.drain(job):
        click.echo(f"{job} has ended already: {state.status.lower()}", err=True)
        return COMPLETE
    click.echo(f"{job} drains: running trials finish and are stored", err=True)
    _follow(jobs, job)
    return COMPLETE


def _follow(jobs: Jobs, job: str) -> int:
    """The log to stdout; returns the exit status of the run."""
    from harness.cli import INTERRUPTED

    try:
        jobs.state(job)  # refuses a job that is not there
        ended = jobs.follow(job, lambda text: click.echo(text, nl=False))
    except KeyboardInterrupt:
        at = f"{job} --cluster {jobs.address}"
        click.echo(
            f"\ndetached: {job} is still running; `shrinkgrid attach {at}` shows its "
            f"log, `shrinkgrid cancel {at}` ends it",
            err=True,
        )
        return INTERRUPTED
    return _status(job, ended)


def _status(job: str, ended: State) -> int:
    from harness.cli import COMPLETE, INTERNAL_ERROR, INTERRUPTED

    # Ray forgets the exit status of a job that it stopped, so say what a drained `run`
    # says itself.
    if ended.status == "STOPPED":
        click.echo(f"{job} was cancelled; the same `submit` resumes it", err=True)
        return INTERRUPTED
    if ended.exit_status is not None:
        return ended.exit_status
    if ended.status == "SUCCEEDED":
        return COMPLETE
    click.echo(f"error: Ray could not run {job}: {ended.says.strip()}", err=True)
    return INTERNAL_ERROR
