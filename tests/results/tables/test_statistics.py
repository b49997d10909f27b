"""Each formula against a hand-worked case or a second implementation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from results.tables import statistics


def test_the_mean_interval_is_students():
    # 2, 4, 6: mean 4, deviation 2, error 2 / sqrt(3); t(0.975, 2) = 4.302653.
    found = statistics.mean_interval([2.0, 4.0, 6.0])
    reach = 4.302653 * 2 / math.sqrt(3)
    assert found.mean == 4
    assert (found.low, found.high) == pytest.approx((4 - reach, 4 + reach), rel=1e-6)


def test_two_values_have_an_interval():
    # 0, 2: mean 1, deviation root(2), error 1; t(0.975, 1) = tan(0.475 pi).
    reach = math.tan(0.475 * math.pi)
    found = statistics.mean_interval([0.0, 2.0])
    assert (found.low, found.high) == pytest.approx((1 - reach, 1 + reach))
    # With one degree of freedom half of the distribution is between -1 and 1.
    found = statistics.mean_interval([0.0, 2.0], level=0.5)
    assert (found.low, found.high) == pytest.approx((0, 2))


def test_one_value_has_an_interval_without_width():
    found = statistics.mean_interval([0.7])
    assert (found.low, found.high, found.n) == (0.7, 0.7, 1)


def test_mcnemar_is_the_exact_binomial():
    # 8 samples only a is right on, 2 only b: 2 (1 + 10 + 45) / 2^10 = 112 / 1024.
    a = [1] * 8 + [0] * 2 + [1] * 5
    b = [0] * 8 + [1] * 2 + [1] * 5
    assert statistics.mcnemar(a, b) == pytest.approx(112 / 1024)
    assert statistics.mcnemar(b, a) == pytest.approx(112 / 1024)
    assert statistics.mcnemar(a, a) == 1.0
    # One sample each: twice the 3 / 4 of at most one of two is more than certain.
    assert statistics.mcnemar([1, 0], [0, 1]) == 1.0
    assert statistics.mcnemar([1, 1], [0, 1]) == 1.0


def test_the_bootstrap_agrees_with_all_resamples_of_a_small_case():
    # Every one of the 4^4 resamples of the centred differences, counted by hand.
    a, b = [3.0, 5.0, 4.0, 6.0], [2.0, 5.0, 1.0, 5.0]
    differences = np.subtract(a, b)
    centred = differences - differences.mean()
    means = [np.mean(pick) for pick in itertools.product(centred, repeat=4)]
    exact = np.mean(np.abs(means) >= abs(differences.mean()) - 1e-12)
    found = statistics.paired_bootstrap(a, b, draws=100_000)
    assert found == pytest.approx(exact, abs=0.005)


def test_the_bootstrap_agrees_with_students_paired_test_on_many_samples():
    random = np.random.default_rng(1)
    a = random.normal(0.0, 1.0, 400)
    b = a + random.normal(0.08, 1.0, 400)
    differences = a - b
    t = abs(differences.mean()) / (differences.std(ddof=1) / 400**0.5)
    found = statistics.paired_bootstrap(a, b, draws=20_000)
    assert found == pytest.approx(2 * stats.t.sf(t, 399), abs=0.01)


def test_the_bootstrap_never_says_zero_and_knows_equal_systems():
    assert statistics.paired_bootstrap([2.0] * 9, [1.0] * 9, draws=99) == 0.01
    assert statistics.paired_bootstrap([1.0, 2.0], [1.0, 2.0]) == 1.0
    # Equal differences are never drawn from centred ones: the observed data alone of
    # 10,000 draws and itself.
    assert statistics.paired_bootstrap([2.0] * 9, [1.0] * 9) == 1 / 10_001


@pytest.mark.parametrize(("numbers", "rows"), [(20, [2, 2, 1]), (4, [1] * 5)])
def test_the_bootstrap_draws_a_bounded_number_of_numbers_at_once(
    monkeypatch, numbers, rows
):
    shapes = []

    class Fixed:
        def integers(self, _high, size):
            shapes.append(size)
            return np.zeros(size, dtype=int)

    monkeypatch.setattr(statistics, "_CHUNK", numbers)
    monkeypatch.setattr(statistics.np.random, "default_rng", lambda seed: Fixed())
    # Other values each time: an answer that is known is not computed again.
    given = [float(n + numbers) for n in range(8)]
    statistics.paired_bootstrap(given, [0.0] * 8, draws=5)

    assert shapes == [(count, 8) for count in rows]


@pytest.mark.parametrize("lengths", [(2, 3), (0, 0)])
def test_unpaired_values_are_refused(lengths):
    with pytest.raises(ValueError, match="equal lengths"):
        statistics.mcnemar([1] * lengths[0], [1] * lengths[1])


def test_compare_takes_mcnemar_for_right_and_wrong_only():
    assert statistics.compare([1.0, 0.0], [0.0, 0.0])[1] == "mcnemar"
    assert statistics.compare([1.0, 0.5], [0.0, 0.0])[1] == "sign flips"
    assert statistics.compare([0.5] * 16, [0.0] * 16)[1] == "sign flips"
    assert statistics.compare([0.5] * 17, [0.0] * 17)[1] == "bootstrap"
    assert statistics.compare([0.5] * 1000, [0.0] * 1000)[1] == "bootstrap"
    assert statistics.compare([0.5] * 1001, [0.0] * 1001)[1] == "normal"


def test_the_normal_test_is_the_limit_of_the_bootstrap_on_skewed_samples():
    # Differences of an exponential are skewed: the hardest kind for the limit.
    random = np.random.default_rng(3)
    a = random.exponential(1.0, 1500)
    b = np.zeros(1500) + 1.04
    p = statistics.normal_test(a, b)
    assert 0.05 < p < 0.5
    found = statistics.paired_bootstrap(a, b, draws=20_000)
    assert found == pytest.approx(p, abs=0.012)
    # Student's test differs by the variance's n - 1 and by its own distribution only.
    assert stats.ttest_rel(a, b).pvalue == pytest.approx(p, rel=2e-3)


def test_the_normal_test_is_that_of_a_hand_count():
    # Differences 2, 2, 0, 0: mean 1, s = 1, z = 1 / (1 / sqrt(4)) = 2; two tails beyond
    # two standard deviations of a normal have 4.5500 %.
    found = statistics.normal_test([2, 2, 1, 1], [0, 0, 1, 1])
    assert found == pytest.approx(0.0455003)
    # Neither depends on the unit of the values.
    found = statistics.normal_test([20, 20, 1, 1], [0, 0, 1, 1])
    assert found == pytest.approx(0.0455003)
    assert statistics.normal_test([1.0] * 9, [0.0] * 9) == 0.0
    assert statistics.normal_test([1.0] * 9, [1.0] * 9) == 1.0


def test_sign_flips_are_those_of_a_hand_count():
    # Differences 3, 1, -1 sum to 3. The eight choices of signs give 5, 3, 3, 1, -1, -3,
    # -3 and -5: six are as far from 0.
    assert statistics.sign_flips([3.0, 1.0, 0.0], [0.0, 0.0, 1.0]) == 6 / 8
    # All in one direction: only all signs as they are or all of them turned.
    assert statistics.sign_flips([1.0, 2.0, 3.0, 4.0], [0.0] * 4) == 2 / 16
    assert statistics.sign_flips([1.0, 2.0], [1.0, 2.0]) == 1.0
    many = np.random.default_rng(0).normal(0.5, 1.0, 16)
    signs = np.array(list(itertools.product((-1, 1), repeat=16)))
    exact = np.mean(abs(signs @ many) >= abs(many.sum()) * (1 - 1e-9))
    assert statistics.sign_flips(many, [0.0] * 16) == pytest.approx(exact)


def test_student_is_that_of_a_hand_calculation():
    # Differences 1, 2, 3: mean 2, deviation 1, t = 2 root(3) with 2 degrees of freedom,
    # where p = 1 - t / root(t^2 + 2).
    t = 2 * math.sqrt(3)
    want = 1 - t / math.sqrt(t**2 + 2)
    assert statistics.student([1.0, 2.0, 3.0], [0.0] * 3) == pytest.approx(want)
    # Equal differences have no spread, so that only their signs say something.
    assert statistics.student([2.0] * 4, [1.0] * 4) == 2 / 16
    assert statistics.student([2.0] * 4, [2.0] * 4) == 1.0
    assert statistics.student([2.0], [1.0]) == 1.0  # one sample says nothing


def test_means_are_compared_by_student_as_long_as_they_are_not_many():
    for count, test in ((2, "Student"), (1000, "Student"), (1001, "normal")):
        given = np.random.default_rng(0).normal(size=count)
        found = statistics.compare(given, [0.0] * count, means=True)
        assert found[1] == test
    p, _ = statistics.compare([3.0, 1.0, 2.0, 2.5], [0.0] * 4, means=True)
    assert p == statistics.student([3.0, 1.0, 2.0, 2.5], [0.0] * 4)


def test_holm_is_the_step_down_of_the_paper():
    # Sorted: 0.005*4=0.02, 0.01*3=0.03, 0.03*2=0.06, 0.04*1=0.04 -> 0.06.
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )
    assert statistics.holm([0.5, 0.9]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_holm_is_between_no_correction_and_bonferroni():
    p = np.random.default_rng(0).random(20) ** 3
    corrected = np.array(statistics.holm(p))
    assert (corrected >= p).all()
    assert (corrected <= np.minimum(1, 20 * p) + 1e-12).all()


def test_the_front_is_what_brute_force_finds():
    random = np.random.default_rng(0)
    quality = random.integers(0, 6, 60)
    size = random.integers(0, 6, 60)
    wanted = [
        not any(
            q >= quality[i] and s <= size[i] and (q > quality[i] or s < size[i])
            for q, s in zip(quality, size, strict=True)
        )
        for i in range(60)
    ]
    assert statistics.on_front(quality, size).tolist() == wanted


def test_front_probability_is_normal_theory_for_two_points():
    # The larger point stays on the front iff it draws a higher quality:
    # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt(2)).
    found = statistics.front_probability([0.0, 1.0], [1.0, 1.0], [1, 2], draws=20_000)
    assert found[0] == 1.0  # the smallest is always on the front
    assert found[1] == pytest.approx(stats.norm.cdf(1 / math.sqrt(2)), abs=0.01)
    shares = 2000 * statistics.front_probability([0.0, 1.0], [1.0, 1.0], [1, 2])
    assert shares.tolist() == pytest.approx(shares.round().tolist())
    assert 0 < shares[1] < 2000


def test_without_errors_the_front_is_certain():
    found = statistics.front_probability([1.0, 0.5], [0.0, math.nan], [1, 2], draws=10)
    assert found.tolist() == [1.0, 0.0]


def test_the_critical_difference_of_demsar():
    # Demsar 2006, section 3.2.2: 4 classifiers, 14 data sets, q(0.05) = 2.569:
    # CD = 2.569 sqrt(4 * 5 / (6 * 14)) = 1.25.
    random = np.random.default_rng(0)
    scores = {name: random.random(14).tolist() for name in "abcd"}
    found = statistics.critical_difference(scores)
    assert found.critical_difference == pytest.approx(1.25, abs=0.005)
    assert sum(found.mean.values()) == pytest.approx(10)


def test_the_groups_of_demsars_example():
    # Demsar 2006, section 3.2.2: mean ranks of C4.5 with and without two parameters on
    # 14 data sets. At 5 % (CD 1.25) no two differ; at 10 % (CD 1.12) plain C4.5 is
    # worse than +m and +m+cf, and C4.5+cf belongs to either group.
    ranks = {"+m+cf": 1.964, "+m": 2.0, "+cf": 2.893, "plain": 3.143}
    for difference, groups in ((1.25, [(0, 3)]), (1.12, [(0, 2), (2, 3)])):
        found = statistics.indistinguishable(list(ranks.values()), difference)
        assert found == groups


def test_ranks_that_differ_by_the_critical_difference_are_told_apart():
    assert statistics.indistinguishable([1.0, 2.0], 1.0) == []
    assert statistics.indistinguishable([1.0, 1.0, 1.0], 0.5) == [(0, 2)]


def test_ranks_share_ties_and_the_best_is_one():
    scores = {"a": [0.9, 0.9, 0.9], "b": [0.5, 0.5, 0.5], "c": [0.5, 0.5, 0.5]}
    assert statistics.critical_difference(scores).mean == {"a": 1.0, "b": 2.5, "c": 2.5}


def test_ranks_of_one_method_are_refused():
    with pytest.raises(ValueError, match="two methods"):
        statistics.critical_difference({"a": [1.0, 2.0]})


@pytest.mark.parametrize("scores", [{"a": [1.0], "b": [2.0]}, {"a": [1.0]}, {}])
def test_ranks_of_one_task_are_refused(scores):
    with pytest.raises(ValueError, match="two tasks"):
        statistics.critical_difference(scores)


def test_two_methods_on_two_tasks_are_the_least_that_has_ranks():
    found = statistics.critical_difference({"a": [0.9, 0.8], "b": [0.1, 0.2]})

    assert found.mean == {"a": 1.0, "b": 2.0}
    assert found.tasks == 2


def test_two_methods_are_compared_by_signed_ranks_and_three_by_friedman():
    # Six differences of one sign: two of the 2^6 signs are as extreme, p = 1 / 32.
    # Friedman of three methods in the same order on six tasks: chi-squared = 12 of two
    # degrees of freedom, p = exp(-6).
    best = [0.9, 0.8, 0.7, 0.6, 0.55, 0.5]
    middle = [v - 0.1 - 0.01 * i for i, v in enumerate(best)]
    worst = [v - 0.5 for v in best]
    two = statistics.critical_difference({"a": best, "b": middle})
    three = statistics.critical_difference({"a": best, "b": middle, "c": worst})

    assert two.p_value == pytest.approx(1 / 32)
    assert three.p_value == pytest.approx(math.exp(-6))


def test_methods_that_always_tie_do_not_differ():
    for names in ("ab", "abc"):
        scores = {name: [0.5, 0.6, 0.7] for name in names}
        assert statistics.critical_difference(scores).p_value == 1
