"""What no node of a cluster could ever run is described, with what there is."""

from dataclasses import replace

import pytest

from harness.planning.resources import Resources
from harness.scheduling.feasibility import able, misfits
from harness.scheduling.hardware import Cluster, Device, Node, parse
from harness.scheduling.packing import Packer

GB = 10**9
T4 = Device(name="T4", bytes=16 * GB)


@pytest.fixture
def refused(plan):
    """Describe what the nodes of a cluster cannot run, for bundles with resources."""

    def says(cluster: Cluster, *several: Resources) -> list[str]:
        (bundle,) = plan().bundles
        bundles = [replace(bundle, resources=one) for one in several]
        return misfits(Packer(cluster=cluster), bundles)

    return says


def test_two_devices_on_two_nodes_are_not_two_devices(refused):
    cluster = Cluster(
        nodes=(
            Node(name="host0", cpus=8, gpus=1, device=T4, memory=30 * GB),
            Node(name="host1", cpus=1, gpus=1, device=T4),
        )
    )

    assert refused(cluster, Resources(gpus=1)) == []
    wanted = Resources(gpus=2, memory="2GB")
    assert refused(cluster, Resources(gpus=1), wanted, wanted) == [
        "toy_drop on toy requests 1 CPU, 2 GPUs, 2 GB of memory; no node has that "
        "(host0 with 8 CPUs, 1 GPU (16 GB), 30 GB of memory; host1 with 1 CPU, 1 GPU "
        "(16 GB)): change `resources` in the grid"
    ]


def test_host_memory_counts_too(refused):
    cluster = Cluster(nodes=(Node(cpus=8, memory=30 * GB),))

    assert refused(cluster, Resources(memory="30GB")) == []
    (why,) = refused(cluster, Resources(memory="31GB"))
    assert "requests 1 CPU, 0 GPUs, 31 GB of memory; no node has that" in why


def test_of_many_nodes_the_largest_are_named(refused):
    cluster = Cluster(nodes=tuple(Node(name=f"host{i}", cpus=i) for i in range(9)))

    (why,) = refused(cluster, Resources(gpus=1))
    assert "host8 with 8 CPUs, no GPU; host7" in why
    assert "and 6 more)" in why


def test_device_memory_that_no_device_has_is_refused(refused):
    wanted = Resources(device_memory="100GB")

    for cluster in (parse("8xH100"), parse("4xCPU"), Cluster(nodes=())):
        (why,) = refused(cluster, wanted)
        assert "100 GB of device memory; no node has that" in why
    assert refused(parse("1xH200"), wanted) == []
    assert refused(parse("1xT4,1xH200"), wanted) == []  # one is enough
    unknown = Node(cpus=8, gpus=1, device=Device(name="GPU"))
    assert refused(Cluster(nodes=(unknown,)), wanted) == []


def test_what_autoscaling_may_bring_is_not_refused(refused):
    host = Node(cpus=1)

    assert refused(Cluster(nodes=(host,)), Resources(gpus=8))
    assert not refused(Cluster(nodes=(host,), autoscaled=True), Resources(gpus=8))
    promised = Cluster(nodes=(host,), promised=(64.0, 8.0))
    assert not refused(promised, Resources(gpus=8))
    assert refused(promised, Resources(gpus=9))
    assert not refused(promised, Resources(cpus=64))
    assert refused(promised, Resources(cpus=65))


def test_a_node_is_able_if_it_can_run_one_of_the_bundles(plan):
    small, large = Node(cpus=2), Node(cpus=8)
    packer = Packer(cluster=Cluster(nodes=(small, large)))
    (bundle,) = plan().bundles
    heavy = replace(bundle, resources=Resources(cpus=4))

    assert able(packer, [heavy]) == [large]
    assert able(packer, [heavy, bundle]) == [small, large]
    assert able(packer, [replace(bundle, resources=Resources(cpus=9))]) == []


def test_a_device_of_exactly_the_stated_memory_is_large_enough(refused):
    cluster = Cluster(nodes=(Node(cpus=8, gpus=1, device=T4),))

    assert refused(cluster, Resources(device_memory=16 * GB)) == []
    assert refused(cluster, Resources(device_memory=16 * GB + 1)) != []


def test_nodes_are_named_by_devices_then_processors_then_memory(refused):
    nodes = (
        Node(name="a", cpus=9, memory=GB),
        Node(name="b", cpus=9, memory=2 * GB),
        Node(name="c", cpus=1, gpus=1, device=T4),
        Node(name="d", cpus=2, gpus=1, device=T4),
        Node(name="e", cpus=9),
    )

    (why,) = refused(Cluster(nodes=nodes), Resources(gpus=4))
    names = [part[0] for part in why.partition("(")[2].split("; ")]
    assert names == ["d", "c", "b"]
    assert "and 2 more)" in why
    (why,) = refused(Cluster(nodes=nodes[:3]), Resources(gpus=4))
    assert "more" not in why
    (why,) = refused(Cluster(nodes=()), Resources(gpus=4))
    assert "(there is no node)" in why
