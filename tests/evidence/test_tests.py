"""Non-inferiority, equivalence, power and clustered errors: published examples, scipy, exact enumeration,
simulation.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, sem, ttest_1samp
from scipy.stats import t as student

from rim_bench.evidence.power import plan_power
from rim_bench.evidence.stats import crossed, intervals, tests
from rim_bench.util.errors import UsageError


def test_tango_as_published() -> None:
    # Fagerland, Lydersen and Laake 2014, airway hyper-responsiveness (1, 1, 7, 12): Tango's interval (-0.517, -0.026)
    assert tests.score_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)
    # R, PropCIs::scoreci.mp(25, 28, 618, 0.9), whose estimand is (second - first)/n
    assert tests.score_interval(28, 25, 618, 0.9) == pytest.approx((-0.0148, 0.0247), abs=5e-5)


def test_score_at_no_difference_is_mcnemar() -> None:
    for b, c in ((86, 150), (0, 5), (7, 7)):
        assert tests.score(b, c, 500, 0.0) == pytest.approx((b - c) / math.sqrt(b + c))
    assert tests.score(0, 0, 500, 0.0) == 0.0


def test_score_interval_inverts_the_score() -> None:
    for b, c, n in ((30, 12, 400), (3, 0, 50), (0, 0, 40), (200, 210, 1319)):
        low, high = tests.score_interval(b, c, n)
        assert low <= (b - c) / n <= high
        assert tests.score(b, c, n, low) == pytest.approx(1.959964, abs=1e-5)
        assert tests.score(b, c, n, high) == pytest.approx(-1.959964, abs=1e-5)
        assert tests.score_interval(c, b, n) == pytest.approx((-high, -low))
        assert tests.upper_bound(b, c, n, 0.975) == pytest.approx(high)
    assert tests.upper_bound(0, 0, 100) == pytest.approx(1.644854**2 / (100 + 1.644854**2))  # and not 0, as Wald's
    assert tests.score_interval(5, 0, 5).high == pytest.approx(1.0)
    assert tests.score_interval(0, 0, 0) == (-1, 1) and tests.upper_bound(0, 0, 0) == 1


def test_bad_counts_and_margins() -> None:
    for b, c, n in ((-1, 2, 10), (6, 5, 10)):
        with pytest.raises(ValueError, match="not counts"):
            tests.score(b, c, n, 0.1)
    with pytest.raises(ValueError, match="cannot be tested"):
        tests.score(1, 2, 10, 1.0)
    for margin in (0.0, -0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="margin"):
            tests.equivalence(1, 2, 10, margin)


def test_equivalence_is_that_the_90_percent_interval_lies_inside() -> None:
    rng = np.random.default_rng(3)
    both = 0
    for b, c, _ in rng.multinomial(800, [0.04, 0.04, 0.92], size=150):
        low, high = tests.score_interval(int(b), int(c), 800, 0.9)
        p = tests.equivalence(int(b), int(c), 800, 0.02)
        assert (p < 0.05) == (low > -0.02 and high < 0.02)
        assert (tests.noninferiority(int(b), int(c), 800, 0.02) < 0.05) == (low > -0.02)
        both += p < 0.05
    assert 20 < both < 130  # the comparison above says something on both sides
    assert tests.equivalence(0, 0, 0, 0.02) == 1.0


@pytest.mark.parametrize(
    ("n", "psi", "margin"), [(600, 0.1, 0.04), (1319, 0.2, 0.04), (3000, 0.1, 0.02), (3000, 0.02, 0.01)]
)
def test_size_of_noninferiority_and_equivalence(n: int, psi: float, margin: float) -> None:
    """At a true difference of the margin both reject in at most about 5 %: exact, over all outcomes."""
    b, c, p = tests.outcomes(n, psi, -margin)  # the first is worse by the margin
    rejected = tests.score(b, c, n, -margin) > 1.644854
    assert 0.035 < p[rejected].sum() < 0.055
    equivalent = rejected & (tests.score(b, c, n, margin) < -1.644854)
    assert p[equivalent].sum() <= p[rejected].sum() + 1e-12
    for k in np.random.default_rng(0).choice(len(p), 40, p=p / p.sum()):  # and this is what the functions say
        assert (tests.noninferiority(int(b[k]), int(c[k]), n, margin) < 0.05) == rejected[k]
        assert (tests.equivalence(int(b[k]), int(c[k]), n, margin) < 0.05) == equivalent[k]


@pytest.mark.parametrize(("n", "psi", "d"), [(200, 0.1, 0.0), (1319, 0.2, 0.03), (3000, 0.05, 0.05)])
def test_coverage_of_the_score_interval(n: int, psi: float, d: float) -> None:
    b, c, p = tests.outcomes(n, psi, d)
    covered = np.abs(tests.score(b, c, n, d)) <= 1.959964
    assert 0.935 < p[covered].sum() < 0.965


def test_outcomes_are_all_outcomes() -> None:
    for n, psi, d in ((50, 0.3, 0.1), (3000, 0.1, -0.02), (10, 1.0, 1.0), (20, 0.0, 0.0)):
        b, c, p = tests.outcomes(n, psi, d)
        assert p.sum() == pytest.approx(1, abs=1e-8) and (b + c <= n).all() and (c >= 0).all()
        assert (p * (b - c)).sum() / n == pytest.approx(d, abs=1e-7) and (p * (b + c)).sum() / n == pytest.approx(
            psi, abs=1e-7
        )
    rng = np.random.default_rng(1)
    drawn = rng.multinomial(50, [0.2, 0.1, 0.7], size=100_000)
    b, c, p = tests.outcomes(50, 0.3, 0.1)
    assert p[(b >= 14) & (c <= 3)].sum() == pytest.approx(((drawn[:, 0] >= 14) & (drawn[:, 1] <= 3)).mean(), abs=0.003)


def test_exact_power_is_that_of_the_test_in_use() -> None:
    b, c, p = tests.outcomes(60, 0.4, 0.2)
    found = [tests.mcnemar(int(x), int(y)) < 0.05 for x, y in zip(b, c, strict=True)]
    assert tests.exact_power(60, 0.4, 0.2) == pytest.approx(p[found].sum())
    found = [
        binomtest(int(x), int(x + y), alternative="greater").pvalue < 0.05 if x + y else False
        for x, y in zip(b, c, strict=True)
    ]
    assert tests.exact_power(60, 0.4, 0.2, alternative="greater") == pytest.approx(p[found].sum())
    assert tests.exact_power(60, 0.4, 0.0) <= 0.05


def test_power_formula_against_enumeration() -> None:
    """The formula is a normal approximation of the uncorrected test; the exact one finds a little less."""
    for n, psi in ((1319, 0.1), (1319, 0.2), (1319, 0.3), (3000, 0.2)):
        d = tests.detectable_difference(n, psi)
        assert tests.power_of(n, psi, d) == pytest.approx(0.8, abs=2e-3)
        assert 0.74 < tests.exact_power(n, psi, d) < 0.81
        assert abs(tests.items_needed(psi, d) - n) <= 1
    assert tests.power_of(1319, 0.2, 0.0) == pytest.approx(0.05, abs=1e-6) and tests.power_of(100, 0.0, 0.0) == 0.0
    assert tests.power_of(100, 0.3, -0.1) == pytest.approx(tests.power_of(100, 0.3, 0.1))
    assert tests.power_of(30, 1.0, 1.0) == 1.0
    # SCIENCE: 80 % power at a margin of 2 points and n = 1,319 needs a discordance under 8.5 %
    assert (
        tests.power_of(1319, 0.084, 0.02, alternative="greater")
        > 0.8
        > tests.power_of(1319, 0.087, 0.02, alternative="greater")
    )
    for psi, d in ((0.1, 0.2), (1.1, 0.1)):
        with pytest.raises(ValueError, match="discordance"):
            tests.power_of(100, psi, d)
    with pytest.raises(ValueError, match="difference of 0"):
        tests.items_needed(0.1, 0.0)


def test_plan() -> None:
    made = plan_power(1319)
    points = {line.discordance: round(100 * (line.detectable or 0), 1) for line in made.lines}
    assert points[0.1] == 2.4 and points[0.2] == 3.4 and points[0.3] == 4.2
    (line,) = plan_power(1319, 0.2, 3.4).lines
    assert line.power == pytest.approx(0.8, abs=0.02) and line.exact_power is not None and line.exact_power < line.power
    assert plan_power(None, 0.2, 3.4).lines[0].items == pytest.approx(1356, abs=2)
    gate = plan_power(3000, 0.1, margin=2).lines[0].gate
    assert (
        gate is not None
        and gate.false_alarm < 0.001
        and gate.clear > 0.95
        and gate.passed < 0.051
        and gate.caught > 0.5
    )
    assert plan_power(3000, 0.03, margin=2).lines[0].gate.caught_twice is None  # type: ignore[union-attr]
    assert plan_power(10, None, 20.0).lines[0].power is None  # 5 % discordance allows no difference of 20 points
    for kwargs, text in (
        ({"n": None}, "give --n"),
        ({"n": 0}, "--n 0"),
        ({"n": 100, "discordance": 20.0}, "--discordance 20"),
        ({"n": 100, "discordance": math.nan}, "--discordance nan"),
        ({"n": 100, "difference": -1.0}, "--difference -1"),
        ({"n": 100, "discordance": 0.01, "difference": 2.0}, "at least 0.02"),
        ({"n": 100, "power": 1.0}, "--power"),
        ({"n": None, "difference": 2.0, "margin": 2.0}, "--margin needs --n"),
    ):
        with pytest.raises(UsageError, match=text):
            plan_power(**kwargs)  # type: ignore[arg-type]


def test_clustered_error_of_equal_clusters_is_that_of_their_means() -> None:
    rng = np.random.default_rng(0)
    groups = rng.random((30, 8)) < rng.random((30, 1))
    made = intervals.clustered(groups.astype(float).ravel().tolist(), np.repeat(np.arange(30), 8).tolist())
    assert made.mean == pytest.approx(groups.mean()) and made.clusters == 30
    assert made.se == pytest.approx(sem(groups.mean(1)))
    assert made.interval == pytest.approx(student.interval(0.95, 29, groups.mean(), made.se))
    assert made.design_effect > 2


def test_clustered_error_of_single_items_is_the_usual_one() -> None:
    values = [float(v) for v in np.random.default_rng(1).random(50) < 0.3]
    made = intervals.clustered(values, range(50))
    assert made.se == pytest.approx(sem(values)) and made.design_effect == pytest.approx(1)
    with pytest.raises(ValueError, match="at least two"):
        intervals.clustered(values, [0] * 50)
    with pytest.raises(ValueError, match="sources"):
        intervals.clustered(values, [0, 1])


def test_clustered_error_by_hand() -> None:
    # Clusters {1, 1}, {0}, {0, 1}: mean 3/5; sums of deviations 4/5, -3/5, -1/5; √(3/2 · 26/25)/5
    made = intervals.clustered([1, 1, 0, 0, 1], ["a", "a", "b", "c", "c"])
    assert made.se == pytest.approx(math.sqrt(1.5 * 26 / 25) / 5)


def test_coverage_with_clusters() -> None:
    """Items that share a source: the clustered interval covers in about 95 %, the unclustered one in far less."""
    rng = np.random.default_rng(2)
    draws, clusters, size = 600, 40, 10
    covered = naive = 0
    sources = np.repeat(np.arange(clusters), size).tolist()
    for _ in range(draws):
        values = (rng.random((clusters, size)) < rng.beta(1, 1, (clusters, 1))).astype(float).ravel()
        interval = intervals.clustered(values.tolist(), sources).interval
        covered += interval.low <= 0.5 <= interval.high
        naive += abs(values.mean() - 0.5) <= 1.96 * sem(values)
    assert 0.925 < covered / draws < 0.975
    assert naive / draws < 0.8


def test_a_difference_that_no_seed_changes_has_the_error_of_the_questions() -> None:

    d = np.array([1.0, 0, 0, -1, 1, 1, 0, 1] * 5)
    error = crossed.of_questions(d)
    assert error.p == pytest.approx(ttest_1samp(d, 0.0).pvalue) and error.by_seed == 0
    assert crossed.of_questions(np.repeat(d, 4), np.repeat(np.arange(len(d)), 4)).p == pytest.approx(error.p)
    assert crossed.of_questions(np.ones(3), (0, 0, 0)).p == 1.0
