"""The thin layers of low-rank methods, and the product that several of them share."""

import copy
import gc
import weakref

import pytest
import torch

from methods._kernels.low_rank.layers import LowRank, Projection


def counted(layer: Projection) -> list[torch.Tensor]:
    """The inputs that the layer multiplies, as they come."""
    seen: list[torch.Tensor] = []
    layer.linear.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    return seen


@pytest.mark.parametrize("users", [1, 3])
def test_an_input_is_multiplied_once_for_all_users_of_it(users):
    layer = Projection(4, 2, users=users)
    seen = counted(layer)
    x, y = torch.randn(5, 4), torch.randn(5, 4)

    for one in (x, y, x):
        products = [layer(one) for _ in range(users)]
        assert all(product is products[0] for product in products)
        torch.testing.assert_close(products[0], one @ layer.weight.T)
    assert len(seen) == 3


def test_the_last_user_lets_the_activations_go():
    layer = Projection(4, 2, users=2)
    x = torch.randn(5, 4)
    kept = weakref.ref(layer(x))
    gc.collect()
    assert kept() is not None
    layer(x)
    gc.collect()
    assert kept() is None


def test_another_input_begins_a_new_product_before_all_users_had_the_old_one():
    layer = Projection(4, 2, users=2)
    x, y = torch.randn(5, 4), torch.randn(5, 4)
    layer(x)
    torch.testing.assert_close(layer(y), y @ layer.weight.T)
    assert layer(y) is not layer(y)  # the second user of y, then a new pass


def test_a_copy_holds_no_activations():
    layer = Projection(4, 2, users=2)
    x = torch.randn(5, 4)
    product = layer(x)
    twin = copy.deepcopy(layer)
    assert twin(x) is not product
    assert layer(x) is product


@pytest.mark.parametrize("bias", [False, True])
def test_a_low_rank_layer_is_two_products_and_a_bias(bias):
    layer = LowRank(6, 5, 2, bias=bias)
    x = torch.randn(3, 6)
    wanted = x @ layer.right.weight.T @ layer.left.weight.T
    torch.testing.assert_close(layer(x), wanted + (layer.left.bias if bias else 0))
    assert layer.spec() == {
        "in_features": 6,
        "out_features": 5,
        "rank": 2,
        "bias": bias,
    }
    assert sum(p.numel() for p in layer.parameters()) == 2 * (6 + 5) + 5 * bias
    assert Projection(6, 2, users=3).spec() == {
        "in_features": 6,
        "rank": 2,
        "users": 3,
    }
