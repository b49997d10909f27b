"""Building and opening artifacts: dense checkpoints and calibration statistics."""

from __future__ import annotations

import hashlib
import json
import random
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from harness.core import BenchError, Context, Model, Unsupported
from harness.options import build
from harness.planning.messages import ArtifactJob, Built
from harness.planning.plan import Artifact, configured
from harness.planning.resources import Placement
from harness.planning.trial import PluginSpec, Trial
from harness.registry import facts, find
from harness.running.failures import (
    Failed,
    Failure,
    Interrupted,
    StoreFailed,
    check_space,
    classify,
    store_io,
)
from harness.toolkit import calibration as statistics
from harness.toolkit import devices, host_memory, model_size, resident, spread
from harness.toolkit.blockwise import blocks_of
from harness.toolkit.tensor_files import read_tensors
from results.storage import artifacts as shelf
from results.storage.leases import stop_requested
from results.storage.store import Store, open_store


def produce(job: ArtifactJob) -> Built:
    """Build an artifact unless the store has it.

    Args:
        job: What to build, and where the store is.

    Returns:
        How it ended; an error of a plugin is part of it.

    Raises:
        StoreError: If the store cannot be used, which ends the run.
    """
    began = time.perf_counter()
    devices.set_threads(int(job.cpus))
    artifact = job.artifact
    store = open_store(job.store)
    # An earlier run, or one that goes on beside this one, may have built it.
    if shelf.find(store, artifact.id) is not None:
        return Built(artifact=artifact.id, reused=True)
    # After a stop request no trial starts, so the artifact would not be used.
    if job.run and stop_requested(store, job.run):
        why = "not begun: the run was asked to stop"
        return Built(artifact=artifact.id, error=why, error_class="infra")
    failure = None
    try:
        failure = _build(job, store)
    except StoreFailed as error:
        raise error.why from None
    seconds = time.perf_counter() - began
    if failure is None:
        return Built(artifact=artifact.id, seconds=seconds)
    return Built(
        artifact=artifact.id,
        seconds=seconds,
        error=failure.reason,
        error_class=failure.error_class,
        traceback=failure.traceback,
    )


def _build(job: ArtifactJob, store: Store) -> Failure | None:
    """Build into the store; the failure if the builder or a plugin failed."""
    failed: Failure | None = None
    artifact = job.artifact
    try:
        with store_io(), shelf.make(store, artifact.id, about=str(artifact)) as folder:
            try:
                _BUILDERS[artifact.kind](job, folder, store)
            except (StoreFailed, Interrupted):
                raise
            except BaseException as error:  # becomes a row of every trial that needs it
                check_space(error, store)  # while the unfinished files are there
                failed = classify(error)
                # The exception leaves ``shelf.make``, which then deletes the folder
                # instead of moving it to its place.
                raise Failed(failed) from None  # so that nothing half-built is kept
    except Failed:
        return failed
    return None


def load_model(
    part: PluginSpec,
    dtype: str,
    store: Store,
    dense: Artifact | None,
    placement: Placement = "auto",
    gpus: float = 0.0,
) -> Model:
    """The dense model of a trial, on this process's device or devices.

    Args:
        part: Plugin spec of the model.
        dtype: Floating-point type of the weights.
        store: Where a trained checkpoint lies.
        dense: The checkpoint's artifact, None for a pretrained model.
        placement: Where the weights are; a checkpoint trained here is small and always
            on the device.
        gpus: Number of devices; the blocks of a pretrained model are spread over them
            if there are several.

    Returns:
        The model, in ``eval`` mode.

    Raises:
        BenchError: If the checkpoint is not in the store, or the files of a pretrained
            model are not those of the plan, or this process has fewer devices.
        Unsupported: If the model cannot be spread over several devices.
    """
    if dense is None:
        model: Model = _pinned(part).load()
        # After loading: the revision is that of the files which were read.
        same_model(part)
        # Before the cast below, which would put a second copy of all weights into
        # memory.
        _place(model.net, getattr(torch, dtype), placement, store, gpus)
    else:
        with store_io():
            folder = shelf.find(store, dense.id)
        if folder is None:
            raise BenchError(f"the artifact {dense.id} is not in {store.uri}")
        data = task_data(_task(dense))
        model = configured("model", part).build(data.shape, dense.seed)
        _fill(model.net, folder / "model.safetensors", dense)
    devices.cast(model.net, getattr(torch, dtype)).eval()
    if host_memory.of(model.net) is not None:
        _bring(model)
    elif dense is None and gpus > 1:
        spread.spread(model.net, blocks_of(model)[0], devices.several(int(gpus)))
    else:
        model.net.to(devices.pick())
    return replace(model, name=part.name)


def _place(
    net: nn.Module,
    dtype: torch.dtype,
    placement: Placement,
    store: Store,
    gpus: float = 0.0,
) -> None:
    """Keep a network in files below the store, if it was asked for or is too large."""
    weights = sum(p.numel() for p in net.parameters()) * dtype.itemsize
    # Bytes that are free on the device (None on a CPU) and on the host.
    on_device, on_host, _ = devices.free()
    if placement == "auto" and gpus > 1:  # the blocks are spread
        return
    free = on_host if on_device is None else on_device
    if host_memory.chosen(placement, weights, free) == "blockwise":
        with store_io():
            folder = store.scratch("host-memory")
        host_memory.hold(net, host_memory.HostMemory(folder), dtype)


def _bring(model: Model) -> None:
    """Let a network in files compute on this process's device, if it has one."""
    host, device = host_memory.of(model.net), devices.pick()
    if host is not None and device.type != "cpu":
        path, _ = blocks_of(model)
        host.residency = resident.Residency(device, path, host.keep)
        host.residency.start(model.net)


