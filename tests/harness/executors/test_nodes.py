"""What a Ray cluster is made of, as Ray and the nodes themselves describe it."""

import pytest

from harness.executors import nodes
from harness.executors.nodes import ClusterInspector
from harness.scheduling.hardware import Node


@pytest.fixture
def ray(monkeypatch):
    """A cluster of the given resources, without a Ray; its devices do not answer."""

    def has(*wanted: dict[str, float]) -> None:
        described = [
            {
                "Alive": True,
                "NodeID": f"id{i}",
                "NodeManagerHostname": f"host{i}",
                "Resources": node,
            }
            for i, node in enumerate(wanted)
        ]
        dead = {"Alive": False, "Resources": {"CPU": 999.0, "GPU": 999.0}}
        total = {key: 1.0 for node in wanted for key in node}
        monkeypatch.setattr(nodes.ray, "nodes", lambda: [*described, dead])
        monkeypatch.setattr(nodes.ray, "cluster_resources", lambda: total)
        monkeypatch.setattr(ClusterInspector, "_ask", lambda self, ids: None)
        monkeypatch.setattr(nodes, "_promised", lambda: (0.0, 0.0))

    return has


def test_living_nodes_are_described_the_larger_first(ray):
    ray(
        {"CPU": 8.0, "memory": 3e10},
        {"CPU": 4.0, "GPU": 2.0, "accelerator_type:T4": 1.0},
    )

    first, second = ClusterInspector()().nodes
    assert second == Node(id="id0", name="host0", cpus=8.0, memory=30_000_000_000)
    assert (first.name, first.gpus, first.memory) == ("host1", 2.0, None)
    assert first.device is not None
    assert first.device.name == "T4"


def test_a_custom_resource_says_that_nodes_are_added_on_demand(ray):
    ray({"CPU": 1.0})
    assert not ClusterInspector()().autoscaled

    ray({"CPU": 1.0, "autoscaled": 1.0})
    assert ClusterInspector()().autoscaled
