"""The paper's own sizes: planned from the packaged grid, and trained a few steps."""

from dataclasses import replace

import pytest
import torch

from harness.core import Context
from harness.planning.grid import locate, read
from harness.toolkit.recipe import Recipe
from harness.toolkit.sequences import Pairs
from methods._kernels.variational.fixed_point import FixedPoint
from tasks.phoenix2014t import Phoenix2014T


@pytest.fixture(autouse=True)
def phoenix(shared_data, monkeypatch):
    monkeypatch.setenv("SHRINKGRID_PHOENIX2014T", str(shared_data / "phoenix2014t"))


def systems(block):
    return [m.instance for m in block.methods if m.plugin.name == "sb_gru"]


def test_both_grids_hold_the_four_systems_of_table_1():
    for name in ("phoenix2014t", "phoenix2014t_small"):
        (block,) = read(locate(name)).blocks
        variants = [method.variant for method in systems(block)]
        assert variants == ["plain", "gaussian", "sticks", "full"]
        assert len(block.seeds) >= 2


def test_the_full_size_grid_is_the_paper_s_model_for_150_000_steps():
    (block,) = read(locate("phoenix2014t")).blocks
    family = block.models[0].instance
    assert (family.layers, family.units, family.dropout) == (4, 1000, 0.2)
    steps_an_epoch = -(-7096 // family.recipe.batch_size)
    assert family.recipe.epochs * steps_an_epoch == pytest.approx(150_000, rel=1e-3)
    assert family.recipe.every * steps_an_epoch == pytest.approx(10_000, rel=5e-3)
    assert (family.recipe.lr, family.recipe.gamma) == (1e-5, 0.98)


@pytest.mark.slow
def test_the_full_size_network_trains_a_few_steps_and_compresses():
    (block,) = read(locate("phoenix2014t")).blocks
    family = block.models[0].instance
    method = systems(block)[-1]
    assert (method.variant, method.posterior_rate, method.warmup) == ("full", 1, 0)
    text = Phoenix2014T().data()
    few = Pairs(source=text.train.source[:24], target=text.train.target[:24])
    text = replace(text, train=few, dev=few)
    model = family.build(text.shape, 0)
    assert sum(p.numel() for p in model.net.parameters()) > 55e6
    ctx = Context(model=model, seed=0, device=torch.device("cpu"), data=text)
    short = replace(family.recipe, epochs=2, batch_size=8, lr=1e-3, every=0)
    method = replace(method, recipe=Recipe(**vars(short)))
    fitted = method.fit(model, ctx)
    losses = [m.value for m in ctx.recorded if m.metric == "validation_loss"]
    assert losses[1] < losses[0]
    net = method.compress(fitted, 0.9375, ctx)
    treated = [m for m in net.modules() if isinstance(m, FixedPoint)]
    assert sum(m.weight.numel() for m in treated) == 2_000_000
    (bits,) = [m.value for m in ctx.recorded if m.metric == "treated_bits_per_weight"]
    assert 1.9 < bits <= 2
