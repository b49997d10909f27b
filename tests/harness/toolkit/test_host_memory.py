"""Networks in mapped files: equal to networks in memory, and without a second copy."""

import copy
import errno
import os
from pathlib import Path

import pytest
import tiny_llm
import torch
from torch import nn

from harness.core import BenchError
from harness.toolkit import devices, host_memory
from harness.toolkit.host_memory import HostMemory
from harness.toolkit.saved_model import replace


@pytest.fixture
def host(tmp_path):
    return HostMemory(tmp_path, smallest=1)


def is_mapped(value):
    return host_memory._is_mapped(value, host_memory._mapped_ranges())


def test_a_kept_tensor_is_equal_and_in_a_file_that_nobody_can_see(host):
    value = torch.randn(7, 5).bfloat16()

    kept = host.keep(value)

    assert torch.equal(kept, value)
    assert is_mapped(kept)
    assert not is_mapped(value)
    assert list(host.folder.iterdir()) == []


def test_a_change_of_a_copy_leaves_the_network_as_it_was(host):
    net = nn.Linear(8, 8)
    host_memory.hold(net, host)
    before = net.weight.detach().clone()

    twin = host.copy(net)
    with torch.no_grad():
        twin.weight.zero_()

    assert torch.equal(net.weight, before)
    assert not twin.weight.any()
    assert is_mapped(twin.weight)
    assert host_memory.of(twin) is host


def test_small_tensors_of_a_copy_are_its_own(tmp_path):
    net = nn.Linear(8, 8)
    host_memory.hold(net, HostMemory(tmp_path))

    twin = host_memory.of(net).copy(net)

    assert not is_mapped(twin.weight)
    assert twin.weight.data_ptr() != net.weight.data_ptr()


def test_tied_weights_stay_tied_in_a_copy(host):
    net = tiny_llm.tiny("llama").net
    host_memory.hold(net, host)

    twin = host.copy(net)

    assert twin.lm_head.weight is twin.model.embed_tokens.weight
    assert torch.equal(tiny_llm.logits(twin), tiny_llm.logits(net))


def test_weights_of_a_checkpoint_stay_in_its_file_unless_the_dtype_differs(
    host, tmp_path
):
    tiny_llm.tiny("llama").net.save_pretrained(tmp_path / "saved")
    nets = [
        type(tiny_llm.tiny("llama").net).from_pretrained(tmp_path / "saved")
        for _ in range(2)
    ]
    weights = [net.model.layers[0].mlp.up_proj.weight for net in nets]
    mapped_at = weights[0].data_ptr()

    host_memory.hold(nets[0], host, torch.float32)
    host_memory.hold(nets[1], host, torch.bfloat16)

    assert weights[0].data_ptr() == mapped_at
    assert weights[1].dtype == torch.bfloat16
    assert is_mapped(weights[1])
    assert torch.equal(weights[1], weights[0].bfloat16())


def test_a_module_that_is_put_into_a_network_in_files_moves_there(host):
    net = nn.Sequential(nn.Linear(4, 4))
    host_memory.hold(net, host)
    new = nn.Linear(4, 4)
    before = copy.deepcopy(new.state_dict())

    replace(net, "0", new)

    assert all(is_mapped(value) for value in net.parameters())
    assert all(torch.equal(new.state_dict()[k], v) for k, v in before.items())


def test_a_cast_network_stays_in_files(host):
    net = nn.Linear(4, 4)
    host_memory.hold(net, host)

    devices.cast(net, torch.bfloat16)

    assert net.weight.dtype == torch.bfloat16
    assert is_mapped(net.weight)


def test_a_network_in_memory_is_left_alone():
    net, value = nn.Sequential(nn.Linear(2, 2)), torch.zeros(3)

    host_memory.settle(net, "0", net[0])

    assert host_memory.of(net) is None
    assert host_memory.keep(net, value) is value


def test_a_full_disk_is_a_sentence_and_leaves_no_file(host, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)

    with pytest.raises(BenchError, match=r"GB more in .*No space left on device"):
        host.keep(torch.zeros(4))
    assert list(Path(host.folder).iterdir()) == []


@pytest.mark.parametrize(
    ("asked", "weights", "free", "wanted"),
    [
        # 2.5 copies of 4 GB and 2 GB are 12 GB.
        ("auto", 4e9, 12e9, "device"),
        ("auto", 4e9, 11.9e9, "blockwise"),
        ("device", 4e9, 1e9, "device"),
        ("blockwise", 4e9, 99e9, "blockwise"),
    ],
)
def test_the_placement_is_the_grids_or_follows_from_sizes(asked, weights, free, wanted):
    assert host_memory.chosen(asked, int(weights), int(free)) == wanted
