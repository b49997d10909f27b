"""What is left of each layer, against hand-worked shapes."""

import copy

import torch
from torch import nn

from harness.core import Model
from harness.toolkit import model_size
from harness.toolkit.layer_sizes import LayerSize, layer_sizes
from harness.toolkit.saved_model import replace
from methods._kernels.early_exit.network import ExitNet
from methods._kernels.integer_grid import Grid
from methods._kernels.low_rank.factors import Group
from methods._kernels.low_rank.installed import install
from methods._kernels.rounded import rounded_layer
from methods.shortgpt import DroppedBlock


def _layers(dense: Model, net: nn.Module) -> list[LayerSize]:
    return layer_sizes(dense, net, model_size.count(net))


def _language_model() -> Model:
    """Two blocks of a query matrix (4 x 6, with a bias) and an ``up`` (8 x 6)."""
    blocks = [
        nn.ModuleDict(
            {
                "self_attn": nn.ModuleDict({"q_proj": nn.Linear(6, 4)}),
                "mlp": nn.ModuleDict({"up_proj": nn.Linear(6, 8, bias=False)}),
            }
        )
        for _ in range(2)
    ]
    roles = {r".*q_proj": "query", r".*up_proj": "up"}
    net = nn.ModuleDict({"layers": nn.ModuleList(blocks), "head": nn.Linear(6, 9)})
    for weight in net.parameters():
        weight.data.fill_(1.0)
    return Model(name="m", net=net, kind="causal_lm", roles=roles, example=dict)


def _classifier(*layers: nn.Module) -> Model:
    net = nn.Sequential(*layers)
    for weight in net.parameters():
        weight.data.fill_(1.0)
    return Model(
        name="m", net=net, kind="classifier", roles={r"\d+": "conv"}, example=dict
    )


def test_a_basis_that_two_layers_share_is_divided_between_them():
    dense = _language_model()
    net = copy.deepcopy(dense.net)
    group = Group(names=tuple(f"layers.{i}.self_attn.q_proj" for i in (0, 1)))
    install(net, group, torch.ones(8, 2), torch.ones(2, 6))

    found = {one.layer: one for one in _layers(dense, net)}

    # A left factor of 4 x 2, half of the right one of 2 x 6, and the bias of 4.
    query = found["layers.1.self_attn.q_proj"]
    assert (query.role, query.block, query.rank) == ("query", 1, 2)
    assert (query.params_dense, query.params, query.nonzero) == (28, 18, 18)
    assert (query.bytes_dense, query.bytes) == (4 * 28, 4 * 18)
    up = found["layers.0.mlp.up_proj"]
    assert (up.role, up.block, up.rank, up.params, up.bytes) == ("up", 0, None, 48, 192)
    assert len(found) == 4  # the head has no role
    own = sum(one.params for one in found.values())
    assert own == sum(p.numel() for p in net["layers"].parameters())


def test_zeros_are_counted_in_each_layer():
    dense = _language_model()
    net = copy.deepcopy(dense.net)
    net["layers"][1]["mlp"]["up_proj"].weight.data[:2] = 0

    found = {one.layer: one for one in _layers(dense, net)}

    up = found["layers.1.mlp.up_proj"]
    assert (up.params, up.nonzero, up.bytes) == (48, 36, 192)
    assert found["layers.0.mlp.up_proj"].nonzero == 48


def test_bits_are_those_of_the_file():
    dense = _language_model()
    net = copy.deepcopy(dense.net)
    old = net["layers"][0]["mlp"]["up_proj"]
    codes, scale = torch.ones(8, 6, dtype=torch.int8), torch.ones(8, 1)
    grid = Grid(scale=scale, zero=None, low=-8, high=7)
    replace(net, "layers.0.mlp.up_proj", rounded_layer(old, codes, grid, group_size=6))

    up = {one.layer: one for one in _layers(dense, net)}["layers.0.mlp.up_proj"]

    # Six codes of 4 bits fill 3 bytes of each of 8 rows, beside a scale of 4 bytes.
    assert (up.params, up.nonzero, up.bytes) == (48, 48, 8 * 3 + 8 * 4)


def test_filters_that_were_cut_off_are_gone_from_both_sides():
    dense = _classifier(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 2, 3))

    first, second = _layers(dense, net)

    assert (first.layer, first.role, first.block) == ("0", "conv", None)
    assert (first.params_dense, first.params) == (8 * 27 + 8, 5 * 27 + 5)
    assert (second.params_dense, second.params) == (2 * 72 + 2, 2 * 45 + 2)


def test_a_block_that_was_dropped_keeps_nothing():
    dense = _language_model()
    net = copy.deepcopy(dense.net)
    net["layers"][0] = DroppedBlock()

    kept = [(one.block, one.params, one.bytes) for one in _layers(dense, net)]

    assert kept == [(0, 0, 0), (0, 0, 0), (1, 28, 112), (1, 48, 192)]


def test_a_layer_around_the_network_does_not_hide_its_layers():
    dense = _classifier(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 3))
    stack = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 3))
    stack[1].weight.data.zero_()
    net = ExitNet(stack, exits=[], heads=[], rule="entropy", thresholds=[])

    first, second = _layers(dense, net)

    assert (first.params, second.params) == (224, 146)
    assert (second.nonzero, second.bytes) == (2, 4 * 146)  # the biases


def test_a_network_of_dense_layers_has_none_to_show():
    dense = _language_model()
    assert _layers(dense, copy.deepcopy(dense.net)) == []
