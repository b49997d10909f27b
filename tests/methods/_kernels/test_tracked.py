import pytest
import torch
from torch import nn

from harness.core import Unsupported
from methods._kernels import tracked
from methods._kernels.counter import normals
from methods._kernels.tracked import Tracked, flatten, initial_of


class Small(nn.Module):
    """Every kind of parameter that has a rule of its own."""

    def __init__(self) -> None:
        super().__init__()
        # A buffer of its own that is not stored, and no weight.
        self.register_buffer("scale", torch.tensor([0.5, 2.0]), persistent=False)
        self.conv = nn.Conv2d(2, 3, 2)
        self.norm = nn.BatchNorm2d(3)
        self.slope = nn.PReLU()
        self.linear = nn.Linear(3, 2)

    def forward(self, images):
        x = self.slope(self.norm(self.conv(images))).mean((2, 3))
        return self.linear(x)


SIZES = {"conv.weight": 24, "conv.bias": 3, "norm.weight": 3, "norm.bias": 3}
SIZES |= {"slope.weight": 1, "linear.weight": 6, "linear.bias": 2}


def test_initial_values_by_kind_of_parameter():
    net = Small()

    initial = initial_of(net, seed=3, gain=2.0)

    assert len(initial) == sum(SIZES.values()) == 42
    assert [n for n, _ in net.named_parameters()] == list(SIZES)
    whole = initial.at(torch.arange(42))
    parts = dict(zip(SIZES, whole.split(list(SIZES.values())), strict=True))
    drawn = normals(3, torch.arange(42))
    torch.testing.assert_close(parts["conv.weight"], drawn[:24] * 2 / 8**0.5)
    torch.testing.assert_close(parts["linear.weight"], drawn[34:40] * 2 / 3**0.5)
    assert parts["norm.weight"].tolist() == [1, 1, 1]
    assert parts["slope.weight"].tolist() == [0.25]
    for name in ("conv.bias", "norm.bias", "linear.bias"):
        assert parts[name].abs().max() == 0


def test_the_parameters_are_views_of_one_vector():
    net = Small()
    before = [p.detach().clone() for p in net.parameters()]

    flat = flatten(net)

    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    flat.add_(1)
    for old, new in zip(before, net.parameters(), strict=True):
        assert torch.equal(new, old + 1)


def test_shared_parameters_are_refused():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight

    with pytest.raises(Unsupported, match="shared parameters"):
        initial_of(net, seed=0, gain=1.0)


def test_only_tracked_weights_differ_from_their_initial_values_times_the_factor():
    net = Small().eval()
    initial = initial_of(net, seed=3, gain=1.0)
    made = Tracked(net, seed=3, gain=1.0, factor=0.5, k=4)
    places = torch.tensor([40, 0, 33, 12])
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])

    made.track(places, values)

    expected = initial.at(torch.arange(42)) * 0.5
    expected[places] = values
    parts = dict(zip(SIZES, expected.split(list(SIZES.values())), strict=True))
    for name, value in parts.items():
        owner, _, leaf = name.rpartition(".")
        found = getattr(made.net.get_submodule(owner), leaf)
        assert torch.equal(found.flatten(), value), name
    assert made.net.scale.tolist() == [0.5, 2.0]
    assert made.weights()["values"].tolist() == [1, 2, 3, 4]
    assert made.indices.dtype == torch.int32


def test_a_file_holds_values_places_and_running_statistics_alone():
    torch.manual_seed(0)
    net = Small()
    net(torch.randn(8, 2, 4, 4))  # moves the running statistics
    made = Tracked(net.eval(), seed=9, gain=1.0, factor=1.0, k=2)
    made.track(torch.tensor([1, 30]), torch.tensor([0.5, -0.5]))

    stored = made.pack()
    fresh = Tracked.wrap(Small().eval(), **made.spec())
    fresh.unpack(stored)

    assert set(stored) == {"values", "indices"} | {
        f"net.norm.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")
    }
    images = torch.randn(5, 2, 4, 4)
    with torch.no_grad():
        # Regenerated from the same seed by the same operations: equal to the last bit.
        assert torch.equal(fresh(images), made(images))


@pytest.mark.parametrize(
    ("count", "kind"), [(2**31 - 1, torch.int32), (2**31, torch.int64)]
)
def test_places_take_four_bytes_as_long_as_they_fit(monkeypatch, count, kind):
    monkeypatch.setattr(tracked.Initial, "__len__", lambda self: count)

    made = Tracked(Small().eval(), seed=0, gain=1.0, factor=1.0, k=3)

    assert made.indices.dtype == kind


def test_a_tracked_network_has_nothing_to_train():
    made = Tracked(Small().eval(), seed=0, gain=1.0, factor=1.0, k=3)

    assert [name for name, p in made.named_parameters() if p.requires_grad] == []