def _pinned(part: PluginSpec) -> Any:
    """The family at the plan's revision, whatever is newest here."""
    family = configured("model", part)
    return family.at(part.revision) if hasattr(family, "at") else family


def same_model(part: PluginSpec) -> None:
    """Refuse to use other weights than the plan was made with.

    It is asked before and after each use: weights are mapped from their files, so that
    a file that is written in place changes a network that is loaded already.

    Args:
        part: Plugin spec of a pretrained model.

    Raises:
        BenchError: If this node has files of another content.
    """
    here = str(_pinned(part).revision())
    if here != part.revision:
        raise BenchError(
            f"model {part.name} is {here} on this node, and {part.revision} in the "
            "plan: copy the planned files to every node, or run the command again"
        )


def _fill(net: nn.Module, path: Path, dense: Artifact) -> None:
    """Give a network the weights of its checkpoint, all of them."""
    try:
        # ``strict`` by default: a missing or an additional tensor is an error, so that
        # no layer keeps random weights.
        net.load_state_dict(read_tensors(path))
    except RuntimeError as why:
        raise BenchError(
            f"{path} does not fit the network of {dense}: "
            f"{' '.join(str(why).split())[:300]}; delete the folder {path.parent} and "
            "run again"
        ) from why


def refuse_partial(trial: Trial, model: Model) -> float | None:
    """Refuse a model of which a method would treat too small a share.

    Args:
        trial: Its method and its model's options decide.
        model: The dense model that was loaded.

    Returns:
        The share of the block weights that the method treats; None for a method that
        reads no roles, and for models that are not language models.

    Raises:
        Unsupported: If the model says so.
    """
    method = facts(
        find("method", trial.method.plugin), configured("method", trial.method)
    )
    family = configured("model", trial.model)
    if hasattr(family, "refuses_loaded"):
        why = family.refuses_loaded(method, model)
        if why is not None:
            raise Unsupported(why)
    return model_size.coverage(model) if model_size.reads_roles(method) else None


@lru_cache(maxsize=2)
def task_data(part: PluginSpec) -> Any:
    """A task's data, kept for the next bundle of this process.

    Args:
        part: A task; its revision says which data.

    Returns:
        What the task's ``data`` gives.

    Raises:
        BenchError: If this node has other data, or it changed while it was read.
    """
    same_data(part)
    data = configured("task", part).data()
    # The second check finds a file that changed between the first one and the end of
    # reading.
    same_data(part)
    return data


def same_data(part: PluginSpec) -> None:
    """Refuse to use other data than the plan was made with.

    It is asked before and after each use: a file may change while a run goes on.

    Args:
        part: Plugin spec of a task.

    Raises:
        BenchError: If this node has a copy of another revision.
    """
    here = str(configured("task", part).fingerprint())
    if here != part.revision:
        raise BenchError(
            f"the data of {part.name} is {here} on this node, and {part.revision} in "
            "the plan: run the command again if the data was changed on purpose, or "
            "copy the prepared caches to every node"
        )


def calibration(artifact: Artifact, store: Store) -> statistics.Calibration:
    """The opened calibration of an artifact.

    Args:
        artifact: Artifact of kind ``calibration``.
        store: Store that contains the artifact.

    Returns:
        A ``Calibration``.

    Raises:
        BenchError: If it is not in the store.
    """
    with store_io():
        folder = shelf.find(store, artifact.id)
    if folder is None:
        raise BenchError(f"the artifact {artifact.id} is not in {store.uri}")
    return statistics.open(folder)


def _task(artifact: Artifact) -> PluginSpec:
    if artifact.task is None:
        raise BenchError(f"the artifact {artifact.id} has no task to train on")
    return artifact.task


def _build_dense(job: ArtifactJob, folder: Path, store: Store) -> None:
    artifact = job.artifact
    family = configured("model", artifact.model)
    data = task_data(_task(artifact))
    seed_everything(artifact.seed, "dense")
    model = family.build(data.shape, artifact.seed)
    device = devices.pick()
    model.net.to(device)
    with store_io():
        scratch = store.scratch(artifact.id)
    ctx = Context(
        model=model,
        seed=artifact.seed,
        device=device,
        data=data,
        scratch=scratch,
        checkpoint_key="dense",
    )
    family.train(model, ctx)
    # safetensors stores contiguous tensors only.
    state = {k: v.contiguous().cpu() for k, v in model.net.state_dict().items()}
    save_file(state, folder / "model.safetensors")


def _build_calibration(job: ArtifactJob, folder: Path, store: Store) -> None:
    artifact = job.artifact
    spec = build(
        "calibration",
        "block",
        statistics.CalibrationSpec,
        json.loads(artifact.calibration or "{}"),
    )
    model = load_model(
        artifact.model, artifact.dtype, store, None, job.placement, job.gpus
    )
    statistics.build(model, spec, folder)
    # The statistics of other weights must not be stored under this plan's id.
    same_model(artifact.model)


_BUILDERS = {"dense": _build_dense, "calibration": _build_calibration}


def seed_everything(seed: int, stage: str) -> None:
    """Give each stage its own global random state, whatever ran before it.

    So a trial has the same numbers in a bundle as alone.

    Args:
        seed: Seed of the trial's random generators.
        stage: ``fit``, ``compress 0.2`` ...
    """
    # A hash and not ``seed + number of the stage``: seed 0 of a later stage must not
    # equal seed 1 of an earlier one. NumPy takes 32 bits.
    value = int.from_bytes(hashlib.sha256(f"{seed}|{stage}".encode()).digest()[:4])
    random.seed(value)
    np.random.seed(value)
    # torch.manual_seed also walks every kind of accelerator, for 2 ms a call.
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(value)
