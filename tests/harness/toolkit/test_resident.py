"""One block on a device at a time: bytes, crossings, changes, and errors."""

import gc

import pytest
import tiny_llm
import torch
from fake_device import FakeDevices

from harness.core import Context
from harness.registry import find
from harness.toolkit import blockwise, calibration, host_memory, resident
from harness.toolkit.host_memory import HostMemory

SIZES = {"hidden_size": 96, "intermediate_size": 256, "head_dim": 24}
BATCHES = [torch.arange(32).mul(7 + n).remainder(256)[None] for n in range(3)]


def in_files(fake, folder, blocks=3, **sizes):
    """A network whose blocks are in files, and whose rest is on the device."""
    model = tiny_llm.tiny("llama", num_hidden_layers=blocks, **sizes)
    host = HostMemory(folder, smallest=256)
    host_memory.hold(model.net, host)
    path, _ = blockwise.blocks_of(model)
    host.residency = resident.Residency(fake.devices[0], path, host.keep)
    host.residency.start(model.net)
    return model


def places(net):
    """Types of the devices of the tensors in the blocks."""
    blocks = net.model.layers
    return {v.device.type for v in (*blocks.parameters(), *blocks.buffers())}


def size(module):
    return sum(p.numel() * p.element_size() for p in module.parameters())


@pytest.fixture
def brought(monkeypatch):
    """The blocks that cross to the device, in order."""
    seen = []
    enter = resident.Residency._bring

    def bring(self, modules, *, graph):
        seen.append(modules[0])
        return enter(self, modules, graph=graph)

    monkeypatch.setattr(resident.Residency, "_bring", bring)
    return seen


def wanda(model, device, folder):
    spec = calibration.CalibrationSpec(samples=4, length=32)
    calibration.build(model, spec, folder)
    ctx = Context(
        model=model, seed=0, device=device, calibrate=lambda: calibration.open(folder)
    )
    return find("method", "wanda").build({}).compress(None, 0.5, ctx)


def test_outputs_are_those_of_the_host_and_tied_weights_stay_tied(tmp_path):
    wanted = tiny_llm.logits(tiny_llm.tiny("llama", num_hidden_layers=3).net)
    with FakeDevices() as fake, torch.no_grad():
        model = in_files(fake, tmp_path)
        assert model.net.lm_head.weight is model.net.model.embed_tokens.weight
        assert model.net.lm_head.weight.device == fake.devices[0]
        assert places(model.net) == {"cpu"}
        for net in (model.net, Context(model=model, seed=0, device=None).dense()):
            found = tiny_llm.logits(net).cpu()
            assert torch.allclose(found, wanted, atol=1e-5)
            assert net.lm_head.weight is net.model.embed_tokens.weight
            assert places(net) == {"cpu"}


def test_the_device_holds_one_block_and_its_peak_does_not_grow_with_depth(tmp_path):
    evaluated, compressed = [], []
    for blocks in (4, 12):
        with FakeDevices() as fake, torch.no_grad():
            (device,) = fake.devices
            model = in_files(fake, tmp_path, blocks, **SIZES)
            block = size(model.net.model.layers[0])
            rest = size(model.net) - blocks * block
            for _, logits in blockwise.logits_by_block(model, BATCHES):
                float(logits.sum())
            evaluated.append(fake.peak[device])
            net = wanda(model, device, tmp_path / f"{blocks}")
            compressed.append(fake.peak[device])
            del net, model, logits, _
            gc.collect()
            assert fake.used[device] == 0

    assert evaluated[0] == evaluated[1] < rest + 1.5 * block
    # The block of the dense network and of the copy, and second moments in float64.
    gram = 8 * SIZES["intermediate_size"] ** 2
    assert compressed[0] == compressed[1] < 2 * (rest + block) + 5 * gram


