"""Builds the columns of a trial row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from harness.core import Measurement
from harness.declarations import declared
from harness.options import dumps
from harness.planning import provenance
from harness.planning.answers import remembered
from harness.planning.messages import Job
from harness.planning.plan import configured
from harness.planning.trial import PluginSpec, Trial, digest
from harness.registry import Plugin, facts, find
from results.errors import StoreError
from results.storage import encoding

if TYPE_CHECKING:
    from harness.toolkit import model_size


def stored(one: Measurement) -> dict[str, Any]:
    """A checked measurement in the columns of ``results.schema.MEASUREMENT``."""
    columns = ("metric", "value", "unit", "goal", "stderr", "n", "step")
    return {name: getattr(one, name) for name in columns}


def fault(row: Mapping[str, Any]) -> str | None:
    """Why a row does not fit the table of trials; None if it fits.

    Args:
        row: Values by column of ``results.schema.TRIALS``.

    Returns:
        The error in words.
    """
    try:
        encoding.table("trials", [encoding.line(row)])
    except StoreError as why:
        return str(why)
    return None


def dense_columns(dense: model_size.Size | None) -> dict[str, Any]:
    """Columns for the size of the dense network."""
    if dense is None:
        return {}
    return {
        "params_dense": dense.params,
        "bytes_dense": dense.bytes,
        "macs_dense": dense.macs,
    }


def size_columns(
    size: model_size.Size, dense: model_size.Size | None
) -> dict[str, Any]:
    """Columns for the size of the compressed network, and the shares removed."""
    columns: dict[str, Any] = {
        "params": size.params,
        "params_nonzero": size.nonzero,
        "bytes": size.bytes,
        "macs": size.macs,
    }
    for name in ("params", "bytes", "macs"):
        before = getattr(dense, name, 0)
        if before:
            # Share removed: 0.25 if three quarters of the parameters (bytes,
            # multiplications) are left.
            columns[f"achieved_{name}"] = 1 - getattr(size, name) / before
    return columns


def base_row(job: Job, trial: Trial) -> dict[str, Any]:
    """The columns that are known before anything runs, without asking a plugin.

    Args:
        job: Gives the attempt, the grid and the commit.
        trial: The trial that the row describes.

    Returns:
        Columns of ``results.schema.TRIALS``.
    """
    from harness.toolkit import devices  # imports torch

    commit, dirty = job.commit
    return {
        "attempt": job.attempts[trial.id],
        "trial": trial.id,
        "grid": job.grid,
        "bundle": job.bundle.id,
        "method": trial.method.name,
        "method_options": trial.method.options,
        "model": trial.model.name,
        "model_options": trial.model.options,
        "model_revision": trial.model.revision,
        "task": trial.task.name,
        "task_options": trial.task.options,
        "calibration": trial.calibration,
        **_fixed_protocol(trial.task),
        "data_fingerprint": trial.task.revision,
        "ratio": trial.ratio,
        "seed": trial.seed,
        "identity": dumps(trial.identity()),
        "dtype": trial.dtype,
        "commit": commit,
        "dirty": dirty,
        "versions": _versions(),
        "host": devices.host(),
        "device": devices.name(devices.pick()),
        "threads": devices.threads(),
        "node": devices.node(),
        "accelerator": _json(devices.accelerator()),
        "precision": _json(devices.precision()),
    }


def declared_columns(trial: Trial) -> dict[str, Any]:
    """The columns that the plugins of a trial declare in this process.

    Args:
        trial: The trial that the row describes.

    Returns:
        Columns of ``results.schema.TRIALS``.

    Raises:
        BenchError: If a plugin raises or declares something wrong here.
    """
    plugin = find("method", trial.method.plugin)
    ratio_of = facts(plugin, configured("method", trial.method))["ratio_of"]
    digest_of_code = code_digest(trial.method, trial.task, trial.model)
    columns = {"ratio_of": ratio_of, "code_digest": digest_of_code}
    if hasattr(configured("task", trial.task), "place"):
        columns |= _as_columns(protocol(trial.task))
    return columns


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else dumps(value)


def protocol(task: PluginSpec) -> dict[str, Any]:
    """What must be equal for two numbers of a task to be comparable.

    A task whose numbers depend on the machine has a method ``place``. Its fields are
    not part of the trial's identity.
    """
    here = declared(f"task {task.name!r}", configured("task", task), "place")
    return _whole_protocol(task) | (here or {})


def _whole_protocol(task: PluginSpec) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(task.protocol)
    return {"task": task.name, "version": task.version, **fields, "data": task.revision}


@lru_cache(maxsize=4096)
def _fixed_protocol(task: PluginSpec) -> dict[str, str]:
    return _as_columns(_whole_protocol(task))


def _as_columns(measured_by: dict[str, Any]) -> dict[str, str]:
    return {
        # Numbers are compared only within one digest, and the fields say why two
        # differ.
        "protocol": digest(measured_by, 12),
        "protocol_fields": dumps(measured_by),
    }


@cache
def _versions() -> str:
    return dumps(provenance.versions())


@remembered
def code_digest(method: PluginSpec, task: PluginSpec, model: PluginSpec) -> str:
    """Digest of the code of a method, of a task and of a model, with their members."""
    parts = (("method", method), ("task", task), ("model", model))
    # 8 digits for each of the three, so that one can see which of them changed.
    return "".join(
        provenance.code_digest(
            *_modules(find(kind, part.plugin), configured(kind, part))
        )[:8]
        for kind, part in parts
    )


def _modules(plugin: Plugin, instance: Any) -> Iterator[str]:
    """The modules of a plugin, and of the plugins that it uses by name.

    A chain has other methods as members, and a measurement of speed the task whose data
    trains the model. The engine builds the statistics that a method reads.
    """
    yield plugin.cls.__module__
    if "calibration" in facts(plugin, instance).get("needs", ()):
        yield "harness.toolkit.calibration"
    for member in declared(str(plugin), instance, "members") or ():
        yield from _modules(member.plugin, member.instance)
