"""Layers of factors compute what the factors say, in the dtype of the network."""

import pytest
import torch
from torch import nn

from harness.core import NotFinite
from methods._kernels.low_rank.factors import Group
from methods._kernels.low_rank.installed import empty, install


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_factors_beyond_the_range_of_float16_keep_their_product(dtype):
    # Columns of 1e6 and rows of 1e-7: float16 holds neither, and their product is 0.1.
    net = nn.Sequential(nn.Linear(6, 5, bias=False)).to(dtype)
    rng = torch.Generator().manual_seed(0)
    left = torch.randn(5, 3, generator=rng) * 1e6
    right = torch.randn(3, 6, generator=rng) * 1e-7
    install(net, Group(("0",)), left, right)
    thin = net[0]
    left_, right_ = (m.weight.detach().double() for m in (thin.left, thin.right))
    product = left_ @ right_
    # Each factor is rounded once, to 8 or 11 binary digits.
    gap = torch.linalg.matrix_norm(product - left.double() @ right.double())
    scale = torch.linalg.matrix_norm(left.double()) * torch.linalg.matrix_norm(
        right.double()
    )
    assert float(gap / scale) < 2 * torch.finfo(dtype).eps


def test_a_factor_that_the_layer_cannot_store_is_refused_by_name():
    net = nn.Sequential(nn.Linear(2, 2, bias=False)).to(torch.float16)
    with pytest.raises(NotFinite, match="a factor of 0 is not finite"):
        install(net, Group(("0",)), torch.eye(2) * 1e6, torch.eye(2) * 1e6)


@pytest.mark.parametrize("once", [True, False])
def test_members_share_the_right_factor_and_keep_their_rows_and_biases(once):
    net = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 4, bias=False)])
    bias = net[0].bias.detach().clone()
    rng = torch.Generator().manual_seed(0)
    left, right = (torch.randn(n, m, generator=rng) for n, m in ((6, 2), (2, 3)))

    install(net, Group(("0", "1"), once=once), left, right)

    x = torch.randn(5, 3, generator=rng)
    torch.testing.assert_close(net[0](x), x @ (left[:2] @ right).T + bias)
    torch.testing.assert_close(net[1](x), x @ (left[2:] @ right).T)
    assert net[0].right is net[1].right
    assert net[1].left.bias is None
    assert (net[0].left.weight.shape, net[1].left.weight.shape) == ((2, 2), (4, 2))


def test_a_module_without_values_has_the_dtype_that_is_asked_for():
    made = empty(
        nn.Linear, torch.ones(1, dtype=torch.float16), in_features=3, out_features=2
    )
    assert made.weight.dtype == torch.float16
    assert made.weight.device.type == "cpu"
    assert made.weight.shape == (2, 3)
