"""Who is best of a column, and who cannot be told from the best, on worked numbers."""

import math

import pytest
from synthetic import row

from results.tables import significance
from results.tables.bleu import counted
from results.tables.cells import Cell
from results.tables.significance import (
    _counts,
    _p_value,
    _rank,
    _values,
    _with_error,
    rank,
    rank_cells,
)
from results.tables.statistics import student

HALF = 1.959964  # half a 95 % interval of a normal, in standard errors


def cell(value: float | None, stderr: float | None = None, **fields) -> Cell:
    ends = (None, None)
    if stderr is not None and value is not None:
        ends = (value - HALF * stderr, value + HALF * stderr)
    fields = {"digits": 2, "key": {"metric": "accuracy"}} | fields
    return Cell(measured=value, low=ends[0], high=ends[1], **fields)


def test_cells_are_placed_by_what_is_printed_and_equal_prints_tie():
    values = (0.714, 0.906, 0.9096, 0.88)  # printed 0.71, 0.91, 0.91, 0.88
    column = [cell(v) for v in values]
    assert _rank(column, {}) is False
    assert [c.rank for c in column] == [3, 1, 1, 2]

    perplexities = [cell(v, goal="min") for v in values]
    _rank(perplexities, {})
    assert [c.rank for c in perplexities] == [1, 3, 3, 2]


def test_a_system_in_two_rows_is_one_rival_and_both_have_its_marks():
    # Printed 0.91 and 0.906, as two sources print it.
    twice = [cell(0.906, 0.01, attempts=["a"]), cell(0.906, 0.01, attempts=["a"])]
    twice[1].digits = 3
    other = cell(0.8817, 0.005, attempts=["b"])
    column = [twice[0], other, twice[1]]

    assert _rank(column, {}) is False
    assert [c.rank for c in column] == [1, 2, 1]
    # p is 0.03; counted as two tests, Holm's correction would make it 0.06.
    assert [c.like_best for c in column] == [False, False, False]


def test_two_numbers_of_the_same_trials_are_ranked_apart():
    one = cell(0.9, attempts=["a"])
    scaled = cell(0.8, attempts=["a"], key={"metric": "accuracy", "scale": 2})
    other = cell(0.7, attempts=["a"], key={"column": "macs"})

    _rank([one, scaled, other], {})
    assert [c.rank for c in (one, scaled, other)] == [1, 2, 3]


def test_only_cells_of_one_group_and_column_with_a_number_compete(empty):
    groups = ["a", None, "a", "b", "a"]
    left = [cell(v) for v in (0.7, 0.99, 0.8, 0.9, None)]
    right = [cell(v) for v in (0.4, 0.99, 0.3, None, 0.2)]

    notes = rank_cells(empty, list(zip(left, right, strict=True)), groups)

    assert [c.rank for c in left] == [2, 0, 1, 0, 0]  # b has no rival
    assert [c.rank for c in right] == [1, 0, 2, 0, 3]
    assert notes == []


def test_a_note_explains_the_mark_exactly_where_a_cell_has_it(empty):
    near = [cell(0.90, 0.01), cell(0.89, 0.01)]
    far = [cell(0.90, 0.01), cell(0.80, 0.01)]

    assert rank_cells(empty, [[c] for c in far], ["a", "a"]) == []
    # One column with a mark is enough, in any order.
    rows = [list(pair) for pair in zip(near, far, strict=True)]
    (note,) = rank_cells(empty, rows, ["a", "a"])
    assert "not distinguishable from the best" in note
    assert [c.like_best for c in near] == [False, True]
    assert [c.like_best for c in far] == [False, False]


def test_without_samples_the_standard_errors_decide():
    # Errors of 0.3 and 0.4 make 0.5 together. A gap of 0.5 root(2) gives erfc(1).
    best, other = cell(2.0, 0.3), cell(2.0 - 0.5 * math.sqrt(2), 0.4)

    assert _p_value(best, other, {}) == pytest.approx(math.erfc(1))
    assert _p_value(other, best, {}) == pytest.approx(math.erfc(1))
    # One error is enough for a test; none tells nothing.
    assert _p_value(cell(2.0, 0.5), cell(other.measured), {}) == pytest.approx(
        math.erfc(1)
    )
    assert _p_value(cell(2.0), cell(1.0), {}) is None


