"""How much is handed over at a time, and when more may follow."""

from harness.planning.resources import ResourceRequest
from harness.scheduling.hardware import Cluster, parse
from harness.scheduling.packing import Packer
from harness.scheduling.window import AHEAD, FEW, HELD, Window


def test_the_window_holds_a_little_more_than_the_cluster():
    window = Window(Packer(cluster=parse("8xH100")))
    given_out = 0
    while window.open():
        window.add(given_out, ResourceRequest(cpus=1, gpus=0.5))
        given_out += 1

    assert given_out == AHEAD * 8 / 0.5
    window.drop(0)
    assert window.open()
    window.add(0, ResourceRequest(cpus=1, gpus=0.5), ["checkpoint"])
    assert window.open()  # it takes nothing yet
    window.built("checkpoint")
    assert not window.open()
    for job in range(6):
        window.drop(job)
    for job in range(6):
        assert window.open()
        window.add(job, ResourceRequest(cpus=1, gpus=0.5), ["other"])
        window.built("other")
    assert not window.open()


def test_bundles_that_wait_for_an_artifact_leave_their_slot_to_others():
    window = Window(Packer(cluster=parse("1xCPU")))
    window.add("training", ResourceRequest(cpus=1))
    for job in range(20):
        window.add(job, ResourceRequest(cpus=1), ["checkpoint"])

    assert window.open()
    window.drop("training")
    window.built("checkpoint")
    assert not window.open()
    for job in range(17):
        window.drop(job)
    assert window.open()


def test_a_window_lets_a_few_out_even_where_nothing_fits_yet():
    window = Window(Packer(cluster=Cluster(nodes=())))
    for job in range(FEW):
        assert window.open()
        window.add(job, ResourceRequest(cpus=1))

    assert not window.open()


def test_a_bounded_number_of_bundles_waits():
    window = Window(Packer(cluster=parse("1xCPU")))
    window.add("large", ResourceRequest(cpus=99))  # one bundle is always handed over
    for job in range(HELD + 1):
        assert window.open()
        window.add(job, ResourceRequest(cpus=1), ["checkpoint"])

    assert not window.open()
