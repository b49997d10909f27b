"""Greedy and beam search over a step-by-step decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from harness.toolkit.sequences import BEGIN, END, PAD, UNKNOWN, pad

NEVER = (PAD, BEGIN, UNKNOWN)  # words that no translation contains


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How translations are searched.

    Args:
        beam: Hypotheses kept; 1 is greedy.
        length_penalty: Scores are divided by ``((5 + words) / 6) ** length_penalty``
            (Wu et al. 2016, arXiv:1609.08144); 0 leaves them.
        max_length: Longest translation in words, its end included.
        batch: Sentences searched together; changes the speed only.
    """

    beam: int = 1
    length_penalty: float = 0.0
    max_length: int = 60
    batch: int = 64


class Translator(Protocol):
    """A network that decodes step by step."""

    def encode(self, source: Tensor) -> Any:
        """What decoding needs: has ``states`` and ``select(rows)``."""

    def step(
        self, words: Tensor, states: Tensor, encoded: Any
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities ``(sentences, vocabulary)``, and the new states."""


@torch.inference_mode()
def translate(
    net: Translator, source: Sequence[Tensor], search: Search
) -> list[tuple[list[int], bool]]:
    """The best translation of each sentence.

    Args:
        net: Translation network in ``eval`` mode.
        source: Word numbers, one tensor per sentence.
        search: Decoding algorithm with its options.

    Returns:
        For each sentence its words, without begin and end, and whether it ended with
        the end token (False: it reached ``max_length``).
    """
    device = next(net.parameters()).device  # type: ignore[attr-defined]
    # Sentences of like length together, for little padding; the result is put back in
    # order.
    order = sorted(range(len(source)), key=lambda i: len(source[i]))
    found: dict[int, tuple[list[int], bool]] = {}
    for start in range(0, len(order), search.batch):
        which = order[start : start + search.batch]
        batch = pad([source[i] for i in which]).to(device)
        found.update(zip(which, _search(net, batch, search), strict=True))
    return [found[i] for i in range(len(source))]


def _search(
    net: Translator, source: Tensor, search: Search
) -> list[tuple[list[int], bool]]:
    """Beam search of all sentences at once; ended hypotheses are set aside."""
    count, beam = len(source), search.beam
    # Row of the first hypothesis of each sentence: (sentences,). All tensors below have
    # one row for each of sentences x beam hypotheses.
    first = torch.arange(count, device=source.device) * beam
    encoded = net.encode(source)
    encoded = encoded.select(torch.arange(count).repeat_interleave(beam))
    states = encoded.states
    history = torch.full((count * beam, 1), BEGIN, device=source.device)
    scores = torch.full((count, beam), float("-inf"), device=source.device)
    scores[:, 0] = 0.0  # all hypotheses of a sentence start alike: keep one
    best = [_Best() for _ in range(count)]
    for length in range(1, search.max_length + 1):
        steps, states = net.step(history[:, -1], states, encoded)
        steps[:, NEVER] = float("-inf")
        # Log-probability of each hypothesis with each next word: (sentences, beam,
        # vocabulary).
        total = scores[:, :, None] + steps.view(count, beam, -1)
        # Twice as many as are kept: at most `beam` of them are ends.
        top, where = total.flatten(1).topk(2 * beam)
        parent = first[:, None] + where // steps.shape[1]
        word = where % steps.shape[1]
        ended = word == END
        for i, j in ended[:, :beam].nonzero().tolist():
            best[i].offer(
                history[parent[i, j], 1:].tolist(),
                top[i, j].item() / _norm(length, search),
            )
        # Ended hypotheses leave the beam; ``beam`` others go on.
        scores, kept = top.masked_fill(ended, float("-inf")).topk(beam)
        rows = parent.gather(1, kept).flatten()
        states = states[:, rows]
        history = torch.cat([history[rows], word.gather(1, kept).view(-1, 1)], dim=1)
        # Scores only fall; a later end gains at most the longest norm.
        bound = _norm(search.max_length, search)
        hopes = (scores[:, 0] / bound).tolist()
        if all(b.score >= hope for b, hope in zip(best, hopes, strict=True)):
            break
    # The best open hypothesis is the first row, since ``topk`` sorts. It is used only
    # if none ended within ``max_length``.
    open_ended = history[first, 1:].tolist()
    return [
        (tokens, False) if b.tokens is None else (b.tokens, True)
        for b, tokens in zip(best, open_ended, strict=True)
    ]


@dataclass(slots=True)
class _Best:
    """The best ended hypothesis of a sentence."""

    tokens: list[int] | None = None
    score: float = float("-inf")

    def offer(self, tokens: list[int], score: float) -> None:
        if score > self.score:
            self.tokens, self.score = tokens, score


def _norm(length: int, search: Search) -> float:
    """What a score of ``length`` words, the end included, is divided by."""
    return float(((5 + length) / 6) ** search.length_penalty)
