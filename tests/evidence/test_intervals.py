"""Intervals and tests against published values and scipy."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binomtest, nct, ttest_rel
from scipy.stats import t as student

from rim_bench.evidence.stats import crossed, intervals, tests


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(k: int, n: int, low: float, high: float) -> None:
    """Newcombe 1998, Statistics in Medicine 17:857, table I, method 3."""
    assert intervals.wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_scipys() -> None:
    for n, level in itertools.product((1, 7, 50, 1319), (0.9, 0.95)):
        for k in {0, 1, n // 3, n}:
            theirs = binomtest(k, n).proportion_ci(level, "wilson")
            assert intervals.wilson(k, n, level) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_between_whole_counts_and_at_the_edges() -> None:
    assert intervals.wilson(40, 100).low < intervals.wilson(40.5, 100).low < intervals.wilson(41, 100).low
    assert intervals.wilson(0, 0) == (0.0, 1.0)
    for k, n in ((5, 4), (-1, 4), (0, -1)):
        with pytest.raises(ValueError, match="not a proportion"):
            intervals.wilson(k, n)


def test_mcnemar_textbook() -> None:
    # Exact two-sided p of Agresti's approval table (86 against 150 discordant) and of small cases worked out by hand
    assert tests.mcnemar(86, 150) == pytest.approx(3.7e-5, rel=0.02)
    assert tests.mcnemar(0, 5) == 2 / 32
    assert tests.mcnemar(1, 9) == pytest.approx(2 * 11 / 1024)
    assert tests.mcnemar(4, 4) == 1.0 == tests.mcnemar(0, 0)


def test_mcnemar_is_the_exact_binomial() -> None:
    for b, c in ((0, 1), (3, 8), (6, 16), (12, 12), (200, 260), (900, 700)):
        assert tests.mcnemar(b, c) == pytest.approx(binomtest(b, b + c).pvalue, rel=1e-9)
        assert tests.mcnemar(b, c, "greater") == pytest.approx(
            binomtest(b, b + c, alternative="greater").pvalue, rel=1e-9
        )
        assert tests.mcnemar(b, c, "less") == pytest.approx(binomtest(b, b + c, alternative="less").pvalue, rel=1e-9)
    with pytest.raises(ValueError, match="not counts"):
        tests.mcnemar(-1, 2)


def test_holm() -> None:
    assert tests.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )  # Holm's own scheme, by hand
    assert tests.holm([0.9, 0.8]) == [1.0, 1.0] and tests.holm([]) == []


@pytest.mark.parametrize(("discordance", "points"), [(0.1, 2.4), (0.2, 3.4), (0.3, 4.2)])
def test_detectable_difference_of_gsm8k(discordance: float, points: float) -> None:
    assert round(100 * tests.detectable_difference(1319, discordance), 1) == points


def test_detectable_difference_has_its_power() -> None:
    """A simulated McNemar test at the stated difference finds it in about 80 % of draws."""
    n, psi = 1319, 0.2
    d = tests.detectable_difference(n, psi)
    rng = np.random.default_rng(1)
    b, c, _ = rng.multinomial(n, [(psi + d) / 2, (psi - d) / 2, 1 - psi], size=4000).T
    found = np.mean(np.abs(b - c) / np.sqrt(b + c) > 1.959964)
    assert 0.77 < found < 0.83
    assert tests.detectable_difference(n, psi, power=0.9) > d > tests.detectable_difference(4 * n, psi)
    assert tests.detectable_difference(1, 1.0) == 1.0 and tests.detectable_difference(100, 0.0) == 0.0
    with pytest.raises(ValueError, match="do not describe"):
        tests.detectable_difference(0, 0.2)


def bootstrap(a: np.ndarray, b: np.ndarray, *, resamples: int = 4000, seed: int = 0) -> intervals.Interval:
    sampler = intervals.Resampler(a.shape[-1], resamples=resamples, seed=seed)
    return sampler.interval(sampler.means(np.atleast_2d(a), "a") - sampler.means(np.atleast_2d(b), "b"))


def test_bootstrap_agrees_with_a_plain_one() -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.random(400) < 0.6).astype(float), (rng.random(400) < 0.5).astype(float)
    plain = [float((a - b)[rng.integers(400, size=400)].mean()) for _ in range(4000)]
    low, high = bootstrap(a, b)
    assert (low, high) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.006)
    assert low < (a - b).mean() < high


def test_bootstrap_is_seeded_and_paired() -> None:
    a = np.array([float(random.Random(1).random() < 0.5) for _ in range(200)])
    assert bootstrap(a, 1 - a, seed=4) == bootstrap(a, 1 - a, seed=4)
    assert bootstrap(a, a) == (0.0, 0.0)  # the same answers: no noise left, which unpaired resampling would have
    assert (
        intervals.Resampler.of(200) is intervals.Resampler.of(200)
        and intervals.Resampler.of(200).resamples == intervals.RESAMPLES
    )


def test_bootstrap_over_seeds_is_wider_and_agrees_with_a_plain_one() -> None:
    """Seeds that differ by much widen the interval; averaging them first would hide that."""
    rng = np.random.default_rng(5)
    a = np.array([rng.random(500) < p for p in (0.3, 0.5, 0.7)], dtype=float)
    b = np.array([rng.random(500) < 0.5 for _ in range(3)], dtype=float)
    two_level, averaged = bootstrap(a, b), bootstrap(a.mean(0), b.mean(0))
    assert two_level.high - two_level.low > 2 * (averaged.high - averaged.low)
    plain = []
    for _ in range(4000):
        items = rng.integers(500, size=500)
        plain.append(float(a[rng.integers(3, size=3)][:, items].mean() - b[rng.integers(3, size=3)][:, items].mean()))
    assert two_level == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.015)


# Seeds: is a difference more than retraining would make of it?


def answers(shares: tuple[float, ...], n: int = 300, seed: int = 0) -> np.ndarray:
    """Seeds with exactly these shares right, on questions of their own."""
    rng = np.random.default_rng(seed)
    return np.array([rng.permutation(np.arange(n) < round(s * n)) for s in shares], dtype=float)


def test_one_question_or_no_spread() -> None:
    same = crossed.paired(np.ones((2, 5)))
    assert (same.se, same.p, same.bound(), same.detectable()) == (0.0, 0.0, 0.0, None)
    assert crossed.paired(np.zeros((2, 5))).p == 1.0 and crossed.paired(np.zeros((2, 5))).p_equivalent(0.02) == 0.0
    one = crossed.paired(np.ones((2, 1)))
    assert one.se == math.inf and one.p == 1.0 == one.p_equivalent(0.5) and one.seeds_needed(0.02) is None
    apart = crossed.apart(np.ones((2, 1)), np.zeros((3, 1)))
    assert apart.bound() == math.inf and apart.p == 1.0


def test_seeds_alone_give_the_paired_t_test() -> None:
    """Where a seed solves all or nothing more, questions add nothing: scipy's paired t test over seeds."""
    a, b = np.array([0.9, 0.6, 0.8, 0.7]), np.array([0.5, 0.4, 0.3, 0.6])
    error = crossed.paired(np.repeat((a - b)[:, None], 200, axis=1))
    expected = ttest_rel(a, b)
    assert error.p == pytest.approx(expected.pvalue) and error.by_question < 1e-30
    assert error.difference - error.bound() == pytest.approx(expected.confidence_interval(0.95).low)
    assert error.p_worse(0.0) == pytest.approx(ttest_rel(a, b, alternative="greater").pvalue)


