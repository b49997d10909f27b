"""Devices by name, and clusters as a user writes them."""

import re

import pytest

from harness.core import BenchError
from harness.scheduling.hardware import CPU, Cluster, Device, Node, known, parse


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("8xFOO", "no device called 'FOO'"),
        ("8xH10", "Did you mean 'H100'?"),
        ("0xH100", "has 0 devices; write a count from 1"),
        ("h100", "is not a valid cluster; write COUNTxDEVICE, like 8xH100"),
        ("8 of H100", "is not a valid cluster"),
        ("", "is not a valid cluster"),
        ("99999999999xH100", "write a count from 1 to 100000"),
    ],
)
def test_an_invalid_cluster_is_refused_with_the_reason(text, reason):
    with pytest.raises(BenchError, match=re.escape(reason)):
        parse(text)


def test_a_processor_with_four_threads_is_twice_as_fast_as_one():
    assert CPU.relative_speed(4) == pytest.approx(2 * CPU.relative_speed(1))
    assert Device(name="x").relative_speed(4) == Device(name="x").relative_speed(1)


def test_one_processor_thread_has_the_speed_1():
    assert CPU.relative_speed() == CPU.relative_speed(0.5) == 1
    assert Device(name="x", tflops=20).relative_speed() == pytest.approx(
        20
    )  # root(400)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100"),
        ("nvidia l4", "L4"),
        ("H100", "H100"),
        ("A100-80GB", "A100-80GB"),
        ("A100 80GB", "A100-80GB"),
        ("AMD EPYC 7B13", "CPU"),
        ("NVIDIA GeForce RTX 3090", "NVIDIA GeForce RTX 3090"),
    ],
)
def test_a_device_is_found_by_the_name_that_its_driver_reports(name, found):
    assert known(name).name == found


def test_twelve_devices_are_two_nodes_with_eight_threads_a_device():
    cluster = parse("12xH100,16xCPU")

    assert [(n.cpus, n.gpus) for n in cluster.nodes] == [(64, 8), (32, 4), (16, 0)]
    assert (cluster.cpus, cluster.gpus) == (112, 12)
    assert len(parse("16xH100").nodes) == 2
    assert parse("1xCPU").cpus == 1
    assert parse("100000xCPU").cpus == 100_000
    with pytest.raises(BenchError, match="from 1 to 100000"):
        parse("100001xCPU")


def test_what_autoscaling_may_add_counts_only_above_what_is_there():
    nodes = (Node(cpus=4, gpus=1), Node(cpus=4, gpus=2))

    assert Cluster(nodes=nodes, promised=(6.0, 8.0)).cpus == 8
    assert Cluster(nodes=nodes, promised=(6.0, 8.0)).gpus == 8
    assert Cluster(nodes=nodes, promised=(16.0, 2.0)).cpus == 16
    assert Cluster(nodes=nodes, promised=(16.0, 2.0)).gpus == 3


def test_kinds_of_devices_are_sorted_by_size_and_unknown_ones_come_last():
    strange = Device(name="A strange one")
    nodes = [
        Node(cpus=1, gpus=1, device=device)
        for device in (strange, known("H100"), known("T4"), known("L40S"), known("T4"))
    ]
    idle = Node(cpus=1, gpus=0, device=known("V100"))  # its device was taken away

    cluster = Cluster(nodes=(*nodes, idle, Node(cpus=3)))

    assert [d.name for d in cluster.devices] == ["T4", "L40S", "H100", strange.name]
    assert str(parse("1xT4,8xH100")) == "8xH100,1xT4"
    assert str(cluster) == "1xA strange one,1xH100,1xL40S,2xT4,4xCPU"


def test_memory_is_that_of_the_largest_node_and_of_all_that_state_it():
    cluster = Cluster(
        nodes=(Node(cpus=1, memory=5), Node(cpus=1), Node(cpus=1, memory=7))
    )

    assert cluster.memory == 7
    assert cluster.total_memory == 12
    assert cluster.capacity == {"cpu": 3, "gpu": 0, "memory": 12}
    assert Cluster(nodes=(Node(cpus=1),)).memory is None


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (
            Node(
                cpus=1,
                gpus=2,
                device=Device(name="x", bytes=16 * 10**9),
                memory=64 * 10**9,
                name="h",
            ),
            "h with 1 CPU, 2 GPUs (16 GB), 64 GB of memory",
        ),
        (Node(cpus=8, gpus=1), "a node with 8 CPUs, 1 GPU"),
        (Node(cpus=8, gpus=1, device=Device(name="x")), "a node with 8 CPUs, 1 GPU"),
        (
            Node(cpus=0.5, gpus=0.5, device=Device(name="x", bytes=12_345 * 10**6)),
            "a node with 0.5 CPUs, 0.5 GPUs (12.3 GB)",
        ),
        (Node(cpus=2, memory=1_230 * 10**6), "a node with 2 CPUs, no GPU, 1.23 GB of"),
    ],
)
def test_a_node_reads_as_what_it_has(node, text):
    found = str(node)
    assert found == text or (text.endswith(" of") and found == f"{text} memory")
