"""Ports for the agents of a local Ray, chosen before Ray starts.

Beside its raylet, Ray starts two agents, which import for seconds. Each agent
takes a port when it is up and writes it to a file. The raylet ends itself if a file is
missing after 15 s: on a busy machine Ray does not start. Here the ports are chosen and
the files are written first, so that nothing waits for the agents. Ray has no public
option for this. A version of Ray that has no such files starts as it does by itself.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import socket
from collections.abc import Iterator
from typing import Any

from ray import _raylet
from ray._private import parameter, services

# Parameter of Ray -> the constant with the name of the file that the raylet reads.
_FILES = {
    "metrics_agent_port": "METRICS_AGENT_PORT_NAME",
    "metrics_export_port": "METRICS_EXPORT_PORT_NAME",
    "dashboard_agent_listen_port": "DASHBOARD_AGENT_LISTEN_PORT_NAME",
    "runtime_env_agent_port": "RUNTIME_ENV_AGENT_PORT_NAME",
}


@contextlib.contextmanager
def chosen() -> Iterator[None]:
    """Give the agents of a Ray that starts in the block their ports."""
    if not all(hasattr(_raylet, name) for name in ("persist_port", *_FILES.values())):
        yield
        return
    usual_parameters, usual_start = parameter.RayParams, services.start_raylet
    signature = inspect.signature(usual_start)

    def start(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        for name, file in _FILES.items():
            _raylet.persist_port(
                given["session_dir"],
                given["node_id"],
                getattr(_raylet, file),
                given[name],
            )
        return usual_start(*args, **kwargs)

    ports = dict(zip(_FILES, _free_ports(len(_FILES)), strict=True))
    parameter.RayParams = functools.partial(usual_parameters, **ports)
    services.start_raylet = start
    try:
        yield
    finally:
        parameter.RayParams = usual_parameters
        services.start_raylet = usual_start


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        # All are held until the last one is known, so that they differ.
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