def test_mean_squares_are_those_of_the_two_way_layout() -> None:
    rng = np.random.default_rng(3)
    d = rng.normal(0.1, 1, (5, 1)) + rng.normal(0, 2, (1, 40)) + rng.normal(0, 0.5, (5, 40))
    error = crossed.paired(d)
    grand = d.mean()
    ms_seeds = 40 * ((d.mean(1) - grand) ** 2).sum() / 4
    ms_questions = 5 * ((d.mean(0) - grand) ** 2).sum() / 39
    rest = ((d - d.mean(1, keepdims=True) - d.mean(0) + grand) ** 2).sum() / (4 * 39)
    assert error.se**2 == pytest.approx((ms_seeds + ms_questions - rest) / 200) and error.freedom == 4
    parts = (error.by_seed, error.by_question, error.rest)
    assert parts == pytest.approx(((ms_seeds - rest) / 40, (ms_questions - rest) / 5, rest))


def test_seeds_needed_decide() -> None:
    """With so many seeds and the same components the pair is decided with 80 % power, with one fewer it is not."""
    a, b = answers((0.793, 0.613, 0.520)), answers((0.437, 0.593, 0.283), seed=1)
    error = crossed.paired(a - b)
    needed = error.seeds_needed(0.02)
    assert needed is not None and 3 < needed < 20

    def power(seeds: int) -> float:
        square = error.by_seed / seeds + error.by_question / 300 + error.rest / (seeds * 300)
        shift, limit = abs(error.difference) / square**0.5, student.ppf(0.975, seeds - 1)
        return float(nct.sf(limit, seeds - 1, shift) + nct.cdf(-limit, seeds - 1, shift))

    assert power(needed) > 0.78 > power(needed - 2)
    stricter = error.seeds_needed(0.02, alpha=0.001)
    assert stricter is not None and stricter > needed


def test_seeds_apart_give_welchs_interval() -> None:
    a, b = answers((0.793, 0.613, 0.520)), answers((0.437, 0.593, 0.283), seed=1)
    error = crossed.apart(a, b)
    square = a.mean(1).var(ddof=1) / 3 + b.mean(1).var(ddof=1) / 3 + (a.mean(0) - b.mean(0)).var(ddof=1) / 300
    assert error.se == pytest.approx(square**0.5) and 3 < error.freedom <= 4
    assert error.bound() == pytest.approx(student.ppf(0.975, error.freedom) * square**0.5)


def test_normal_test_weighs_fractions() -> None:
    d = np.array([-1.0] * 50 + [-0.5] * 100 + [0.0] * 350)
    assert tests.normal_test(d) == pytest.approx(math.erfc(100 / math.sqrt(75) / math.sqrt(2)))
    assert tests.normal_test(np.zeros(5)) == 1.0 == tests.normal_test(np.array([1.0, -1.0]))


def test_scipy_is_loaded_only_where_seeds_are_compared() -> None:
    code = "import sys, rim_bench.evidence.stats.tests; print([m for m in ('scipy', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_moments() -> None:
    values = [5.0, 1.0, 4.0, 2.0]
    assert intervals.mean(values) == 3.0
    assert intervals.spread(values) == pytest.approx(float(np.std(values, ddof=1)))
    assert all(map(math.isnan, (intervals.mean([]), intervals.spread([1.0]))))
