"""A change of what trials share is found, whatever changed it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from harness.running.seal import Seal


@dataclass
class Fitted:
    factors: dict[str, torch.Tensor]
    ranks: list[int]
    array: np.ndarray
    name: str = "svd"


def fitted() -> Fitted:
    large = torch.zeros(1000, 1000)  # sampled: larger than what is read whole
    return Fitted({"u": torch.ones(3), "large": large}, [1, 2], np.zeros(4))


def set_(thing: object, name: str, value: object) -> None:
    setattr(thing, name, value)


CHANGES: dict[str, Callable[[Fitted], object]] = {
    ".factors['u']": lambda f: f.factors["u"].add_(1),
    ".factors['large']": lambda f: f.factors["large"][7, 7].add_(1),
    ".ranks[0]": lambda f: f.ranks.sort(reverse=True),
    ".ranks[1]": lambda f: f.ranks.pop(),
    ".array": lambda f: np.put(f.array, 3, 1.0),
    ".name": lambda f: set_(f, "name", "other"),
}


@pytest.mark.parametrize("path", CHANGES)
def test_the_changed_part_is_named(path):
    thing = fitted()
    seal = Seal.of(fitted=thing)
    assert seal.broken() is None

    CHANGES[path](thing)

    assert seal.broken() == f"fitted{path}"


def test_a_change_behind_the_version_counter_is_seen_in_the_content():
    thing = fitted()
    seal = Seal.of(fitted=thing)

    thing.factors["u"].data[2] = 5
    assert seal.broken() == "fitted.factors['u']"

    seal = Seal.of(fitted=thing)
    thing.factors["large"].data.add_(1)
    assert seal.broken() == "fitted.factors['large']"


def test_a_cache_may_grow():
    thing = fitted()
    seal = Seal.of(fitted=thing)

    thing.factors["new"] = torch.ones(2)

    assert seal.broken() is None


NETWORK: dict[str, Callable[[nn.Module], object]] = {
    "net.0.weight": lambda net: net[0].weight.data.mul_(2),
    "net.1.running_mean": lambda net: net[1].running_mean.add_(1),
    "net.1 (mode)": lambda net: net[1].train(),
    "net.0 (hooks)": lambda net: net[0].register_forward_hook(lambda *_: None),
    "net.1.weight": lambda net: set_(net[1], "weight", nn.Parameter(torch.ones(4))),
}


@pytest.mark.parametrize("path", NETWORK)
def test_a_network_is_its_weights_buffers_modes_and_hooks(path):
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    seal = Seal.of(net=net)
    with torch.no_grad():
        net(torch.ones(2, 4))
    assert seal.broken() is None

    NETWORK[path](net)

    assert seal.broken() == path


def test_what_holds_itself_ends():
    loop: list[object] = [torch.ones(1)]
    loop.append(loop)

    assert Seal.of(loop=loop).broken() is None
