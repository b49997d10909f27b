"""Intervals, paired tests, Holm's correction, Pareto probabilities, ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Reals = Sequence[float] | NDArray[Any]
# Samples up to which all sign flips are counted. A bootstrap of so few underestimates
# p: of 4 samples that all say the same it can give 0.0001, where chance gives 1/8.
FEW = 16
# Samples from which the bootstrap is replaced by its limit: a resampled mean of so many
# is normal, and 10,000 resamples of 10,000 samples take seconds for each pair.
MANY = 1000
_CHUNK = 2_000_000  # numbers a bootstrap draws at once; bounds its memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean with its interval.

    Args:
        mean: Arithmetic mean of the values.
        low: Lower end; equal to the mean where one value says nothing of the spread.
        high: Upper end of the interval.
        n: Number of values in the mean.
    """

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: Reals, level: float = 0.95) -> Estimate:
    """Mean and Student's t interval, over seeds say.

    Args:
        values: The sample; at least one value.
        level: Probability that the interval covers the mean of normal values.

    Returns:
        The estimate; with one value the interval has no width.
    """
    from scipy import special

    given = np.asarray(values, dtype=float)
    mean = float(given.mean())
    if len(given) < 2:
        return Estimate(mean=mean, low=mean, high=mean, n=len(given))
    # s / sqrt(n) with the sample deviation s; the interval is mean +- t(n - 1) s /
    # sqrt(n), with t the (1 + level) / 2 quantile of Student's distribution.
    error = float(given.std(ddof=1)) / math.sqrt(len(given))
    reach = float(special.stdtrit(len(given) - 1, (1 + level) / 2)) * error
    return Estimate(mean=mean, low=mean - reach, high=mean + reach, n=len(given))


