"""Prefill of low-rank networks beside the dense one, alternating in one process.

The first blocks of SmolLM2-135M (all are alike) read a prompt, with one thread and in
processor time, so that other work on the machine counts for little. In each round every
network runs once; the speed of a network is the median over the rounds of the time of
the dense one divided by its own. The factors are random, since the time does not depend
on them. `python benchmarks/speed.py --ratios 0.3 0.5` measures two ratios.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from _figures import show
from torch import Tensor, nn

from harness.core import Model
from harness.registry import find
from methods._kernels.low_rank.factors import Group, linears, matrix
from methods._kernels.low_rank.groups import Join, groups_within_blocks
from methods._kernels.low_rank.installed import install
from methods._kernels.low_rank.pivots import install_pivoted, pivoted_cost
from methods._kernels.low_rank.ranks import kept, pair_cost

Install = Callable[[nn.Module, Group, Tensor, Tensor], None]
# What layers replace a matrix: which of them share an input factor, how many numbers a
# rank costs, and who installs them.
FORMS: dict[str, tuple[Join, Callable[[int, int, int], int], Install]] = {
    "two thin layers": ("none", pair_cost, install),
    "shared input factor": ("qkv", pair_cost, install),
    "pivoted": ("qkv", pivoted_cost, install_pivoted),
}
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
BARS = {"two thin layers": 0.5, "pivoted": 0.5}  # at this ratio faster than dense


def first_blocks(count: int) -> Model:
    """SmolLM2-135M without its later blocks."""
    model = find("model", "smollm2-135m").build({}).load()
    del model.net.model.layers[count:]
    model.net.config.num_hidden_layers = count
    return model


def low_rank(model: Model, form: str, ratio: float) -> nn.Module:
    """The network with random factors in place of every matrix of its blocks.

    Args:
        model: The dense model.
        form: A name of ``FORMS``.
        ratio: The share of the weights of each matrix, or group, to remove.

    Returns:
        A copy, which shares the embedding with the dense network.
    """
    join, cost, put = FORMS[form]
    shared = model.net.get_input_embeddings()
    net = copy.deepcopy(
        model.net, {id(shared): shared, id(shared.weight): shared.weight}
    )
    modules = linears(model)
    rng = torch.Generator().manual_seed(0)
    for group in groups_within_blocks(model, join):
        shapes = [matrix(modules[name]).shape for name in group.names]
        out, inner = sum(shape[0] for shape in shapes), shapes[0][1]
        budget = kept(out * inner, ratio)
        fits = [k for k in range(1, min(out, inner)) if cost(out, inner, k) <= budget]
        rank = fits[-1]
        left = torch.randn(out, rank, generator=rng) / rank**0.5
        right = torch.randn(rank, inner, generator=rng) / inner**0.5
        put(net, group, left, right)
    return net


def speeds(nets: Mapping[str, nn.Module], ids: Tensor, rounds: int) -> dict[str, float]:
    """How many times as fast as the network ``dense`` each network is."""
    found: dict[str, list[float]] = {name: [] for name in nets}
    for number in range(rounds + 1):
        spent = {}
        for name, net in nets.items():
            began = time.process_time()
            with torch.inference_mode():
                net(input_ids=ids, use_cache=True, logits_to_keep=1)
            spent[name] = time.process_time() - began
        for name in nets if number else ():  # the first round fills caches
            found[name].append(spent["dense"] / spent[name])
    return {name: statistics.median(values) for name, values in found.items()}


def crossover(points: Mapping[float, float]) -> str:
    """The ratio at which a form is as fast as dense, between two measured ones."""
    if all(speed >= 1 for speed in points.values()):
        return f"below {min(points):g}"
    for (one, slow), (two, fast) in pairwise(sorted(points.items())):
        if slow < 1 <= fast:
            return f"{one + (two - one) * (1 - slow) / (fast - slow):.2f}"
    return f"above {max(points):g}"


def main() -> None:
    """Print the speeds, the ratios at which they are 1, and the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS)
    parser.add_argument("--blocks", type=int, default=6, help="of 30")
    parser.add_argument("--length", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = first_blocks(asked.blocks)
    ids = torch.arange(asked.length)[None]
    found: dict[str, dict[float, float]] = {form: {} for form in FORMS}
    print("ratio  " + "  ".join(f"{form:>20}" for form in FORMS))
    for ratio in asked.ratios:
        nets = {form: low_rank(model, form, ratio) for form in FORMS}
        times = speeds({"dense": model.net, **nets}, ids, asked.rounds)
        for form in FORMS:
            found[form][ratio] = times[form]
        cells = (f"{times[form]:18.2f} x" for form in FORMS)
        print(f"{ratio:<5g}  " + "  ".join(cells), flush=True)
    cells = (f"{crossover(found[form]):>20}" for form in FORMS)
    print("equal  " + "  ".join(cells))
    for form, ratio in BARS.items():
        if ratio in found[form]:
            name = f"prefill, {form} at ratio {ratio} beside dense"
            show(name, found[form][ratio], "x", side="least", bar=1)


if __name__ == "__main__":
    main()
