import json
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from harness import registry
from harness.core import BenchError, Model
from harness.toolkit import saved_model
from methods._kernels.low_rank.layers import LowRank


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.embed = nn.Embedding(7, 6)
        self.a = nn.Linear(6, 5)
        self.b = nn.Linear(6, 5, bias=False)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x, ids):
        e = self.embed(ids)
        return self.norm(self.stem(x)).mean() + self.a(e) @ self.b(e).T, self.head(e)


@dataclass(frozen=True)
class TinyFamily:
    def build(self, shape, seed):
        torch.manual_seed(seed)
        return wrap(Tiny())


def wrap(net):
    return Model(
        name="tiny",
        net=net.eval(),
        kind="classifier",
        roles={},
        example=dict,
    )


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    plugin = registry.Plugin(kind="model", name="tiny", cls=TinyFamily, version=1)
    monkeypatch.setitem(registry._plugins, ("model", "tiny"), plugin)


ORIGIN = {"model": "tiny", "options": {}, "revision": "", "shape": {}}
INPUT = (torch.randn(1, 1, 8, 8), torch.tensor([1, 3]))


def same_outputs(one, two):
    with torch.inference_mode():
        return all(
            torch.equal(a, b) for a, b in zip(one(*INPUT), two(*INPUT), strict=True)
        )


def compressed():
    torch.manual_seed(3)
    net = Tiny()
    net.a, net.b = LowRank(6, 5, 2, bias=True), LowRank(6, 5, 2, bias=False)
    net.b.right = net.a.right
    net.a.right.users = 2
    for value in net.parameters():
        nn.init.normal_(value)
    return net


@pytest.mark.parametrize("make", [Tiny, compressed], ids=["dense", "compressed"])
def test_a_saved_network_loads_to_equal_outputs_and_the_exact_size(make, tmp_path):
    net = make().eval()
    saved_model.save(wrap(net), ORIGIN, tmp_path)
    again = saved_model.load(tmp_path).net

    assert same_outputs(net, again)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert saved_model.saved_bytes(net) == saved_model.saved_bytes(again) == size


def test_shared_modules_and_tied_weights_stay_shared_after_loading(tmp_path):
    saved_model.save(wrap(compressed()), ORIGIN, tmp_path)
    again = saved_model.load(tmp_path).net

    assert again.a.right is again.b.right
    assert again.head.weight is again.embed.weight


def test_a_module_that_a_method_resized_is_rebuilt_at_its_size(tmp_path):
    net = Tiny()
    net.stem, net.norm = nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2)
    saved_model.save(wrap(net.eval()), ORIGIN, tmp_path)

    again = saved_model.load(tmp_path).net
    assert same_outputs(net, again)
    assert again.stem.bias is None


def test_a_layer_that_packs_is_stored_packed(tmp_path):
    @saved_model.layer("bits-for-structure-test")
    class Bits(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.register_buffer("signs", torch.ones(size))

        def forward(self, x):
            return x * self.signs

        def spec(self):
            return {"size": len(self.signs)}

        def pack(self):
            return {"negative": self.signs < 0}

        def unpack(self, tensors):
            self.signs = 1.0 - 2.0 * tensors["negative"].float()

    net = Tiny()
    net.norm = nn.Sequential(net.norm, Bits(6))
    net.norm[1].signs[2] = -1
    saved_model.save(wrap(net.eval()), ORIGIN, tmp_path / "whole")
    form = json.loads((tmp_path / "whole" / "structure.json").read_text())
    assert form["layers"]["norm.1"] == {
        "layer": "bits-for-structure-test",
        "spec": {"size": 6},
    }
    assert saved_model.saved_bytes(net) == (
        (tmp_path / "whole" / "model.safetensors").stat().st_size
    )
    packed, again = net.norm[1], Bits(6)
    again.unpack(packed.pack())
    assert torch.equal(again.signs, packed.signs)


def test_a_network_that_is_a_packing_layer_itself_round_trips(tmp_path):
    @saved_model.layer("whole-net-for-structure-test")
    class Whole(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(size))

        def spec(self):
            return {"size": len(self.weight)}

        def pack(self):
            where = self.weight.detach().nonzero()[:, 0]
            return {"where": where, "what": self.weight.detach()[where]}

        def unpack(self, tensors):
            with torch.no_grad():
                self.weight[tensors["where"]] = tensors["what"]

    net = Whole(1000)
    with torch.no_grad():
        net.weight[[3, 500]] = torch.tensor([1.5, -2.0])
    saved_model.save(wrap(net), ORIGIN, tmp_path)

    assert torch.equal(saved_model.load(tmp_path).net.weight, net.weight)
    assert saved_model.saved_bytes(net) < 400  # two numbers and two places, not 4,000


def test_sizes_are_known_without_weights():
    with torch.device("meta"):
        net = compressed()
    assert saved_model.saved_bytes(net) == saved_model.saved_bytes(compressed())


def test_views_of_one_tensor_are_stored_whole(tmp_path):
    net = Tiny()
    big = torch.randn(5, 12)
    net.a.weight = nn.Parameter(big[:, :6])
    net.b.weight = nn.Parameter(big[:, 6:])
    saved_model.save(wrap(net.eval()), ORIGIN, tmp_path)

    assert same_outputs(net, saved_model.load(tmp_path).net)


def test_a_folder_without_a_network_says_what_is_missing(tmp_path):
    with pytest.raises(BenchError, match=r"structure\.json"):
        saved_model.load(tmp_path)


def test_a_newer_format_is_refused(tmp_path):
    saved_model.save(wrap(Tiny()), ORIGIN, tmp_path)
    path = tmp_path / "structure.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(BenchError, match="format 99"):
        saved_model.load(tmp_path)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    saved_model.save(wrap(Tiny()), ORIGIN, tmp_path)
    saved_model.save(wrap(compressed()), ORIGIN, tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").rename(tmp_path / "model.safetensors")
    with pytest.raises(BenchError, match="do not belong together"):
        saved_model.load(tmp_path)
