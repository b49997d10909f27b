"""BLEU from the counts of single sentences, and a paired test between two systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ORDERS = {f"bleu{order}": order for order in range(1, 5)}
_LENGTHS = ("bleu_hypothesis_words", "bleu_reference_words")
Counts = Mapping[str, Any]


def counted(metric: str) -> tuple[str, ...]:
    """The counts that a metric is made of, each stored per sentence; none for most.

    >>> counted("bleu1")
    ('bleu_hypothesis_words', 'bleu_reference_words', 'bleu_correct_1', 'bleu_total_1')
    >>> counted("accuracy")
    ()
    """
    orders = range(1, _ORDERS.get(metric, 0) + 1)
    names = [f"bleu_{kind}_{n}" for n in orders for kind in ("correct", "total")]
    return (*_LENGTHS, *names) if names else ()


def corpus_bleu(
    statistics: Counts, weights: Any = None, order: int = 4
) -> NDArray[np.float64]:
    """BLEU from the counts of sentences (Papineni et al. 2002), without smoothing.

    Args:
        statistics: The counts of ``counted``, each of shape ``(sentences,)``.
        weights: How often each sentence counts, shape ``(..., sentences)``; None for
            once.
        order: Length of the longest n-gram.

    Returns:
        BLEU in percent, shape ``(...)``.
    """
    given = np.ones(len(statistics[_LENGTHS[0]])) if weights is None else weights
    times = np.asarray(given, dtype=float)
    # The counts of the corpus, (...): sums over its sentences. BLEU is not a mean of
    # sentence scores.
    total = {
        name: times @ np.asarray(statistics[name], dtype=float)
        for name in counted(f"bleu{order}")
    }
    words, wanted = (total[name] for name in _LENGTHS)
    # log p_n for n = 1 to ``order``, p_n the share of the n-grams that a reference has.
    # A sentence shorter than n words has none: the maximum avoids 0 / 0.
    with np.errstate(divide="ignore"):  # log 0: no match at all, BLEU 0
        logs = [
            np.log(total[f"bleu_correct_{n}"] / np.maximum(total[f"bleu_total_{n}"], 1))
            for n in range(1, order + 1)
        ]
        # log of the brevity penalty min(1, exp(1 - r / c)), with r words wanted and c
        # written.
        brevity = np.minimum(0.0, 1 - wanted / np.maximum(words, 1))
    found: NDArray[np.float64] = 100 * np.exp(np.mean(logs, axis=0) + brevity)
    return found


def paired_bleu(
    ours: Sequence[Counts],
    theirs: Sequence[Counts],
    *,
    order: int = 4,
    draws: int = 2_000,
    seed: int = 0,
) -> float:
    """Two-sided p value that two systems differ in BLEU on the same sentences.

    Both get the same resampled corpora (Koehn 2004, aclanthology.org/W04-3250). The p
    value is how often a resampled difference is as far from their mean as the observed
    one is from zero (Riezler & Maxwell 2005, aclanthology.org/W05-0908).

    Args:
        ours: Counts of one system, a mapping for each of its seeds; their BLEU is
            averaged.
        theirs: Those of the other, of the same sentences in the same order.
        order: Length of the longest n-gram.
        draws: Number of resampled corpora.
        seed: Seed of the resampling generator.

    Returns:
        In (0, 1]; never 0, since the observed data count as one draw.

    Raises:
        ValueError: If the numbers of sentences differ or are zero.
    """
    sizes = {len(counts[_LENGTHS[0]]) for counts in (*ours, *theirs)}
    if len(sizes) != 1 or sizes == {0}:
        raise ValueError(f"paired sentences need equal numbers, not {sorted(sizes)}")
    n = sizes.pop()
    # Drawing n sentences with replacement is drawing how often each one counts: (draws,
    # n).
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)

    def gap(times: Any) -> NDArray[np.float64]:
        # One BLEU for each seed of a system, then their mean: pooled counts would be
        # one system with a longer corpus.
        mean = [
            np.mean([corpus_bleu(c, times, order) for c in system], axis=0)
            for system in (ours, theirs)
        ]
        return np.asarray(mean[0] - mean[1], dtype=float)

    observed, drawn = abs(float(gap(None))), gap(weights)
    # Centred at the mean of the draws, which is what the difference would be around
    # under the null hypothesis. 1e-12 counts a tie in spite of rounding.
    extreme = np.abs(drawn - drawn.mean()) >= observed - 1e-12
    return float(extreme.sum() + 1) / (draws + 1)
