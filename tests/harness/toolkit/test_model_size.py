"""Parameters, non-zeros, bytes and multiply-adds against hand-worked layers."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.core import Model
from harness.toolkit import model_size


def wrap(net: nn.Module, **example: torch.Tensor) -> Model:
    return Model(
        name="m", net=net.eval(), kind="classifier", roles={}, example=lambda: example
    )


@pytest.mark.parametrize(
    ("net", "shape", "macs"),
    [
        (nn.Linear(7, 5), (3, 7), 3 * 7 * 5),
        (nn.Linear(7, 5, bias=False), (2, 4, 7), 2 * 4 * 7 * 5),
        # 16 filters of 3 x 3 x 3 at 30 x 30 places (no padding), one image.
        (nn.Conv2d(3, 16, 3), (1, 3, 32, 32), 16 * 27 * 30 * 30),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), (1, 8, 10, 10), 8 * 9 * 100),
        (nn.Conv2d(4, 6, 1, stride=2), (1, 4, 8, 8), 4 * 6 * 16),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), (1, 4), 16 + 8),
    ],
)
def test_macs_of_a_layer_are_those_worked_by_hand(net, shape, macs):
    assert model_size.macs(wrap(net, input=torch.zeros(shape))) == macs


def test_macs_of_attention_are_those_that_torch_counts(monkeypatch):
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)
    attention = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    example = torch.randn(1, 10, 16)
    torch_counts = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), torch_counts:
        attention(example)

    found = model_size.macs(wrap(attention, src=example))

    # projections 4 * 16^2, two products of 10 x 10 over 16, feed-forward 2 * 16 * 32
    by_hand = 10 * (4 * 16 * 16 + 2 * 10 * 16 + 2 * 16 * 32)
    assert found == torch_counts.get_total_flops() // 2 == by_hand


def test_a_shared_weight_counts_once_and_a_masked_one_still_counts():
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[1].weight = net[0].weight
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].weight[0].zero_()

    size = model_size.size(wrap(net, input=torch.zeros(1, 4)))

    assert (size.params, size.nonzero, size.macs) == (16, 12, 32)


def test_bytes_are_those_of_the_written_file(tmp_path):
    from safetensors.torch import save_file

    net = nn.Linear(30, 20)
    save_file(net.state_dict(), tmp_path / "a.safetensors")

    size = model_size.size(wrap(net, input=torch.zeros(1, 30)))

    assert size.bytes == (tmp_path / "a.safetensors").stat().st_size