def paired_bootstrap(
    a: Reals, b: Reals, *, draws: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p value that two systems differ in their mean on the same samples.

    Differences are shifted to have mean zero and resampled with replacement; the p
    value is how often a resampled mean is as far from zero as the observed one
    (Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 16.4).

    Args:
        a: Values of one system, one per sample.
        b: Values of the other, in the same order.
        draws: Number of bootstrap resamples.
        seed: Seed of the resampling generator.

    Returns:
        In (0, 1]; never 0, since the observed data count as one draw.

    Raises:
        ValueError: If the lengths differ or are zero.
    """
    return _bootstrap(_paired(a, b).tobytes(), draws, seed)


@lru_cache(maxsize=1024)  # the live page asks again after every trial
def _bootstrap(paired: bytes, draws: int, seed: int) -> float:
    """``paired_bootstrap`` of the bytes of float64 differences."""
    differences = np.frombuffer(paired)
    observed = abs(float(differences.mean()))
    # Under the null hypothesis the mean difference is zero: only the deviations are
    # drawn.
    centred = differences - differences.mean()
    random = np.random.default_rng(seed)
    step = max(1, _CHUNK // len(centred))
    extreme = 0
    for start in range(0, draws, step):
        shape = (min(step, draws - start), len(centred))
        # (draws of this chunk, samples) -> (draws of this chunk,)
        means = centred[random.integers(len(centred), size=shape)].mean(axis=1)
        # 1e-12: a mean that equals the observed one up to rounding counts as extreme.
        extreme += int((np.abs(means) >= observed - 1e-12).sum())
    return (extreme + 1) / (draws + 1)


def sign_flips(a: Reals, b: Reals) -> float:
    """Exact two-sided p value that two systems differ in their mean on few samples.

    If neither is better, each difference is as likely to have the other sign: p is the
    share of the ``2^n`` choices of signs whose mean is as far from zero (Fisher 1935,
    The Design of Experiments, section 21).

    Args:
        a: Values of one system, one per sample; at most ``FEW``.
        b: Values of the other, in the same order.

    Returns:
        In (0, 1]; at least ``2 / 2^n`` if a difference is not zero.

    Raises:
        ValueError: If the lengths differ or are zero.
    """
    differences = _paired(a, b)
    # Row i holds the bits of i as signs: (2^n, n) @ (n,) -> (2^n,).
    count = len(differences)
    signs = (np.arange(2**count)[:, None] >> np.arange(count) & 1) * 2 - 1
    sums, observed = np.abs(signs @ differences), abs(float(differences.sum()))
    # 1e-12: a sum that equals the observed one up to rounding counts as extreme.
    return float(np.mean(sums >= observed * (1 - 1e-12)))


def student(a: Reals, b: Reals) -> float:
    """Two-sided p value that two systems differ in their mean on few normal samples.

    Student's paired test: ``t = mean(d) / (s / sqrt(n))`` of the differences d, with
    ``s`` their sample deviation, has ``n - 1`` degrees of freedom (Student 1908,
    doi:10.1093/biomet/6.1.1). It says more than signs where each value is itself a
    mean over many predictions, such as the loss of a window: such means are nearly
    normal.

    Args:
        a: Values of one system, one per sample.
        b: Values of the other, in the same order.

    Returns:
        In [0, 1]; 1 for equal systems, and that of the signs alone where all
        differences are equal.

    Raises:
        ValueError: If the lengths differ or are zero.
    """
    from scipy import special

    differences = _paired(a, b)
    count, spread = len(differences), float(differences.std())
    if spread == 0:
        return 1.0 if differences[0] == 0 else 2.0 ** (1 - count)
    t = abs(float(differences.mean())) / spread * math.sqrt(count - 1)
    return float(2 * special.stdtr(count - 1, -t))


def normal_test(a: Reals, b: Reals) -> float:
    """Two-sided p value that two systems differ in their mean on many samples.

    What ``paired_bootstrap`` tends to: resampled means of the centred differences have
    the variance ``s^2 / n``, with ``s^2`` the mean squared deviation of the ``n``
    differences ``d``, and are normal for large ``n``. Hence
    ``p = erfc(|mean(d)| / (s / sqrt(n)) / sqrt(2))``.

    Args:
        a: Values of one system, one per sample.
        b: Values of the other, in the same order.

    Returns:
        In [0, 1]; 1 for equal systems.

    Raises:
        ValueError: If the lengths differ or are zero.
    """
    differences = _paired(a, b)
    mean, spread = abs(float(differences.mean())), float(differences.std())
    if spread == 0:
        return float(mean == 0)
    return math.erfc(mean / spread * math.sqrt(len(differences) / 2))


def mcnemar(a: Reals, b: Reals) -> float:
    """Exact two-sided p value that two classifiers differ on the same samples.

    Of the samples that exactly one of the two gets right, each is as likely to be the
    one's as the other's (McNemar 1947, doi:10.1007/BF02295996, exact binomial form).

    Args:
        a: 1 for each sample that is right, else 0.
        b: The same of the other, in the same order.

    Returns:
        In (0, 1]; 1 where they are right on the same samples.

    Raises:
        ValueError: If the lengths differ or are zero.
    """
    from scipy import special

    differences = _paired(a, b)
    # Only discordant pairs say something: on the others both are right, or both wrong.
    ours, theirs = int((differences > 0).sum()), int((differences < 0).sum())
    # Both tails of the binomial distribution at 1/2, which is symmetric.
    return min(1.0, 2 * float(special.bdtr(min(ours, theirs), ours + theirs, 0.5)))


def compare(
    a: Reals, b: Reals, *, means: bool = False
) -> tuple[float, Literal["mcnemar", "Student", "sign flips", "bootstrap", "normal"]]:
    """The paired test that fits the values, and its name.

    Args:
        a: Values of one system, one per sample.
        b: Values of the other, in the same order.
        means: Whether each value is a mean over many predictions.

    Returns:
        McNemar's p value where all values are 0 or 1, else that of the normal
        distribution for more than ``MANY`` samples; for fewer, Student's of means, and
        of other values that of all sign flips for at most ``FEW``, else the
        bootstrap's.
    """
    both = np.concatenate([np.asarray(a, dtype=float), np.asarray(b, dtype=float)])
    if np.isin(both, (0.0, 1.0)).all():
        return mcnemar(a, b), "mcnemar"
    if len(a) > MANY:
        return normal_test(a, b), "normal"
    if means:
        return student(a, b), "Student"
    if len(a) <= FEW:
        return sign_flips(a, b), "sign flips"
    return paired_bootstrap(a, b), "bootstrap"


def holm(p_values: Reals) -> list[float]:
    """P values corrected for their number (Holm 1979, jstor:4615733).

    Args:
        p_values: Of the tests of one family.

    Returns:
        Corrected ones in the same order, at most 1: compare each with the level.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    # The smallest p value is multiplied by m, the next one by m - 1, and so on. The
    # running maximum keeps the order: no value is more significant than one before it.
    order = np.argsort(p_values, kind="stable")
    corrected = [0.0] * len(order)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, float(p_values[index]) * (len(order) - rank))
        corrected[index] = min(1.0, largest)
    return corrected


