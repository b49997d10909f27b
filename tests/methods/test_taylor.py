import pytest
import torch
from small_nets import context, dense

from methods import taylor
from methods._kernels.filters import surgery
from tasks.digits import Digits


@pytest.fixture(scope="module")
def ctx():
    return context(dense("digits_convnet"), Digits().data())


@pytest.mark.parametrize("steps", [1, 4])
def test_every_cut_takes_the_same_number_of_parameters_and_scores_again(
    ctx, monkeypatch, steps
):
    method = taylor.Taylor(steps=steps, batches=1)
    fitted = method.fit(ctx.model, ctx)
    sizes = []
    score = taylor.Taylor.score

    def seen(self, net, found, images, labels):
        sizes.append(surgery.parameters(net))
        return score(self, net, found, images, labels)

    monkeypatch.setattr(taylor.Taylor, "score", seen)

    net = method.compress(fitted, 0.4, ctx)

    budgets = [surgery.budget_of(ctx.model, 0.1 * k) for k in (1, 2, 3)]
    assert len(sizes) == steps - 1
    # One filter at most below each budget.
    for size, budget in zip(sizes, budgets, strict=False):
        assert budget - 1500 < size <= budget
    assert surgery.parameters(net) <= surgery.budget_of(ctx.model, 0.4)


def test_scores_of_a_layer_can_be_normalised(ctx):
    raw = taylor.Taylor(batches=1).fit(ctx.model, ctx)
    even = taylor.Taylor(batches=1, normalise="layer").fit(ctx.model, ctx)

    for name, scores in raw.items():
        torch.testing.assert_close(even[name], scores / scores.norm())
        assert float(even[name].norm()) == pytest.approx(1, rel=1e-5)


def test_a_floor_keeps_filters_in_every_layer(ctx):
    method = taylor.Taylor(floor=0.5, batches=1)

    net = method.compress(method.fit(ctx.model, ctx), 0.4, ctx)

    for before, after in zip(
        surgery.groups(ctx.model, ctx.model.net),
        surgery.groups(ctx.model, net),
        strict=True,
    ):
        assert 2 * after.size >= before.size


@pytest.mark.parametrize("fields", [{"steps": 0}, {"floor": 1.0}, {"floor": -0.1}])
def test_numbers_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match=r"at least 1, and in \[0, 1\)"):
        taylor.Taylor(**fields)