def test_a_p_value_of_exactly_the_level_tells_two_cells_apart(monkeypatch):
    for p, like in ((0.05, False), (0.0501, True), (None, False)):
        monkeypatch.setattr(significance, "_p_value", lambda *_, p=p: p)
        column = [cell(0.9), cell(0.8)]
        assert _rank(column, {}) is like
        assert column[1].like_best is like


def test_p_values_of_one_column_are_corrected_by_holm(monkeypatch):
    # 0.03 alone tells a cell apart. Beside 0.04 it counts twice: 0.06.
    p = {0.8: 0.03, 0.7: 0.04}
    monkeypatch.setattr(
        significance, "_p_value", lambda _, other, __: p[other.measured]
    )
    pair = [cell(0.9), cell(0.8)]
    three = [cell(0.8), cell(0.9), cell(0.7)]

    assert _rank(pair, {}) is False
    assert _rank(three, {}) is True
    assert [c.like_best for c in three] == [True, False, True]


def test_stored_samples_go_before_standard_errors(empty):
    # Six samples that one system has right and the other wrong: McNemar's exact p
    # value is 2 / 2^6 = 0.031. Five are 0.0625. The standard errors tell nothing.
    for name, right in (("best", 6), ("five", 1), ("six", 0)):
        values = [1.0] * right + [0.0] * (6 - right)
        empty.append(row(name), [{"metric": "accuracy", "values": values}])

    def column(*names: str) -> list[Cell]:
        shares = {"best": 1.0, "five": 1 / 6, "six": 0.0}
        return [cell(shares[n], 9.0, attempts=[f"0000-{n}"]) for n in names]

    for second, like in (("five", True), ("six", False)):
        cells = column("best", second)
        rank_cells(empty, [[c] for c in cells], ["a", "a"])
        assert [(c.rank, c.like_best) for c in cells] == [(1, False), (2, like)]


def test_samples_of_another_number_are_not_paired():
    samples = {("a", "accuracy"): [1.0] * 6, ("b", "accuracy"): [0.0] * 5}
    best, other = (cell(v, 0.5, attempts=[a]) for v, a in ((1.0, "a"), (0.0, "b")))

    # The gap of 1 with an error of 0.5 root(2) is again erfc(1).
    assert _p_value(best, other, samples) == pytest.approx(math.erfc(1))


def _perplexity(loss: float, error: float, attempt: str) -> Cell:
    value = math.exp(loss)
    made = cell(value, value * error, attempts=[attempt])
    made.key, made.goal = {"metric": "perplexity"}, "min"
    return made


def test_perplexities_are_tested_by_the_losses_of_their_windows():
    losses = {
        ("a", "loss"): [2.0, 3.0, 4.0, 3.5],
        ("b", "loss"): [2.1, 3.3, 4.2, 3.8],
    }
    best, other = _perplexity(3.125, 0.4, "a"), _perplexity(3.35, 0.4, "b")
    want = student(losses["a", "loss"], losses["b", "loss"])

    assert want < 0.05  # windows differ by far more than the two methods do
    assert _p_value(best, other, losses) == pytest.approx(want)
    assert _p_value(best, other, {}) > 0.5


def test_without_losses_a_perplexity_is_compared_on_the_scale_of_the_loss():
    # A wreck of exp(13.5), whose error is half of it, is far from exp(2.8).
    best, wreck = _perplexity(2.8, 0.13, "a"), _perplexity(13.5, 0.5, "b")
    gap = (13.5 - 2.8) / math.hypot(0.13, 0.5)

    p = _p_value(best, wreck, {})
    assert p == pytest.approx(math.erfc(gap / math.sqrt(2)))
    assert p < 1e-9


