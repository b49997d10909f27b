"""The paired test on BLEU, against sacrebleu on the resampled texts themselves."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from synthetic import row

from results.tables.bleu import corpus_bleu, counted, paired_bleu
from results.tables.custom import custom_table


def _corpus(seed: int, n: int, error: float) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    references = [" ".join(rng.choice(list("abcdefgh"), 9)) for _ in range(n)]
    noise = np.random.default_rng((seed, int(100 * error)))
    hypotheses = [
        " ".join(w if noise.random() > error else "z" for w in r.split())
        for r in references
    ]
    return hypotheses, references


def _counts(hypotheses: list[str], references: list[str]) -> dict[str, list[float]]:
    scorer = BLEU(tokenize="none", smooth_method="none", effective_order=True)
    scores = [
        scorer.sentence_score(h, [r])
        for h, r in zip(hypotheses, references, strict=True)
    ]
    found = {
        "bleu_hypothesis_words": [float(s.sys_len) for s in scores],
        "bleu_reference_words": [float(s.ref_len) for s in scores],
    }
    for order in range(4):
        found[f"bleu_correct_{order + 1}"] = [float(s.counts[order]) for s in scores]
        found[f"bleu_total_{order + 1}"] = [float(s.totals[order]) for s in scores]
    return found


def test_the_p_value_is_that_of_sacrebleu_on_the_resampled_texts():
    ours, references = _corpus(0, 40, 0.30)
    theirs, _ = _corpus(0, 40, 0.34)
    scorer = BLEU(tokenize="none", smooth_method="none", force=True)
    rng = np.random.default_rng(5)
    gaps = []
    for _ in range(400):
        pick = rng.integers(40, size=40)
        drawn = [
            scorer.corpus_score(
                [side[i] for i in pick], [[references[i] for i in pick]]
            )
            for side in (ours, theirs)
        ]
        gaps.append(drawn[0].score - drawn[1].score)
    whole = [scorer.corpus_score(side, [references]).score for side in (ours, theirs)]
    away = np.abs(np.array(gaps) - np.mean(gaps)) >= abs(whole[0] - whole[1])
    wanted = (away.sum() + 1) / 401

    found = paired_bleu([_counts(ours, references)], [_counts(theirs, references)])

    assert 0.02 < wanted < 0.98  # else the comparison shows nothing
    assert found == pytest.approx(wanted, abs=0.06)


def test_equal_systems_are_not_told_apart_and_clearly_different_ones_are():
    good, references = _corpus(1, 60, 0.1)
    bad, _ = _corpus(1, 60, 0.5)
    a, b = _counts(good, references), _counts(bad, references)
    assert paired_bleu([a], [a]) == 1.0
    assert paired_bleu([a], [b], draws=999) == 0.001
    with pytest.raises(ValueError, match="equal numbers"):
        paired_bleu([a], [{name: v[:-1] for name, v in b.items()}])


def test_bleu_of_many_weights_is_that_of_each():
    counts = _counts(*_corpus(2, 30, 0.3))
    weights = np.random.default_rng(0).integers(0, 4, (5, 30))
    found = corpus_bleu(counts, weights, order=2)
    assert found == pytest.approx([float(corpus_bleu(counts, w, 2)) for w in weights])


def test_without_a_single_match_bleu_is_zero():
    nothing = _counts(["x y z w v"], ["a b c d e"])
    assert float(corpus_bleu(nothing)) == 0


@pytest.mark.parametrize(
    ("words", "reference", "correct", "bleu"),
    [
        (1, 2, 1, 100 * np.exp(-1)),  # brevity exp(1 - 2 / 1)
        (4, 2, 2, 50),  # a long sentence has no bonus
        (4, 4, 4, 100),
        (2, 4, 0, 0),
    ],
)
def test_bleu_of_one_sentence_by_hand(words, reference, correct, bleu):
    counts = {
        "bleu_hypothesis_words": [words],
        "bleu_reference_words": [reference],
        "bleu_correct_1": [correct],
        "bleu_total_1": [words],
    }
    assert float(corpus_bleu(counts, order=1)) == pytest.approx(bleu)


def test_without_an_order_bleu_is_that_of_four_grams():
    # 8 of 10 words, 4 of 8 pairs, 3 of 6 threes and 1 of 4 fours: the fourth root of
    # 0.8 * 0.5 * 0.5 * 0.25 = 0.05.
    counts = {"bleu_hypothesis_words": [10], "bleu_reference_words": [10]}
    for n, (correct, total) in enumerate([(8, 10), (4, 8), (3, 6), (1, 4)], 1):
        counts |= {f"bleu_correct_{n}": [correct], f"bleu_total_{n}": [total]}
    assert float(corpus_bleu(counts)) == pytest.approx(100 * 0.05**0.25)
    assert float(corpus_bleu(counts, order=2)) == pytest.approx(100 * 0.4**0.5)


def test_sentences_of_no_system_cannot_be_paired():
    none = {name: [] for name in counted("bleu1")}
    with pytest.raises(ValueError, match=r"equal numbers, not \[0\]"):
        paired_bleu([none], [none], order=1)


@pytest.mark.parametrize(("error", "like_best"), [(0.31, True), (0.5, False)])
def test_a_table_tests_bleu_by_the_stored_counts(empty, error, like_best):
    # Two seeds a system; no standard errors are stored, so that nothing but the
    # sentences' counts can tell.
    for method, wrong in (("best", 0.30), ("other", error)):
        for seed in range(2):
            counts = _counts(*_corpus(seed, 80, wrong))
            made = row(
                f"{method}{seed}",
                method=method,
                seed=seed,
                task="translation",
                measured={"bleu4": float(corpus_bleu(counts))},
            )
            samples = [{"metric": m, "values": counts[m]} for m in counted("bleu4")]
            empty.append(made, samples)
    table = custom_table(empty, rows=["method"], cols=["task"], metric="bleu4")
    second = next(r.cells[0] for r in table.rows if r.cells[0].rank == 2)
    assert second.like_best is like_best
