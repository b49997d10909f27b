from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from harness.toolkit.training import Recipe
from methods._kernels.filters import scored, surgery


@dataclass(frozen=True, kw_only=True)
class Brightness(scored.Scored):
    """Scores every filter by the sum of the labels of a batch."""

    stream: ClassVar[str] = "brightness"

    def score(self, net, found, images, labels):
        assert not net.training
        return {g.name: labels.sum() * torch.arange(g.size) for g in found}


@pytest.mark.parametrize("fields", [{"batches": 0}, {"batch_size": 0}])
def test_scores_over_nothing_are_refused(fields):
    with pytest.raises(ValueError, match="both are at least 1"):
        Brightness(**fields)
    assert Brightness(batches=1, batch_size=1, steps=1, floor=0.0)


@pytest.mark.parametrize("fields", [{"steps": 0}, {"floor": -0.1}, {"floor": 1.0}])
def test_steps_and_a_floor_outside_of_their_range_are_refused(fields):
    with pytest.raises(ValueError, match="at least 1, and in"):
        Brightness(**fields)
    assert Brightness(floor=0.99)


def test_fit_is_the_mean_over_the_batches_that_there_are(monkeypatch):
    net = torch.nn.Conv2d(1, 4, 3).train()
    batches = [(torch.zeros(2, 1, 3, 3), torch.tensor([1, n])) for n in (1, 3, 8)]
    asked = []

    def given(ctx, stream, count, size):
        asked.append((stream, count, size))
        return batches

    group = SimpleNamespace(name="conv", size=4)
    monkeypatch.setattr(surgery, "groups", lambda model, net: [group])
    monkeypatch.setattr(surgery, "batches", given)
    ctx = SimpleNamespace(model=None, dense=lambda: net, device=torch.device("cpu"))

    found = Brightness(batches=10, batch_size=7).fit(ctx.model, ctx)

    assert asked == [("brightness", 10, 7)]
    # Sums of labels 2, 4, 9: their mean is 5.
    assert found["conv"].tolist() == [0, 5, 10, 15]


def test_every_cut_scores_the_network_that_the_cut_before_left(monkeypatch):
    cuts, trained = [], []
    net = torch.nn.Conv2d(1, 4, 3)
    ctx = SimpleNamespace(
        model=SimpleNamespace(net=net), dense=lambda: net, device=torch.device("cpu")
    )
    group = SimpleNamespace(name="conv", size=4)
    monkeypatch.setattr(surgery, "groups", lambda model, net: [group])
    monkeypatch.setattr(surgery, "budget_of", lambda model, ratio: round(ratio, 3))
    monkeypatch.setattr(surgery, "record_widths", lambda *_: None)
    monkeypatch.setattr(
        surgery,
        "retrain",
        lambda net, recipe, ctx, name, epoch: trained.append((name, epoch)),
    )
    monkeypatch.setattr(
        surgery,
        "prune_to",
        lambda model, net, ranked, budget, floor: cuts.append((ranked, budget, floor)),
    )
    monkeypatch.setattr(Brightness, "_scores", lambda self, net, ctx: "of what is left")
    method = Brightness(steps=3, floor=0.3, between=Recipe(epochs=2))

    method.compress("of the dense network", 0.6, ctx)

    # A third of the ratio with each cut; 0.3 of 4 filters are rounded up.
    assert cuts == [
        ("of the dense network", 0.2, {"conv": 2}),
        ("of what is left", 0.4, {"conv": 2}),
        ("of what is left", 0.6, {"conv": 2}),
    ]
    # Epochs go on from those before: two after each cut but the last.
    assert trained == [("brightness-2", 0), ("brightness-3", 2), ("brightness", 4)]
    trained.clear()
    Brightness(steps=2).compress("of the dense network", 0.6, ctx)
    assert trained == [("brightness-2", 0), ("brightness", 0)]  # none between