def test_the_value_of_a_sample_is_its_mean_over_the_seeds():
    samples = {
        ("a", "loss"): [0.0, 1.0, 4.0],
        ("b", "loss"): [1.0, 1.0, 8.0],
        ("c", "loss"): [1.0],
    }
    assert _values(cell(1, attempts=["a", "b"]), "loss", samples) == [0.5, 1.0, 6.0]
    assert _values(cell(1, attempts=["a", "c"]), "loss", samples) == []
    assert _values(cell(1, attempts=["a", "d"]), "loss", samples) == []
    assert _values(cell(1, attempts=[]), "loss", samples) == []


def sentences(
    attempt: str, n: int, correct: float
) -> dict[tuple[str, str], list[float]]:
    """Counts of ``n`` sentences of 10 words, of which a share is right."""
    found = {(attempt, name): [10.0] * n for name in counted("bleu1")}
    found[attempt, "bleu_correct_1"] = [10 * correct] * n
    return found


def test_bleu_is_tested_by_the_counts_of_its_sentences():
    # All sentences of a system are alike: every resampled corpus has the same gap, and
    # the p value is the smallest that 2,000 draws give, or 1 without a gap.
    key = {"metric": "bleu1"}
    best, other = (cell(90, 50.0, attempts=[a], key=key) for a in ("a", "b"))
    worse = sentences("a", 8, 0.9) | sentences("b", 8, 0.8)
    equal = sentences("a", 8, 0.9) | sentences("b", 8, 0.9)

    assert _p_value(best, other, worse) == pytest.approx(1 / 2001)
    assert _p_value(best, other, equal) == 1
    # Another number of sentences: the standard errors are equal, so that p is 1.
    unpaired = sentences("a", 8, 0.9) | sentences("b", 7, 0.8)
    assert _p_value(best, other, unpaired) == 1


def test_counts_that_a_seed_lacks_are_not_used():
    whole = sentences("a", 8, 0.9) | sentences("b", 8, 0.8)
    both = cell(90, attempts=["a", "b"])
    assert [list(c) for c in _counts(both, "bleu1", whole)] == [
        list(counted("bleu1"))
    ] * 2
    assert _counts(both, "accuracy", whole) == []
    lacking = {k: v for k, v in whole.items() if k != ("b", "bleu_total_1")}
    assert _counts(both, "bleu1", lacking) == []
    shorter = whole | {("b", "bleu_total_1"): [10.0] * 7}
    assert _counts(both, "bleu1", shorter) == []


def test_a_group_of_one_is_the_best_of_it(empty):
    one = cell(0.5)
    rank(empty, [[one]])
    assert (one.rank, one.like_best) == (1, False)


def test_one_marked_cell_of_several_is_enough_for_the_note(empty):
    column = [cell(0.90, 0.01), cell(0.89, 0.01), cell(0.2, 0.01)]
    assert _rank(column, {}) is True
    assert [c.like_best for c in column] == [False, True, False]


def test_a_perplexity_is_compared_by_its_loss():
    # The error of a logarithm is the relative error.
    key = {"metric": "word_perplexity"}
    value, error = _with_error(cell(math.exp(2), 0.5, key=key))
    assert (value, error) == (pytest.approx(2), pytest.approx(0.5 / math.exp(2)))
    assert _with_error(cell(1.0, 0.5, key=key)) == (0, pytest.approx(0.5))
    assert _with_error(cell(0.0, 0.5, key=key)) == (0, pytest.approx(0.5))
    assert _with_error(cell(3.0, 0.5)) == (3, pytest.approx(0.5))
    assert _with_error(cell(None)) == (0, 0)


def test_without_counts_of_both_systems_bleu_is_not_tested_by_them():
    key = {"metric": "bleu1"}
    one = cell(50.0, 1.0, key=key, attempts=["a"])
    two = cell(49.0, 1.0, key=key, attempts=["b"])
    samples = {("a", name): [10.0] * 8 for name in counted("bleu1")}

    # By the standard errors: a gap of 1 against root(2).
    assert _p_value(one, two, samples) == pytest.approx(math.erfc(1 / 2))
