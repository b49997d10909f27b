"""BLEU, chrF, ROUGE-L and exact match of a corpus, each with its standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from harness.core import Measurement

RESAMPLES = 1000  # of the bootstrap


def corpus_scores(
    hypotheses: Sequence[str], references: Sequence[str]
) -> Iterator[Measurement]:
    """Corpus metrics with bootstrap standard errors (Koehn 2004, W04-3250).

    Args:
        hypotheses: Translations, words separated by spaces.
        references: One for each hypothesis.

    Yields:
        ``bleu1`` ... ``bleu4``, ``chrf``, ``rouge_l``, ``exact_match``, in percent;
        then ``bleu_correct_1`` ... and their like, whose ``values`` are the counts of
        each sentence, from which BLEU of any subset follows (``results.tables.bleu``).
    """
    n = len(references)
    draws = _draws(n)
    for order in range(1, 5):
        yield _corpus_score(
            f"bleu{order}", bleu(order), (hypotheses, references), draws
        )
    yield _corpus_score("chrf", chrf(), (hypotheses, references), draws)
    rouge = _rouge(hypotheses, references)
    exact = [100.0 * (h == r) for h, r in zip(hypotheses, references, strict=True)]
    for metric, values in (("rouge_l", rouge), ("exact_match", exact)):
        # A mean over sentences: the mean of each resample is one product, (RESAMPLES,).
        spread = draws @ np.asarray(values) / n
        yield Measurement(
            metric=metric,
            value=float(np.mean(values)),
            unit="%",
            goal="max",
            stderr=float(spread.std(ddof=1)),
            n=n,
            values=values,
            chance=0.0,
        )
    columns = bleu_statistics(hypotheses, references)
    for metric, column in columns.items():
        yield Measurement(
            metric=metric,
            value=float(column.sum()),
            n=n,
            values=[float(c) for c in column],
        )


def bleu_statistics(
    hypotheses: Sequence[str], references: Sequence[str]
) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:
    """The counts that BLEU is computed from, by sentence.

    Args:
        hypotheses: Translations, words separated by spaces.
        references: One for each hypothesis.

    Returns:
        ``bleu_hypothesis_words``, ``bleu_reference_words``, and for n = 1 to 4
        ``bleu_correct_n`` and ``bleu_total_n``, each of shape ``(sentences,)``.
    """
    from sacrebleu.metrics import BLEU

    # `effective_order` changes the score of a sentence, not its counts, and keeps
    # sacrebleu from warning at each one.
    scorer = BLEU(tokenize="none", smooth_method="none", effective_order=True)
    scores = [
        scorer.sentence_score(h, [r])
        for h, r in zip(hypotheses, references, strict=True)
    ]
    columns = {
        "bleu_hypothesis_words": [s.sys_len for s in scores],
        "bleu_reference_words": [s.ref_len for s in scores],
    }
    for order in range(4):
        columns[f"bleu_correct_{order + 1}"] = [s.counts[order] for s in scores]
        columns[f"bleu_total_{order + 1}"] = [s.totals[order] for s in scores]
    return {
        name: np.asarray(column, dtype=np.int64) for name, column in columns.items()
    }


def _corpus_score(
    name: str, scorer: Any, sides: tuple[Sequence[str], Sequence[str]], draws: Any
) -> Measurement:
    """A corpus metric of sacrebleu; the bootstrap sums its own counts of sentences."""
    hypotheses, references = (list(side) for side in sides)
    value = scorer.corpus_score(hypotheses, [references]).score
    # Corpus scores are functions of sums of counts over sentences: n-grams are counted
    # once, and a resample only adds up rows, (sentences, counts).
    counts = np.asarray(scorer._extract_corpus_statistics(hypotheses, [references]))
    spread = [
        scorer._aggregate_and_compute([row]).score
        for row in (draws @ counts).astype(np.int64).tolist()
    ]
    return Measurement(
        metric=name,
        value=value,
        unit="%",
        goal="max",
        stderr=float(np.std(spread, ddof=1)),
        n=len(references),
        chance=0.0,
    )


def _draws(n: int) -> Any:
    """How often each sentence is drawn, shape ``(RESAMPLES, n)``; always the same."""
    # The same draws for every network, so that standard errors do not differ by chance.
    rng = np.random.default_rng(0)
    return rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)


def _rouge(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """Sentence ROUGE-L F1 in percent, split at white space.

    The package's own tokenizer drops every letter outside a-z, umlauts too.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Whitespace())
    return [
        100 * scorer.score(reference, hypothesis)["rougeL"].fmeasure
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]


class _Whitespace:
    """The tokenizer that rouge-score calls."""

    tokenize: Callable[[str], list[str]] = staticmethod(str.split)


def bleu(order: int) -> Any:
    """Corpus BLEU up to n-grams of this order: words as given, no smoothing."""
    from sacrebleu.metrics import BLEU

    return BLEU(
        tokenize="none", smooth_method="none", max_ngram_order=order, force=True
    )


def chrf() -> Any:
    """Character F-score, sacrebleu's defaults (chrF2)."""
    from sacrebleu.metrics import CHRF

    return CHRF()


def signature(scorer: Any) -> str:
    """Sacrebleu's own signature, its version apart (rows store package versions)."""
    scorer.corpus_score(["a"], [["a"]])  # sacrebleu has a signature only after a score
    parts = str(scorer.get_signature()).split("|")
    return "|".join(p for p in parts if not p.startswith("version:"))
