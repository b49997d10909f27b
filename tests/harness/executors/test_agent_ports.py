"""The ports of Ray's agents are known to its raylet before the agents run."""

import inspect
from functools import wraps

from ray import _raylet
from ray._private import parameter, services

from harness.executors import agent_ports

FILES = {
    "metrics_agent_port": _raylet.METRICS_AGENT_PORT_NAME,
    "metrics_export_port": _raylet.METRICS_EXPORT_PORT_NAME,
    "dashboard_agent_listen_port": _raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME,
    "runtime_env_agent_port": _raylet.RUNTIME_ENV_AGENT_PORT_NAME,
}


def test_the_raylet_finds_each_port_when_it_starts(tmp_path, monkeypatch):
    found = {}
    node = _raylet.NodeID.from_random().hex()

    @wraps(services.start_raylet)  # which has the signature
    def started(**given):
        for name, file in FILES.items():
            found[name] = _raylet.wait_for_persisted_port(
                str(tmp_path), node, file, timeout_ms=0
            )
            assert found[name] == given[name]

    every = inspect.signature(services.start_raylet).parameters.values()
    required = [one.name for one in every if one.default is one.empty]
    monkeypatch.setattr(services, "start_raylet", started)
    usual = parameter.RayParams
    with agent_ports.chosen():
        made = parameter.RayParams()
        ports = {name: getattr(made, name) for name in FILES}
        where = {"session_dir": str(tmp_path), "node_id": node}
        services.start_raylet(**dict.fromkeys(required) | where | ports)

    assert found == ports
    assert len(set(ports.values())) == 4
    assert min(ports.values()) > 1023
    assert (parameter.RayParams, services.start_raylet) == (usual, started)


def test_a_ray_without_such_files_starts_as_usual(monkeypatch):
    monkeypatch.delattr(_raylet, "persist_port")
    usual = parameter.RayParams, services.start_raylet

    with agent_ports.chosen():
        assert (parameter.RayParams, services.start_raylet) == usual
