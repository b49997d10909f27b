"""Layers that compute or read some channels, against full linear layers."""

import pytest
import torch
from torch import nn

from methods._kernels.head_layers import GatheredInputs, SpreadOutputs

PLACE = torch.tensor([3, 0])


@pytest.mark.parametrize("bias", [True, False])
def test_outputs_that_are_not_computed_are_zero(bias):
    layer = SpreadOutputs(2, 5, kept=2, bias=bias)
    layer.place.copy_(PLACE)
    full = nn.Linear(2, 5)
    with torch.no_grad():
        for parameter in full.parameters():
            parameter.zero_()
        full.weight[PLACE] = layer.linear.weight
        if bias:
            full.bias[PLACE] = layer.linear.bias
    x = torch.randn(2, 3, 2)

    torch.testing.assert_close(layer(x), full(x))
    assert layer(x)[..., [1, 2, 4]].abs().max() == 0


@pytest.mark.parametrize("bias", [True, False])
def test_inputs_that_are_not_read_change_nothing(bias):
    layer = GatheredInputs(5, 2, kept=2, bias=bias)
    layer.place.copy_(PLACE)
    full = nn.Linear(5, 2, bias=bias)
    with torch.no_grad():
        full.weight.zero_()
        full.weight[:, PLACE] = layer.linear.weight
        if bias:
            full.bias.copy_(layer.linear.bias)
    x = torch.randn(2, 3, 5)

    torch.testing.assert_close(layer(x), full(x))


@pytest.mark.parametrize("kind", [SpreadOutputs, GatheredInputs])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_rebuilt_from_its_specification_and_file(kind, bias):
    layer = kind(6, 5, kept=2, bias=bias)
    layer.place.copy_(PLACE)

    fresh = kind(**layer.spec())
    fresh.load_state_dict(layer.state_dict())

    x = torch.randn(4, 6)
    assert torch.equal(fresh(x), layer(x))
    assert layer.weights() == {"place": layer.place}
