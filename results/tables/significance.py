"""Marks the best cells, the second, and those that a test cannot tell from the best."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from results.queries.db import ask
from results.storage.store import Store
from results.tables.bleu import counted, paired_bleu
from results.tables.cells import Cell
from results.tables.statistics import compare, holm

LEVEL = 0.05  # of the tests
_REACH = 1.959964  # half a 95 % interval of a normal, in standard errors
NOTE = (
    "† not distinguishable from the best at 5 %: paired test over the samples "
    "(McNemar, Student, sign flips, bootstrap, normal), else over the standard errors; "
    "Holm's correction"
)
# A perplexity is the exponential of the mean loss of windows, which are its samples.
LOSS_OF = {"perplexity": "loss"}
Samples = Mapping[tuple[str, str], Sequence[float]]


def rank_cells(
    store: Store, rows: Sequence[Sequence[Cell]], groups: Sequence[str | None]
) -> list[str]:
    """Mark the cells of each column that compete: ``rank`` and ``like_best``.

    Args:
        store: Holds the per-sample values.
        rows: Cells, row by row.
        groups: Of each row; rows of one group compete, those of None with nobody.

    Returns:
        Notes for the reader, where a mark needs one.
    """
    samples = _samples(store, rows)
    marked = False
    for column in zip(*rows, strict=True):
        for group in {group for group in groups if group is not None}:
            rivals = [
                cell
                for cell, own in zip(column, groups, strict=True)
                if own == group and cell.measured is not None
            ]
            if len(rivals) > 1:
                marked |= _rank(rivals, samples)
    return [NOTE] if marked else []


def rank(store: Store, groups: Sequence[Sequence[Cell]]) -> None:
    """Mark the cells of each group as ``place`` does; every cell is measured."""
    samples = _samples(store, groups)
    for rivals in groups:
        _rank(rivals, samples)


def _rank(cells: Sequence[Cell], samples: Samples) -> bool:
    """Rank the cells by what is printed, so that equal prints tie."""
    # A system stands in several rows where several sources published it. It is one
    # rival, and one test of the family: its other cells get the marks of its first.
    first: dict[Hashable, Cell] = {}
    for cell in cells:
        first.setdefault(_system(cell), cell)
    rivals = list(first.values())
    marked = _rank_rivals(rivals, samples)
    for cell in cells:
        own = first[_system(cell)]
        cell.rank, cell.like_best = own.rank, own.like_best
    return marked


def _system(cell: Cell) -> Hashable:
    """Equal for cells of the same trials that show the same number of them."""
    if not cell.attempts:  # a mean of cells
        return id(cell)
    what = (cell.key.get(k) for k in ("metric", "column", "scale", "offset"))
    return (*cell.attempts, *what)


def _rank_rivals(rivals: Sequence[Cell], samples: Samples) -> bool:
    printed = [float(cell.text or "nan") for cell in rivals]
    if rivals[0].goal == "min":  # larger is better from here on
        printed = [-value for value in printed]
    distinct = sorted(set(printed), reverse=True)
    for cell, value in zip(rivals, printed, strict=True):
        cell.rank = 1 + distinct.index(value)
    # Every rival is tested against the best one only: k - 1 tests for k cells, which is
    # the family of Holm's correction.
    best = rivals[printed.index(distinct[0])]
    others = [cell for cell in rivals if cell is not best]
    known = [(c, p) for c in others if (p := _p_value(best, c, samples)) is not None]
    for (cell, _), p in zip(known, holm([p for _, p in known]), strict=True):
        cell.like_best = p > LEVEL
    return any(cell.like_best for cell in others)


def _p_value(best: Cell, other: Cell, samples: Samples) -> float | None:
    """Of the hypothesis that two cells measure the same; None where nothing tells."""
    # In order of power: counts of sentences for a corpus metric, values of samples, and
    # without either the standard errors alone.
    if samples:
        metric = str(best.key.get("metric"))
        counts = [_counts(cell, metric, samples) for cell in (best, other)]
        if all(counts) and len({len(c[0][counted(metric)[0]]) for c in counts}) == 1:
            return paired_bleu(*counts, order=int(metric[-1]))
        sampled = LOSS_OF.get(metric, metric)
        ours, theirs = (_values(cell, sampled, samples) for cell in (best, other))
        if ours and len(ours) == len(theirs):
            return compare(ours, theirs, means=metric in LOSS_OF)[0]
    (one, own), (two, others) = (_with_error(cell) for cell in (best, other))
    spread, gap = math.hypot(own, others), abs(one - two)
    if spread == 0:
        return None
    # z = gap / sqrt(a^2 + b^2) of two independent means; erfc(z / sqrt(2)) is the
    # two-sided p value of a normal.
    return math.erfc(gap / spread / math.sqrt(2))


def _with_error(cell: Cell) -> tuple[float, float]:
    """A number and its standard error; of a perplexity, the loss and that of the loss.

    The error of a perplexity grows with it: a wreck of 700,000 +- 400,000 is nowhere
    near 16, and its loss of 13.5 +- 0.5 says so.
    """
    value = cell.measured or 0.0
    # Back from a 95 % interval to a standard error.
    error = ((cell.high or 0.0) - (cell.low or 0.0)) / (2 * _REACH)
    if str(cell.key.get("metric")).endswith("perplexity") and value > 0:
        return math.log(value), error / value
    return value, error


def _values(cell: Cell, metric: str, samples: Samples) -> list[float]:
    """One value per sample: the mean over the seeds; none where a seed lacks them.

    The seeds of a method read the same samples, so that pooling them would count each
    sample several times.
    """
    found = [samples.get((attempt, metric), ()) for attempt in cell.attempts]
    # Seeds with samples of other lengths, or without any, cannot be paired.
    if len({len(values) for values in found}) != 1:
        return []
    means: list[float] = np.mean(found, axis=0).tolist()
    return means


def _counts(
    cell: Cell, metric: str, samples: Samples
) -> list[dict[str, Sequence[float]]]:
    """The per-sentence counts of a corpus metric, seed by seed; none if any lacks."""
    names = counted(metric)
    found = [
        {name: samples[attempt, name] for name in names if (attempt, name) in samples}
        for attempt in cell.attempts
    ]
    sizes = {len(values) for counts in found for values in counts.values()}
    whole = all(len(counts) == len(names) for counts in found)
    return found if names and whole and len(sizes) == 1 else []


def _samples(store: Store, rows: Sequence[Sequence[Cell]]) -> Samples:
    attempts = {a for row in rows for cell in row for a in cell.attempts}
    if not attempts:
        return {}
    # As a parameter: DuckDB takes seconds to parse a hundred thousand literals.
    sql = """
    SELECT attempt, metric, values FROM samples
    WHERE attempt IN (SELECT unnest($1::VARCHAR[]))
    """
    found = ask(store, sql, [list(attempts)]).rows
    return {(attempt, metric): values for attempt, metric, values in found}
