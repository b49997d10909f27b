"""Trials as runs of experiment trackers, in files of this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from results.errors import StoreError
from results.text.clean import clean
from results.text.labels import label

TRACKERS = ("trackio", "wandb")
# With one of these a client would send runs to a server.
_SERVERS = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID")
_CONFIG = ("model", "method", "task", "ratio", "seed", "dtype", "trial", "attempt")
_OPTIONS = ("model_options", "method_options", "task_options", "calibration")


def check_package(tracker: str) -> None:
    """Ask for the client of a tracker.

    Args:
        tracker: ``trackio`` or ``wandb``.

    Raises:
        StoreError: If it is not installed.
    """
    if importlib.util.find_spec(tracker) is None:
        raise StoreError(
            f"--format {tracker} needs the package {tracker}: `pip install "
            f"'shrinkgrid[{tracker}]'`"
        )


def write(rows: Sequence[Mapping[str, Any]], tracker: str, project: str) -> list[str]:
    """Write one run for each trial, on this machine alone.

    Args:
        rows: Of ``publish.finished``, with curves.
        tracker: ``trackio`` or ``wandb``, whose client is installed.
        project: Name of the project; runs that it has already are kept.

    Returns:
        Where each run was written.
    """
    log = {"trackio": _trackio, "wandb": _wandb}[tracker]
    with _on_this_machine():
        return [log(row, project) for row in rows]


def config(row: Mapping[str, Any]) -> dict[str, Any]:
    """What was run: plugins with their options, the ratio, the seed, the protocol."""
    said = {key: row[key] for key in _CONFIG}
    said |= {key: json.loads(row[key]) for key in _OPTIONS if row[key]}
    if row["protocol_fields"]:
        said["protocol"] = json.loads(row["protocol_fields"])
    return said


def name(row: Mapping[str, Any]) -> str:
    """A name for a run that a person can read; the trial's id makes it unique."""
    method = label(row["method"], row["method_options"])
    model = label(row["model"], row["model_options"])
    task = label(row["task"], row["task_options"])
    return clean(f"{model} {method} {row['ratio']:g} {task} {row['trial'][:8]}")


def steps(row: Mapping[str, Any]) -> list[tuple[int, dict[str, float]]]:
    """The numbers of a trial by step: its curves, and the final ones in the last step.

    Args:
        row: Of a trial, with ``measurements``.

    Returns:
        Step -> metric -> value, in order; a standard error is ``METRIC_stderr``.
    """
    curves: dict[int, dict[str, float]] = {}
    final: dict[str, float] = {}
    for one in row["measurements"]:
        metric = clean(one["metric"])
        if one["step"] is not None:
            curves.setdefault(one["step"], {})[metric] = one["value"]
            continue
        final[metric] = one["value"]
        if one["stderr"] is not None:
            final[f"{metric}_stderr"] = one["stderr"]
    last = max(curves, default=-1) + 1
    return [*sorted(curves.items()), (last, final)]


def _wandb(row: Mapping[str, Any], project: str) -> str:
    import wandb

    with wandb.init(
        project=project,
        id=row["attempt"],  # the same run again where it is synchronised twice
        name=name(row),
        config=config(row),
        mode="offline",
        settings=wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,  # host, user and command line are not sent on
            x_disable_stats=True,
        ),
    ) as run:
        for step, numbers in steps(row):
            run.log(numbers, step=step)
        return str(run.settings.sync_dir)


def _trackio(row: Mapping[str, Any], project: str) -> str:
    import trackio

    with contextlib.redirect_stdout(io.StringIO()):  # it prints how to start its page
        run = trackio.init(
            project=project,
            name=name(row),
            config=config(row),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        for step, numbers in steps(row):
            trackio.log(numbers, step=step)
        trackio.finish()
    return f"project {project}, run {run.name}"


@contextlib.contextmanager
def _on_this_machine() -> Iterator[None]:
    """Hide the variables with which a client would send runs to a server."""
    hidden = {key: os.environ.pop(key) for key in _SERVERS if key in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
