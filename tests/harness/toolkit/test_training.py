"""The trainer: schedules, same seed same weights, resume, early stop, NaN."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from harness.core import Context, Model, NotFinite, Trained
from harness.toolkit import training
from harness.toolkit.images import ImageData, Images
from harness.toolkit.training import Objective, Recipe, predict, train


def images(n: int, seed: int = 0) -> Images:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=rng)
    pixels = torch.randint(0, 60, (n, 1, 4, 4), generator=rng)
    pixels[:, 0, 0] += 60 * labels[:, None]  # learnable: the first row is the class
    return Images(pixels=pixels.to(torch.uint8), labels=labels, mean=(0.2,), std=(0.2,))


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)
    )


def context(scratch: Path | None = None, seed: int = 0) -> Context:
    data = ImageData(
        train=images(101), validation=images(30, 1), test=images(30, 2), classes=3
    )
    model = Model(name="m", net=net(), kind="classifier", roles={}, example=dict)
    return Context(
        model=model, seed=seed, device=torch.device("cpu"), data=data, scratch=scratch
    )


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


RECIPES = [
    Recipe(epochs=3, batch_size=10, momentum=0.9, lr=0.05),
    Recipe(epochs=3, batch_size=10, optimizer="adam", lr=0.01, keep="best"),
]


class Killed(Exception):
    pass


class KilledAt(Objective):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.left = step

    def after_step(self, net: nn.Module) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


def test_training_learns_what_can_be_learnt():
    ctx, student = context(), net()
    train(student, Recipe(epochs=30, batch_size=10, lr=0.1), ctx)
    right = predict(student, ctx.data.test).argmax(1) == ctx.data.test.labels
    assert right.float().mean() > 0.9
    assert not student.training


def test_a_step_of_sgd_is_the_textbook_step():
    # w <- w - lr * (grad + wd * w), worked here by autograd on the whole batch.
    ctx, student, twin = context(), net(), net()
    student[3].p = twin[3].p = 0.0
    recipe = Recipe(
        epochs=1, batch_size=200, lr=0.1, momentum=0, weight_decay=0.01,
        schedule="constant",
    )  # fmt: skip
    train(student, recipe, ctx)
    inputs, labels = ctx.data.train.batch(torch.arange(101))
    nn.functional.cross_entropy(twin(inputs), labels).backward()
    wanted = [p - 0.1 * (p.grad + 0.01 * p) for p in twin.parameters()]
    for got, want in zip(student.parameters(), wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_same_seed_same_weights_and_another_seed_other_weights():
    results = []
    for seed in (0, 0, 1):
        student = net()
        train(student, RECIPES[0], context(seed=seed))
        results.append(weights(student))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_training_leaves_the_global_random_stream_alone():
    student, ctx = net(), context()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    train(student, RECIPES[0], ctx)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("step", [4, 11, 25])
def test_a_killed_training_resumes_to_the_same_bits(
    tmp_path, monkeypatch, recipe, step
):
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    whole, ctx = net(), context()
    train(whole, recipe, ctx)

    with pytest.raises(Killed):
        train(net(), recipe, context(tmp_path), objective=KilledAt(step))
    resumed, second = net(seed=5), context(tmp_path)  # its own weights are replaced
    train(resumed, recipe, second)

    assert torch.equal(weights(whole), weights(resumed))
    assert second.recorded == ctx.recorded
    # What it read counts from its beginning, not from where it was killed.
    assert second.trained == ctx.trained
    # 100 of 101 images: batch normalisation cannot read a batch of one.
    assert ctx.trained == Trained(recipe.epochs, recipe.epochs * 100)


def test_images_of_a_last_smaller_batch_count_as_read_and_trainings_add_up():
    ctx = context()
    train(net(), Recipe(epochs=2, batch_size=40), ctx)
    train(net(), Recipe(epochs=1, batch_size=101), ctx)
    assert ctx.trained == Trained(3, 3 * 101)


def test_a_finished_training_is_not_repeated(tmp_path):
    first = net()
    train(first, RECIPES[0], context(tmp_path))
    again = net(seed=5)
    train(again, RECIPES[0], context(tmp_path), objective=KilledAt(0))
    assert torch.equal(weights(first), weights(again))


@pytest.mark.parametrize("damage", ["cut", "other recipe", "other seed"])
def test_a_checkpoint_of_something_else_is_not_used(tmp_path, damage):
    train(net(), RECIPES[0], context(tmp_path))
    (path,) = tmp_path.glob("*.safetensors")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    recipe = RECIPES[1] if damage == "other recipe" else RECIPES[0]
    seed = 1 if damage == "other seed" else 0
    alone, student = net(), net()
    train(alone, recipe, context(seed=seed))
    train(student, recipe, context(tmp_path, seed=seed))
    assert torch.equal(weights(alone), weights(student))


def test_nan_stops_training_at_once_with_the_step():
    class Poison(Objective):
        steps = 0

        def loss(self, net, batch):
            self.steps += 1
            return super().loss(net, batch) * (math.nan if self.steps == 15 else 1)

    poison = Poison()
    with pytest.raises(NotFinite, match=r"nan at step 14 \(epoch 1"):
        train(net(), RECIPES[0], context(), objective=poison)
    assert poison.steps == 15


def test_early_stop_keeps_the_best_epoch():
    class Scripted(Objective):
        scores = iter([0.1, 0.9, 0.5, 0.4, 0.3, 0.2])
        seen: list[torch.Tensor] = []  # noqa: RUF012 - one test's own list

        def validate(self, net, data):
            points = super().validate(net, data)
            self.seen.append(weights(net).clone())
            point = points["validation_accuracy"]
            object.__setattr__(point, "value", next(self.scores))
            return points

    goal, student, ctx = Scripted(), net(), context()
    recipe = Recipe(epochs=50, batch_size=10, patience=2, keep="best")
    train(student, recipe, ctx, objective=goal)
    assert len(goal.seen) == 4  # best at epoch 1, and two that were no better
    assert torch.equal(weights(student), goal.seen[1])


def test_the_curve_has_one_point_an_epoch():
    ctx = context()
    train(net(), RECIPES[0], ctx)
    curve = [(m.metric, m.step) for m in ctx.recorded]
    wanted = ["train_loss", "validation_accuracy", "validation_loss"]
    assert curve == [(metric, epoch) for epoch in range(3) for metric in wanted]


def test_a_last_batch_of_one_is_dropped_for_batch_normalisation():
    bn = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)
    )
    ctx = context()
    train(bn, Recipe(epochs=1, batch_size=10), ctx)  # 101 = 10 * 10 + 1
    assert bn[2].num_batches_tracked == 10


def test_schedules_are_those_of_their_formulas():
    cosine = Recipe(lr=1.0, epochs=10)
    assert [cosine.rate(e) for e in (0, 5)] == pytest.approx([1, 0.5])
    assert cosine.rate(10) == pytest.approx(0)
    warm = Recipe(lr=1.0, epochs=10, warmup=2, schedule="constant")
    assert [warm.rate(e) for e in (0, 1, 2, 9)] == [0, 0.5, 1, 1]
    held = Recipe(lr=1.0, epochs=200, schedule="linear", hold=0.5)
    assert [held.rate(e) for e in (0, 100, 150, 200)] == [1, 1, 0.5, 0]
    steps = Recipe(lr=1.0, schedule="steps", milestones=(3, 6), gamma=0.1)
    assert [steps.rate(e) for e in (2.9, 3, 6)] == pytest.approx([1, 0.1, 0.01])


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("batch_size", 0), ("lr", 0.0), ("momentum", 1.0), ("patience", 0)],
)
def test_an_impossible_recipe_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        Recipe(**{field: value})