def test_a_limit_below_the_network_is_enough_in_blocks_and_not_on_the_device(tmp_path):
    whole = tiny_llm.tiny("llama", num_hidden_layers=16, **SIZES)
    with FakeDevices(limit=size(whole.net) // 2) as fake, torch.no_grad():
        net = wanda(
            in_files(fake, tmp_path, 16, **SIZES), fake.devices[0], tmp_path / "c"
        )
        tiny_llm.logits(net)
        with pytest.raises(torch.OutOfMemoryError):
            fake.move(whole.net, fake.devices[0])

    zeros = sum(int((p == 0).sum()) for p in net.model.layers.parameters())
    assert zeros == pytest.approx(0.5 * size(net.model.layers) / 4, rel=0.01)


def test_each_block_crosses_once_however_many_batches_there_are(tmp_path, brought):
    with FakeDevices() as fake, torch.no_grad():
        model = in_files(fake, tmp_path)
        blocks = list(model.net.model.layers)
        brought.clear()
        list(blockwise.logits_by_block(model, BATCHES))

        # The first block is also asked what it returns.
        assert [b for b in brought if b in blocks] == [blocks[0], *blocks]

        brought.clear()
        model.net(input_ids=BATCHES[0].to(fake.devices[0]), use_cache=False)
        assert brought == blocks


def test_an_answer_with_a_cache_is_that_of_the_host(tmp_path):
    ids = BATCHES[0][:, :8]
    asked = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    wanted = tiny_llm.tiny("llama", num_hidden_layers=3).net.generate(ids, **asked)
    with FakeDevices() as fake:
        model = in_files(fake, tmp_path)
        found = model.net.generate(ids.to(fake.devices[0]), **asked).cpu()

    assert found.tolist() == wanted.tolist()


def test_what_a_loop_changes_or_replaces_in_a_block_is_in_its_files(tmp_path):
    with FakeDevices() as fake, torch.no_grad():
        model = in_files(fake, tmp_path)
        running = blockwise.stream(model, BATCHES[0])
        for index, (_, block) in enumerate(running):
            assert {p.device.type for p in block.parameters()} == {"lazy"}
            block.mlp.down_proj.weight.mul_(2)
            block.mlp.up_proj.weight.data = block.mlp.up_proj.weight.data[:, :8] * 3
            block.mlp.gate_proj = torch.nn.Linear(4, 4, device=fake.devices[0])
            running.advance(index, lambda states, *args, **kwargs: states)
        assert places(model.net) == {"cpu"}

    dense = tiny_llm.tiny("llama", num_hidden_layers=3).net.model.layers
    for block, old in zip(model.net.model.layers, dense, strict=True):
        assert torch.equal(block.mlp.down_proj.weight, 2 * old.mlp.down_proj.weight)
        assert torch.equal(block.mlp.up_proj.weight, 3 * old.mlp.up_proj.weight[:, :8])
        assert block.mlp.gate_proj.weight.shape == (4, 4)


@pytest.mark.parametrize("where", ["in a block", "while it is brought", "in a loop"])
def test_after_an_error_all_blocks_are_on_the_host(tmp_path, where):
    with FakeDevices() as fake, torch.no_grad():
        (device,) = fake.devices
        model = in_files(fake, tmp_path)
        ids = BATCHES[0].to(device)
        before = fake.used[device]
        if where == "in a block":
            model.net.model.layers[1].mlp.forward = None
            with pytest.raises(TypeError):
                model.net(input_ids=ids, use_cache=False)
        elif where == "while it is brought":
            fake.limit = before + size(model.net.model.layers[0]) // 2
            with pytest.raises(torch.OutOfMemoryError):
                model.net(input_ids=ids, use_cache=False)
        else:
            with pytest.raises(LookupError):
                fail_in_a_loop(model, ids)
        gc.collect()

        assert places(model.net) == {"cpu"}
        assert fake.used[device] == before


def fail_in_a_loop(model, ids):
    for _ in blockwise.stream(model, ids):
        raise LookupError
