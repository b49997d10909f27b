"""Magnitude pruning: which weights go, in which scope, and that they stay zero."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness.core import Context, Model, Unsupported
from harness.models.mlp import MLP
from harness.options import build
from harness.toolkit.training import Recipe
from methods._kernels.masks import keep_largest
from methods.magnitude import Magnitude
from tasks.digits import Digits


def context(net: nn.Module | None = None, data=None) -> Context:
    if net is None:
        model = MLP(hidden=(12,)).build({"classes": 10, "input": [1, 8, 8]}, seed=0)
    else:
        model = Model(name="m", net=net, kind="classifier", roles={r"\d+": "linear"},
                      example=dict)  # fmt: skip
    return Context(model=model, seed=0, device=torch.device("cpu"), data=data)


def two_layers() -> nn.Module:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Embedding(2, 2))
    net[0].weight.data = torch.tensor([[0.1, -0.2], [0.3, -0.4]])
    net[1].weight.data = torch.tensor([[1.0, -2.0], [3.0, -4.0]])
    return net


def test_layer_scope_zeroes_the_smallest_of_each_layer():
    net = Magnitude(scope="layer").compress(None, 0.5, context(two_layers()))
    assert net[0].weight.tolist() == [[0, 0], [pytest.approx(0.3), pytest.approx(-0.4)]]
    assert net[1].weight.tolist() == [[0, 0], [3, -4]]


def test_global_scope_zeroes_the_smallest_of_all_layers():
    net = Magnitude().compress(None, 0.375, context(two_layers()))
    assert net[0].weight.tolist() == [[0, 0], [0, pytest.approx(-0.4)]]
    assert net[1].weight.tolist() == [[1, -2], [3, -4]]


def test_a_ratio_that_empties_a_layer_is_unsupported_and_names_it():
    with pytest.raises(Unsupported, match=r"ratio 0.5 zeroes every weight of layer 0"):
        Magnitude().compress(None, 0.5, context(two_layers()))


def test_embeddings_and_the_dense_network_stay_as_they_are():
    dense = two_layers()
    before = {k: v.clone() for k, v in dense.state_dict().items()}
    net = Magnitude(scope="layer").compress(None, 0.5, context(dense))
    assert torch.equal(net[2].weight, before["2.weight"])
    assert all(torch.equal(before[k], v) for k, v in dense.state_dict().items())


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    ratio=st.floats(0, 0.999),
    scope=st.sampled_from(["global", "layer"]),
)
def test_the_masks_drop_the_asked_share_and_never_less(sizes, ratio, scope):
    scores = {str(i): torch.rand(n) for i, n in enumerate(sizes)}
    masks = keep_largest(scores, ratio, scope)
    groups = [masks] if scope == "global" else [{k: m} for k, m in masks.items()]
    for group in groups:
        whole = sum(m.numel() for m in group.values())
        dropped = sum(int((~m).sum()) for m in group.values())
        assert dropped == math.ceil(ratio * whole)


def test_masked_weights_stay_zero_through_fine_tuning():
    ctx = context(data=Digits(limit=200).data())
    tune = Recipe(epochs=2, batch_size=50)
    net = Magnitude(finetune=tune).compress(None, 0.8, ctx)
    once = Magnitude().compress(None, 0.8, ctx)
    for name in ("fc1", "head"):
        tuned, cut = net.get_submodule(name).weight, once.get_submodule(name).weight
        assert ((cut == 0) <= (tuned == 0)).all()
        assert not torch.equal(tuned, cut)
    assert [m.step for m in ctx.recorded if m.metric == "train_loss"] == [0, 1]


def test_masks_that_move_end_with_the_asked_share_of_zeros():
    ctx = context(data=Digits(limit=200).data())
    moving = Magnitude(when="every_step", finetune=Recipe(epochs=1, batch_size=50))
    net = moving.compress(None, 0.8, ctx)
    weights = torch.cat([net.fc1.weight.flatten(), net.head.weight.flatten()])
    assert (weights == 0).sum() == math.ceil(0.8 * weights.numel())


def test_moving_masks_without_a_training_are_refused():
    with pytest.raises(Exception, match="every_step needs finetune"):
        build("method", "magnitude", Magnitude, {"when": "every_step"})


def test_training_data_is_needed_only_where_there_is_training():
    assert Magnitude().facts()["needs"] == frozenset()
    tuned = build("method", "magnitude", Magnitude, {"finetune": {"epochs": 2}})
    assert tuned.facts()["needs"] == {"training_data"}
