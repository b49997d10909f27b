"""Where a request fits best, and what is free when it is returned."""

import pytest

from harness.planning.resources import ResourceRequest
from harness.scheduling.free_capacity import FreeCapacity, Location, placeable
from harness.scheduling.hardware import Cluster, Node, known

GB = 10**9
MIXED = Cluster(
    nodes=(
        Node(cpus=4, memory=8 * GB),
        Node(cpus=8, memory=32 * GB, gpus=2, device=known("T4")),
        Node(cpus=8, gpus=2, device=known("H100")),
    )
)


def request(cpus: float = 1.0, **more: float | str) -> ResourceRequest:
    return ResourceRequest(cpus=cpus, **more)


def test_the_node_with_the_fewest_sufficient_processors_is_taken():
    free = FreeCapacity(MIXED)

    assert free.find(request()) == Location(0)
    assert free.find(request(4)) == Location(0)
    assert free.find(request(5)) == Location(1)
    assert free.find(request(memory=9 * GB)) == Location(1)
    assert free.find(request(memory=33 * GB)) == Location(2)  # its memory is unknown
    assert free.find(request(9)) is None


def test_shares_fill_one_device_before_the_next_is_begun():
    free = FreeCapacity(MIXED)
    third = request(gpus=1 / 3)
    found = []
    for _ in range(4):
        location = free.find(third)
        assert location is not None
        free.take(third, location)
        found.append(location)

    # Three shares fill a device of a T4 node exactly; the fourth begins the next.
    assert found == [Location(1, (0,))] * 3 + [Location(1, (1,))]
    assert free.find(request(gpus=1)) == Location(2, (2,))
    for location in found:
        free.give(third, location)
    assert free.gpu.tolist() == [1, 1, 1, 1]
    assert free.cpu.tolist() == [4, 8, 8]


def test_a_kind_of_device_is_respected():
    free = FreeCapacity(MIXED)

    assert free.find(request(gpus=0.5, device="H100")) == Location(2, (2,))
    assert free.find(request(gpus=0.5, device="L4")) is None
    assert free.find(request(gpus=0.5, memory=33 * GB)) == Location(2, (2,))


def test_several_devices_are_whole_and_of_one_node():
    free = FreeCapacity(MIXED)
    free.take(request(gpus=0.1), Location(1, (0,)))

    assert free.find(request(gpus=2)) == Location(2, (2, 3))
    assert free.find(request(gpus=3)) is None
    free.take(request(gpus=2), Location(2, (2, 3)))
    assert free.find(request(gpus=2)) is None
    assert free.gpu.tolist() == pytest.approx([0.9, 1, 0, 0])


def test_only_the_node_where_something_was_freed_is_searched():
    free = FreeCapacity(MIXED)

    assert free.find(request(), near=2) == Location(2)
    assert free.find(request(gpus=0.5), near=2) == Location(2, (2,))
    assert free.find(request(gpus=2), near=2) == Location(2, (2, 3))
    assert free.find(request(gpus=0.5), near=0) is None
    free.take(request(gpus=0.5), Location(2, (3,)))
    assert free.find(request(gpus=0.5), near=2) == Location(2, (3,))
    assert free.find(request(gpus=0.6), near=2) == Location(2, (2,))


def test_a_node_that_is_down_holds_nothing():
    free = FreeCapacity(MIXED)
    free.down.add(2)

    assert free.find(request(gpus=1, device="H100")) is None
    assert free.find(request(), near=2) is None
    assert free.find(request(gpus=2)) == Location(1, (0, 1))


def test_a_request_is_placeable_where_an_empty_node_holds_it():
    assert placeable(MIXED, request(8, gpus=2))
    assert not placeable(MIXED, request(8, gpus=3))


def test_what_is_used_up_exactly_still_leaves_room_for_what_needs_none_of_it():
    free = FreeCapacity(MIXED)
    whole = request(2, memory=8 * GB)
    assert free.find(whole) == Location(0)
    free.take(whole, Location(0))

    assert (free.cpu[0], free.memory[0]) == (2, 0)
    assert free.find(request(2)) == Location(0)
    assert free.find(request(memory=1)) == Location(1)
    free.take(request(2), Location(0))
    assert (free.cpu[0], free.memory[0]) == (0, 0)


def test_devices_are_exactly_whole_again_when_all_shares_are_returned():
    free = FreeCapacity(MIXED)
    shares = [request(gpus=share) for share in (0.2, 0.3, 0.1)]
    for share in (shares[2], shares[1], shares[0]):
        free.take(share, Location(1, (0,)))
    for share in (shares[2], shares[0], shares[1]):  # 1.0000000000000002 in floats
        free.give(share, Location(1, (0,)))
    assert free.gpu.tolist() == [1, 1, 1, 1]
    several = Location(1, (0, 1))
    free.take(request(gpus=2), several)
    assert free.gpu.tolist() == [0, 0, 1, 1]
    free.give(request(gpus=2), several)

    assert free.gpu.tolist() == [1, 1, 1, 1]
