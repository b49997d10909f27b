"""Methods on a device whose bytes are counted: no tensor is left behind on the host."""

import copy
import gc

import pytest
import tiny_llm
import torch
from fake_device import BLOCK, FakeDevices
from torch import nn

from harness.contracts.samples import OPTIONS
from harness.core import Context
from harness.registry import discover, facts, find
from harness.running.artifacts import seed_everything
from harness.running.failures import classify
from harness.toolkit import calibration, host_memory, resident, spread
from harness.toolkit.blockwise import blocks_of

FAST = {("dense", 1), ("svd", 1), ("wanda", 1), ("svd_llm", 2)}
# It rotates the hidden states of all blocks by one matrix a block, on one device.
ONE_DEVICE = {"slicegpt"}
CASES = [
    pytest.param(name, count, marks=() if (name, count) in FAST else pytest.mark.slow)
    for name in discover("method")
    if "causal_lm" in find("method", name).facts["kinds"]
    for count in ((1,) if name in ONE_DEVICE else (1, 2))
]


def place(fake, net):
    """Move a network to the devices, as the engine does it."""
    if len(fake.devices) == 1:
        fake.move(net, fake.devices[0])
    else:
        spread.spread(net, "model.layers", fake.devices)


def compressed(name, model, device, folder):
    """Calibrate, fit and compress, as a bundle does it."""
    spec = calibration.CalibrationSpec(samples=4, length=16)
    calibration.build(model, spec, folder)
    ctx = Context(
        model=model, seed=0, device=device, calibrate=lambda: calibration.open(folder)
    )
    plugin = find("method", name)
    method = plugin.build(OPTIONS.get(name, {}))
    seed_everything(0, "fit")
    fitted = method.fit(model, ctx) if hasattr(method, "fit") else None
    fixed = method.ratios("float32") if hasattr(method, "ratios") else None
    nothing = facts(plugin, method)["ratio_of"] == "none"
    seed_everything(0, "compress")
    return method.compress(fitted, 0.0 if nothing else (fixed or (0.5,))[-1], ctx)


@pytest.mark.parametrize(("name", "count"), CASES)
def test_a_method_gives_the_same_network_on_devices_as_on_the_host(
    name, count, tmp_path
):
    model = tiny_llm.tiny("llama", num_hidden_layers=2)
    host = compressed(name, model, torch.device("cpu"), tmp_path / "host")
    wanted = tiny_llm.logits(host)

    with FakeDevices(count) as fake:
        on_devices = model.with_net(copy.deepcopy(model.net))
        place(fake, on_devices.net)
        net = compressed(name, on_devices, fake.devices[0], tmp_path / "device")
        found = tiny_llm.logits(net).cpu()
        assert {v.device for v in net.parameters()} == {*fake.devices}
        assert all(fake.peak[d] > fake.used[d] > 0 for d in fake.devices)
        del net, on_devices
        gc.collect()
        assert not any(fake.used.values()), "the method keeps something on a device"

    assert found.numpy() == pytest.approx(wanted.numpy(), rel=1e-3, abs=1e-3)


