"""Images a second of the trainer, against a bare PyTorch loop, and DropBack's step.

The bare loop has the same model, optimizer and batch size, on float tensors that are
normalised and in memory beforehand. Both take turns, several times, on one thread; the
best time of each counts, so that other work on the machine disturbs neither.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from _figures import show
from torch import nn
from torch.nn import functional

from harness.core import Context, Measurement
from harness.registry import find
from harness.toolkit.images import ImageData, Images
from harness.toolkit.training import Objective, Recipe, train
from methods._kernels.tracked import flatten, initial_of
from methods.dropback import Tracking

CASES = {
    # model, options, shape of an image, batch size, steps of one turn
    "LeNet-300-100, MNIST": ("mlp", {"hidden": [300, 100]}, (1, 28, 28), 100, 60),
    "VGG-small, CIFAR": ("vgg_small", {}, (3, 32, 32), 16, 1),
}


class Silent(Objective):
    """Cross-entropy without a validation pass, which the bare loop has not either."""

    def validate(self, net: nn.Module, data: Any) -> dict[str, Measurement]:
        """No curve point."""
        return {}


def images(shape: tuple[int, int, int], n: int) -> ImageData:
    """Random pixels and labels: speed does not depend on what they show."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, *shape), generator=rng).to(torch.uint8)
    labels = torch.randint(0, 10, (n,), generator=rng)
    one = (0.5,) * shape[0]
    split = Images(pixels=pixels, labels=labels, mean=one, std=one)
    return ImageData(train=split, validation=split, test=split, classes=10)


def bare(net: nn.Module, data: ImageData, recipe: Recipe) -> Callable[[], None]:
    """The epochs of a recipe as one would write them by hand."""
    whole, labels = data.train.batch(torch.arange(len(data.train)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def epochs() -> None:
        net.train()
        for _ in range(recipe.epochs):
            for index in torch.randperm(len(labels)).split(recipe.batch_size):
                optimizer.zero_grad()
                loss = functional.cross_entropy(net(whole[index]), labels[index])
                loss.backward()
                optimizer.step()

    return epochs


def best(turns: int, *timed: Callable[[], None]) -> list[float]:
    """The shortest of several turns of each, seconds."""
    times: list[list[float]] = [[] for _ in timed]
    for _ in range(turns + 1):
        for run, seen in zip(timed, times, strict=True):
            begin = time.perf_counter()
            run()
            seen.append(time.perf_counter() - begin)
    return [min(seen[1:]) for seen in times]  # the first turn warms up


def trainer(case: str, turns: int) -> None:
    """Print the line of one model."""
    name, options, shape, size, steps = CASES[case]
    data = images(shape, size * steps)
    model = find("model", name).build(options).build(data.shape, 0)
    recipe = Recipe(epochs=3, batch_size=size, lr=0.01, schedule="constant")
    ctx = Context(model=model, seed=0, device=torch.device("cpu"), data=data)
    net = ctx.dense()
    ours, theirs = best(
        turns,
        lambda: train(net, recipe, ctx, objective=Silent()),
        bare(ctx.dense(), data, recipe),
    )
    n = recipe.epochs * len(data.train)
    print(f"{case:22} trainer {n / ours:9.0f} images/s   bare loop {n / theirs:9.0f}")
    what = f"{case}: images a second beside a bare loop"
    show(what, theirs / ours, "x", side="least", bar=0.95)


def dropback(keep: float, turns: int) -> None:
    """Print what a step of DropBack costs against one of plain SGD."""
    size, steps = 100, 100
    data = images((1, 28, 28), size * steps)
    options = {"hidden": [300, 100]}
    model = find("model", "mlp").build(options).build(data.shape, 0)
    recipe = Recipe(
        epochs=1, batch_size=size, lr=0.1, momentum=0.0, schedule="constant"
    )
    ctx = Context(model=model, seed=0, device=torch.device("cpu"), data=data)
    plain, net = ctx.dense(), ctx.dense()
    k = round(keep * sum(p.numel() for p in net.parameters()))
    goal = Tracking(initial=initial_of(net, 0, 1.0), flat=flatten(net), k=k)
    goal.begin()
    goal.validate = Silent().validate  # type: ignore[method-assign]
    ours, theirs = best(
        turns,
        lambda: train(net, recipe, ctx, objective=goal),
        lambda: train(plain, recipe, ctx, objective=Silent()),
    )
    ours, theirs = 1e3 * ours / steps, 1e3 * theirs / steps
    print(f"DropBack at {1 / keep:2.0f}x: {ours:5.2f} ms a step, SGD {theirs:5.2f} ms")
    what = f"DropBack at {1 / keep:.0f}x: a step beside plain SGD"
    show(what, ours / theirs, "x", side="most", bar=1.25)


def main() -> None:
    """Print all lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7, help="of each measurement")
    turns = parser.parse_args().turns
    torch.set_num_threads(1)
    for case in CASES:
        trainer(case, turns)
    for keep in (1 / 5, 1 / 13, 1 / 25, 1 / 60):
        dropback(keep, turns)


if __name__ == "__main__":
    main()
