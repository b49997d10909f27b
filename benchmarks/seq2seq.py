"""Sentences a second of the GRU translator against bare ``torch.nn.GRU``.

    python benchmarks/seq2seq.py [--units 128] [--repeats 9]

The bare network is the same embeddings, output layer, loss, optimizer and batches
around multi-layer ``torch.nn.GRU`` modules. One thread, processor time, the networks
in turns and the fastest repeat of each, so that other work on the machine counts for
little. Sentences are random words with the lengths of weather forecasts (9 glosses, 14
words on average).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from _figures import show
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from harness.models._seq2seq import Seq2Seq
from harness.models.gru_seq2seq import GruSeq2Seq
from harness.toolkit.decoding import Search, translate
from harness.toolkit.sequences import pad
from methods._kernels.variational.posterior import Prior, make_variational, total_kl
from methods.sb_gru import treated

SHAPE = {"source_words": 1236, "target_words": 2892}  # of PHOENIX-2014T
BATCH, BATCHES, LONGEST = 64, 4, 20
TO_REACH = {"plain": 0.9, "full": 0.4}


class Bare(nn.Module):
    """Layers of ``torch.nn.GRU`` behind the interface of a stack."""

    def __init__(self, layers: int, units: int, dropout: float) -> None:
        super().__init__()
        self.gru = nn.GRU(units, units, layers, dropout=dropout)

    def fused(self) -> None:
        """Nothing to make beforehand."""

    def forward(
        self, sequence: PackedSequence, states: Tensor, fused: None
    ) -> tuple[PackedSequence, Tensor]:
        """As ``Stack.forward``."""
        outputs, last = self.gru(sequence._replace(sorted_indices=None), states)
        return sequence._replace(data=outputs.data), last


def networks(layers: int, units: int) -> dict[str, tuple[Seq2Seq, list[nn.Module]]]:
    """The three networks, with the layers whose divergence enters the loss."""
    family = GruSeq2Seq(layers=layers, units=units)
    made = {}
    for name in ("bare", "plain", "full"):
        model = family.build(SHAPE, 0)
        net, variational = model.net, []
        if name == "bare":
            net.encoder = Bare(layers, units, family.dropout)
            net.decoder = Bare(layers, units, family.dropout)
        if name == "full":
            prior = Prior(gaussian=True, sticks=True)
            variational = make_variational(net, treated(model), prior)
        made[name] = (net, variational)
    return made


def sentences(count: int, mean: int, words: int, seed: int) -> list[Tensor]:
    """Random sentences of half to one and a half the mean length."""
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(mean // 2, mean + mean // 2 + 1, (count,), generator=rng)
    return [torch.randint(4, words, (n,), generator=rng) for n in lengths.tolist()]


def trainer(net: Seq2Seq, variational: list[nn.Module]) -> Callable[[], None]:
    """A function that trains on every batch once."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)
    source = sentences(BATCH * BATCHES, 9, SHAPE["source_words"], 0)
    target = sentences(BATCH * BATCHES, 14, SHAPE["target_words"], 1)

    def run() -> None:
        net.train()
        for start in range(0, len(source), BATCH):
            rows = slice(start, start + BATCH)
            optimizer.zero_grad(set_to_none=True)
            loss, words = net.log_loss(pad(source[rows]), pad(target[rows]))
            loss = loss / words
            if variational:
                loss = loss + total_kl(variational) / 100_000
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()

    return run


def decoder(net: Seq2Seq) -> Callable[[], None]:
    """A function that translates every sentence greedily."""
    source = sentences(BATCH * BATCHES, 9, SHAPE["source_words"], 0)

    def run() -> None:
        net.eval()
        translate(net, source, Search(beam=1, max_length=LONGEST, batch=BATCH))

    return run


def speeds(jobs: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Sentences a second of processor time, the jobs taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(repeats + 1):
        for name, job in jobs.items():
            began = time.process_time()
            job()
            if turn:  # the first one warms up
                seconds[name].append(time.process_time() - began)
    return {name: BATCH * BATCHES / min(s) for name, s in seconds.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    made = networks(given.layers, given.units)
    with torch.no_grad():
        for net, _ in made.values():
            net.output.bias[2] = -1e4  # nothing ends early: equal work for all
    tables = {
        "training": {name: trainer(*pair) for name, pair in made.items()},
        "greedy decoding": {name: decoder(pair[0]) for name, pair in made.items()},
    }
    size = f"{given.layers}+{given.layers} layers of {given.units} units"
    print(f"{size}, one CPU thread, sentences a second")
    for title, jobs in tables.items():
        speed = speeds(jobs, given.repeats)
        for name, value in speed.items():
            share = value / speed["bare"]
            print(f"{title:16} {name:6} {value:8.0f}  {share:5.2f} of bare")
            if name in TO_REACH:
                what = f"{title}, {name}: sentences a second beside torch.nn.GRU"
                show(what, share, "x", side="least", bar=TO_REACH[name])


if __name__ == "__main__":
    main()
