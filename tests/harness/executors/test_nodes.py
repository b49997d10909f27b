"""What no single machine of a cluster could run is refused, with what there is."""

from types import SimpleNamespace

import pytest

from harness.core import BenchError
from harness.executors import nodes
from harness.planning.resources import Resources


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of the given nodes, as Ray describes one."""

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

    return has


def bundle(**asked):
    named = SimpleNamespace(name="svd"), SimpleNamespace(name="smollm2-135m")
    trial = SimpleNamespace(method=named[0], model=named[1])
    return SimpleNamespace(resources=Resources(**asked), trials=(trial,))


def test_two_devices_on_two_machines_are_not_two_devices(cluster):
    cluster({"CPU": 8.0, "GPU": 1.0, "memory": 3e10}, {"CPU": 8.0, "GPU": 1.0})

    nodes.refuse_misfits([bundle(gpus=1)])
    with pytest.raises(BenchError) as refused:
        nodes.refuse_misfits([bundle(gpus=1), bundle(gpus=2), bundle(gpus=2)])

    assert refused.value.mistakes == [
        "svd on smollm2-135m asks for 1 CPUs and 2 GPUs; no machine has that (there is "
        "host0 with 8 CPUs, 1 GPUs, 30 GB; host1 with 8 CPUs, 1 GPUs, 0 GB): change "
        "`resources` in the grid",
    ]


def test_host_memory_counts_too(cluster):
    cluster({"CPU": 8.0, "memory": 3e10})

    nodes.refuse_misfits([bundle(memory="30GB")])
    with pytest.raises(BenchError, match=r"and 0 GPUs and 31 GB; no machine has that"):
        nodes.refuse_misfits([bundle(memory="31GB")])


def test_of_many_machines_the_largest_are_named(cluster):
    cluster(*({"CPU": float(i)} for i in range(9)))

    with pytest.raises(BenchError, match=r"host8 with 8 CPUs.* and 6 more\)"):
        nodes.refuse_misfits([bundle(gpus=1)])


def test_where_machines_come_when_asked_for_nothing_is_refused(cluster):
    cluster({"CPU": 0.0})
    with pytest.raises(BenchError, match="GPU"):
        nodes.refuse_misfits([bundle(gpus=8)])

    cluster({"CPU": 0.0, "autoscaled": 1.0})
    nodes.refuse_misfits([bundle(gpus=8)])
