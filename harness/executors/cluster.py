"""Starting a Ray on this machine, or joining one elsewhere."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

import ray
from ray import exceptions
from ray._private import ray_constants

from harness.core import BenchError
from harness.executors import shipping
from harness.executors.joining import refused


def connect(address: str, cpus: int | None = None, gpus: int | None = None) -> None:
    """Start a local Ray that nobody else can reach, or join one.

    Args:
        address: As for ``OnRay``.
        cpus: Processors of a local cluster; None is all.
        gpus: Devices of a local cluster; None is those that Ray finds.

    Raises:
        BenchError: If nothing answers at the address, or it does not let us in.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address == "local":
        with _on_loopback():
            ray.init(
                address="local",
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=False,
                # Rows travel through the store and events are small: the default third
                # of the memory would only be taken from the models.
                object_store_memory=128 * 2**20,
                **quiet,
            )
        return
    _reachable(address)
    try:
        ray.init(address=address, runtime_env=_runtime_env(), **quiet)
    except (
        exceptions.AuthenticationError,
        ConnectionError,
        RuntimeError,
        ValueError,
        TimeoutError,
    ) as why:
        raise refused(address, why) from why


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Every port of the Ray that starts inside listens on 127.0.0.1 alone.

    Ray does so where it runs no cluster of several machines, which is how it sees
    Windows and macOS; it has no public word for it. Its processes read the variable,
    this one has read it.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    variable = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[variable] = "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[variable]


def _reachable(address: str) -> None:
    """Refuse at once what Ray would try for a minute."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise BenchError(
            f"address {address!r} is none of 'local', 'auto', HOST:PORT, ray://HOST:PORT"
        )
    try:
        with contextlib.closing(socket.create_connection((host, int(port)), 5)):
            return
    except (OSError, OverflowError) as why:
        raise BenchError(
            f"nothing answers at {address}: {why}; start Ray there with "
            "`ray start --head`, or leave --address away to run on this machine"
        ) from why


def _runtime_env() -> dict[str, Any]:
    """Send our packages, so that workers need not have them, whatever their folder."""
    passed = {
        name: os.environ[name]
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_CACHE", "SHRINKGRID_PLUGINS")
        if name in os.environ
    }
    folders = [str(folder) for folder in shipping.folders()]
    return {"py_modules": folders, "env_vars": passed}