def on_front(quality: Reals, size: Reals) -> NDArray[np.bool_]:
    """Which points no other point beats: more quality is better, less size is.

    Args:
        quality: One a point, larger is better.
        size: One a point, smaller is better.

    Returns:
        One truth value a point. Equal points are all on the front.
    """
    q, s = np.asarray(quality, dtype=float), np.asarray(size, dtype=float)
    # Entry (i, j): whether point j is at least as good as point i in both, and better
    # in one. Row i is dominated if any j is both.
    as_good = (q[None, :] >= q[:, None]) & (s[None, :] <= s[:, None])
    better = (q[None, :] > q[:, None]) | (s[None, :] < s[:, None])
    front: NDArray[np.bool_] = np.asarray(~(as_good & better).any(axis=1))
    return front


def front_probability(
    quality: Reals, stderr: Reals, size: Reals, *, draws: int = 2_000, seed: int = 0
) -> NDArray[np.float64]:
    """How probable it is that each point is on the Pareto front.

    Qualities are drawn from independent normals around their means; sizes are exact.

    Args:
        quality: Means, larger is better.
        stderr: Their standard errors; 0 or NaN for one that is not known.
        size: Costs of the methods; smaller is better.
        draws: Number of Monte Carlo draws.
        seed: Seed of the random draws.

    Returns:
        Shares of the draws in which each point is on the front.
    """
    random = np.random.default_rng(seed)
    means = np.asarray(quality, dtype=float)
    # An unknown error counts as 0: the point is exact.
    errors = np.nan_to_num(np.asarray(stderr, dtype=float))
    count = np.zeros(len(means))
    for _ in range(draws):
        count += on_front(random.normal(means, errors), size)
    shares: NDArray[np.float64] = count / draws
    return shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Methods ranked over tasks.

    Args:
        mean: Mean rank of each method; 1 is best, ties share the mean of their ranks.
        critical_difference: Two methods whose mean ranks differ by less are not told
            apart (Nemenyi).
        p_value: Friedman's, that all methods are equal.
        tasks: Number of tasks that were ranked.
    """

    mean: dict[str, float]
    critical_difference: float
    p_value: float
    tasks: int


def critical_difference(
    scores: Mapping[str, Sequence[float]], *, level: float = 0.05
) -> Ranks:
    """Mean ranks over many tasks with Nemenyi's critical difference.

    Demsar 2006, Statistical comparisons of classifiers over multiple data sets
    (jmlr.org/papers/v7/demsar06a): CD = q sqrt(k (k + 1) / 6 N), q from the
    studentised range.

    Args:
        scores: Method -> one score per task, larger is better, tasks in equal order.
        level: Significance level of the test, in (0, 1).

    Returns:
        The ranks.

    Raises:
        ValueError: With fewer than two methods or two tasks.
    """
    from scipy import stats

    table = np.array(list(scores.values()), dtype=float).T  # (tasks, methods)
    if table.ndim != 2 or min(table.shape) < 2:
        raise ValueError("ranks need two methods and two tasks at least")
    tasks, methods = table.shape
    # Rank 1 is the largest score of a task: (tasks, methods).
    ranks = stats.rankdata(-table, axis=1)
    # Demsar's table 5 is the quantile of the studentised range over sqrt(2).
    q = stats.studentized_range.ppf(1 - level, methods, np.inf) / math.sqrt(2)
    # Friedman's test needs three methods; two have Wilcoxon's signed-rank test instead.
    # Both divide by zero if all methods always tie.
    if bool((ranks == ranks[:, :1]).all()):
        p = 1.0
    elif methods == 2:
        p = float(stats.wilcoxon(table[:, 0], table[:, 1]).pvalue)
    else:
        p = float(stats.friedmanchisquare(*table.T).pvalue)
    return Ranks(
        mean=dict(zip(scores, map(float, ranks.mean(axis=0)), strict=True)),
        critical_difference=float(q) * math.sqrt(methods * (methods + 1) / (6 * tasks)),
        p_value=p,
        tasks=tasks,
    )


def indistinguishable(ranks: Reals, difference: float) -> list[tuple[int, int]]:
    """Groups of methods whose mean ranks a critical difference does not tell apart.

    Args:
        ranks: Mean ranks in rising order.
        difference: The critical difference; ranks that differ by as much are different.

    Returns:
        The first and the last index of each group of two or more that no other group
        contains, as a critical difference diagram joins them (Demsar 2006, figure 1).

    >>> indistinguishable([1.0, 1.5, 2.2, 4.0], 1.0)
    [(0, 1), (1, 2)]
    """
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(i for i, other in enumerate(ranks) if other - rank < difference)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def _paired(a: Reals, b: Reals) -> NDArray[np.float64]:
    if len(a) != len(b) or not len(a):
        raise ValueError(f"paired values need equal lengths, not {len(a)} and {len(b)}")
    return np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
