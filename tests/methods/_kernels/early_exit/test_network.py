"""A network with exits on a device: how often the host waits for it."""

import torch
from fake_device import FakeDevices
from torch import nn

from methods._kernels.early_exit.network import ExitNet


def test_the_host_waits_twice_an_exit():
    torch.manual_seed(0)
    stack = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    heads = [{"features": 4, "classes": 4, "pool": 0, "conv": False}] * 3
    net = ExitNet(
        stack,
        exits=["0", "1", "2"],
        heads=heads,
        rule="confidence",
        thresholds=[0.9, 0.9, 0.9],
    ).eval()
    inputs = torch.randn(64, 4)
    with torch.inference_mode():
        wanted, taken = net(inputs), net.taken
    assert all(taken), "every exit is taken"

    with FakeDevices() as fake, torch.inference_mode():
        fake.move(net, fake.devices[0])
        net.taken = [0] * 4
        found = net(inputs.to(fake.devices[0]))
        # The samples that leave, and the others: their number decides the next shapes.
        assert fake.reads == 2 * 3
        assert torch.equal(found.cpu(), wanted)
    assert net.taken == taken
