"""Intervals and tests against published values and scipy."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from scipy.stats import binomtest

from rim_bench import stats


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(k: int, n: int, low: float, high: float) -> None:
    """Newcombe 1998, Statistics in Medicine 17:857, table I, method 3."""
    assert stats.wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_scipys() -> None:
    for n, level in itertools.product((1, 7, 50, 1319), (0.9, 0.95)):
        for k in {0, 1, n // 3, n}:
            theirs = binomtest(k, n).proportion_ci(level, "wilson")
            assert stats.wilson(k, n, level) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_between_whole_counts_and_at_the_edges() -> None:
    assert stats.wilson(40, 100).low < stats.wilson(40.5, 100).low < stats.wilson(41, 100).low
    assert stats.wilson(0, 0) == (0.0, 1.0)
    for k, n in ((5, 4), (-1, 4), (0, -1)):
        with pytest.raises(ValueError, match="not a proportion"):
            stats.wilson(k, n)


def test_mcnemar_textbook() -> None:
    # Exact two-sided p of Agresti's approval table (86 against 150 discordant) and of small cases worked out by hand
    assert stats.mcnemar(86, 150) == pytest.approx(3.7e-5, rel=0.02)
    assert stats.mcnemar(0, 5) == 2 / 32
    assert stats.mcnemar(1, 9) == pytest.approx(2 * 11 / 1024)
    assert stats.mcnemar(4, 4) == 1.0 == stats.mcnemar(0, 0)


def test_mcnemar_is_the_exact_binomial() -> None:
    for b, c in ((0, 1), (3, 8), (6, 16), (12, 12), (200, 260), (900, 700)):
        assert stats.mcnemar(b, c) == pytest.approx(binomtest(b, b + c).pvalue, rel=1e-9)
        assert stats.mcnemar(b, c, "greater") == pytest.approx(binomtest(b, b + c, alternative="greater").pvalue, rel=1e-9)
        assert stats.mcnemar(b, c, "less") == pytest.approx(binomtest(b, b + c, alternative="less").pvalue, rel=1e-9)
    with pytest.raises(ValueError, match="not counts"):
        stats.mcnemar(-1, 2)


def test_holm() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm's own scheme, by hand
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0] and stats.holm([]) == []


@pytest.mark.parametrize(("discordance", "points"), [(0.1, 2.4), (0.2, 3.4), (0.3, 4.2)])
def test_detectable_difference_of_gsm8k(discordance: float, points: float) -> None:
    assert round(100 * stats.detectable_difference(1319, discordance), 1) == points


def test_detectable_difference_has_its_power() -> None:
    """A simulated McNemar test at the stated difference finds it in about 80 % of draws."""
    n, psi = 1319, 0.2
    d = stats.detectable_difference(n, psi)
    rng = np.random.default_rng(1)
    b, c, _ = rng.multinomial(n, [(psi + d) / 2, (psi - d) / 2, 1 - psi], size=4000).T
    found = np.mean(np.abs(b - c) / np.sqrt(b + c) > 1.959964)
    assert 0.77 < found < 0.83
    assert stats.detectable_difference(n, psi, power=0.9) > d > stats.detectable_difference(4 * n, psi)
    assert stats.detectable_difference(1, 1.0) == 1.0 and stats.detectable_difference(100, 0.0) == 0.0
    with pytest.raises(ValueError, match="do not describe"):
        stats.detectable_difference(0, 0.2)


def test_bootstrap_agrees_with_a_plain_one() -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.random(400) < 0.6).astype(float), (rng.random(400) < 0.5).astype(float)
    plain = [float((a - b)[rng.integers(400, size=400)].mean()) for _ in range(4000)]
    low, high = stats.paired_bootstrap(a, b)
    assert (low, high) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.006)
    assert low < (a - b).mean() < high


def test_bootstrap_is_seeded_and_paired() -> None:
    a = [float(random.Random(1).random() < 0.5) for _ in range(200)]
    b = [1 - v for v in a]
    assert stats.paired_bootstrap(a, b, seed=4) == stats.paired_bootstrap(a, b, seed=4)
    assert stats.paired_bootstrap(a, a) == (0.0, 0.0)  # the same answers: no noise left, which unpaired resampling would have
    with pytest.raises(ValueError, match="paired items"):
        stats.paired_bootstrap([1.0], [1.0, 0.0])


def test_bootstrap_over_seeds_is_wider() -> None:
    """Seeds that differ by much widen the interval; averaging them first would hide that."""
    rng = np.random.default_rng(5)
    a = np.array([rng.random(500) < p for p in (0.3, 0.5, 0.7)], dtype=float)
    b = np.array([rng.random(500) < 0.5 for _ in range(3)], dtype=float)
    two_level, averaged = stats.paired_bootstrap(a, b), stats.paired_bootstrap(a.mean(0), b.mean(0))
    assert two_level.high - two_level.low > 2 * (averaged.high - averaged.low)
    assert two_level == stats.paired_bootstrap(a, b)


def test_quantiles_and_moments() -> None:
    values = [5.0, 1.0, 4.0, 2.0]
    for q in (0.0, 0.1, 0.5, 0.95, 1.0):
        assert stats.quantile(values, q) == pytest.approx(float(np.quantile(values, q)))
    assert stats.median(values) == 3.0 and stats.mean(values) == 3.0
    assert stats.spread(values) == pytest.approx(float(np.std(values, ddof=1)))
    assert all(map(math.isnan, (stats.median([]), stats.mean([]), stats.spread([1.0]))))
    with pytest.raises(ValueError, match="not in"):
        stats.quantile(values, 95)