QUICK = {"svd", "wanda", "fwsvd"}
IN_BLOCKS = [
    pytest.param(name, None, marks=() if name in QUICK else pytest.mark.slow)
    for name in dict.fromkeys(case.values[0] for case in CASES)
    if name not in ONE_DEVICE
] + [  # loops that the default options leave out
    ("svd_llm", {"update": True, "update_samples": 2}),
    pytest.param("basis_sharing", {"update": True}, marks=pytest.mark.slow),
    pytest.param(
        "basis_sharing", {"update": True, "refit": "own_gram"}, marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize(("name", "options"), IN_BLOCKS)
def test_a_method_gives_the_same_network_with_one_block_on_the_device_at_a_time(
    name, options, tmp_path, monkeypatch
):
    if options is not None:
        monkeypatch.setitem(OPTIONS, name, options)
    model = tiny_llm.tiny("llama", num_hidden_layers=3)
    net = compressed(name, model, torch.device("cpu"), tmp_path / "host")
    wanted = tiny_llm.logits(net)

    with FakeDevices() as fake:
        (device,) = fake.devices
        in_blocks = model.with_net(copy.deepcopy(model.net))
        host = host_memory.HostMemory(tmp_path, smallest=256)
        host_memory.hold(in_blocks.net, host)
        path, _ = blocks_of(in_blocks)
        host.residency = resident.Residency(device, path, host.keep)
        host.residency.start(in_blocks.net)
        net = compressed(name, in_blocks, device, tmp_path / "device")
        found = tiny_llm.logits(net).cpu()
        for one in (net, in_blocks.net):
            assert {v.device.type for v in one.model.layers.parameters()} == {"cpu"}
            assert one.model.norm.weight.device == device
        del net, in_blocks, one
        gc.collect()
        assert not fake.used[device], "the method keeps something on the device"

    assert found.numpy() == pytest.approx(wanted.numpy(), rel=1e-3, abs=1e-3)


def test_bytes_are_counted_while_a_tensor_or_a_view_of_it_is_alive():
    with FakeDevices() as fake:
        (device,) = fake.devices
        whole = torch.zeros(3, 1000, device=device)  # 12,000 bytes in blocks of 512
        assert fake.used[device] == 24 * BLOCK == 12_288
        row = whole[1]
        row += 1
        del whole
        assert fake.used[device] == 12_288
        assert row.cpu().tolist() == [1.0] * 1000
        del row
        assert fake.used[device] == 0
        assert fake.peak[device] == 12_288
        fake.reset_peak()
        assert fake.peak[device] == 0


def test_an_allocation_above_the_limit_is_out_of_memory_and_takes_nothing():
    with FakeDevices(limit=10 * BLOCK) as fake:
        (device,) = fake.devices
        kept = torch.zeros(9 * BLOCK, dtype=torch.uint8, device=device)
        with pytest.raises(torch.OutOfMemoryError, match="512 bytes free") as caught:
            torch.zeros(2 * BLOCK, dtype=torch.uint8, device=device)
        assert classify(caught.value).error_class == "oom"
        assert fake.used[device] == len(kept)


def test_devices_do_not_mix_with_each_other_or_with_the_host():
    with FakeDevices(2) as fake:
        one, two = (torch.ones(2, device=d) for d in fake.devices)
        with pytest.raises(RuntimeError, match=r"same device.*lazy:0, lazy:1"):
            one + two
        with pytest.raises(RuntimeError, match=r"same device.*cpu, lazy:0"):
            one + torch.ones(2)
        assert (one + torch.tensor(1.0) + two.to(one.device)).device == one.device
        assert one.copy_(torch.tensor([3.0, 4.0])).cpu().tolist() == [3.0, 4.0]


def test_a_read_by_the_host_is_counted_since_it_waits_for_the_device():
    with FakeDevices() as fake:
        values = torch.arange(4.0, device=fake.devices[0])
        total = values.sum() * 2
        assert fake.reads == 0
        assert total.item() == 12
        assert fake.reads == 1
        few = values[values > 1]  # how many these are
        assert fake.reads == 2
        assert values[values.long()][few.long()].device == values.device
        assert fake.reads == 2


def test_gradients_and_copies_of_a_network_are_on_its_device():
    with FakeDevices() as fake:
        (device,) = fake.devices
        net = fake.move(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), device)
        net[1].weight = net[0].weight  # tied
        held = fake.used[device]
        twin = copy.deepcopy(net)
        net(torch.ones(1, 2, device=device)).sum().backward()
        assert net[0].weight.grad.device == device
        assert twin[1].weight is twin[0].weight
        assert twin[0].weight is not net[0].weight
        twin[0].weight.data = torch.zeros(2, 2, device=device)
        assert twin[0].weight.cpu().tolist() == [[0.0, 0.0], [0.0, 0.0]]
        assert held == 3 * BLOCK  # one weight and two biases
