"""The statistics of the tables by simulation: coverage of every interval, size of every test.

Not part of the suite: a few minutes.

    pytest tests/simulations.py -s

prints each rate with its Monte-Carlo error. Bounds are three such errors beside the nominal rate, wider only where a
method is known to be approximate or cautious, and then it is said. Small versions stand in
tests/evidence: test_intervals, test_tests, test_clustered.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from rim_bench.evidence.stats import clustered as cs
from rim_bench.evidence.stats import intervals, tests

DRAWS = 4000
SEED = 20


def told(name: str, hits: float, draws: int = DRAWS) -> tuple[float, float]:
    """The rate and its Monte-Carlo error, printed."""
    rate = hits / draws
    error = math.sqrt(max(rate * (1 - rate), 1 / draws) / draws)
    print(f"\n  {name}: {100 * rate:.2f} % +- {100 * error:.2f}")
    return rate, error


def item_pairs(rng: np.random.Generator, n: int, psi: float, d: float, draws: int = DRAWS) -> np.ndarray:
    """[draws, 2]: discordant counts of two systems that differ by d at discordance psi."""
    return rng.multinomial(n, [(psi + d) / 2, (psi - d) / 2, 1 - psi], size=draws)[:, :2]


@pytest.mark.parametrize(("n", "p"), [(1319, 0.336), (1319, 0.078), (264, 0.336), (500, 0.97), (1319, 0.005)])
def test_wilson_covers(n: int, p: float) -> None:
    k = np.random.default_rng(SEED).binomial(n, p, 10 * DRAWS)
    bounds = {int(v): intervals.wilson(int(v), n) for v in np.unique(k)}
    rate, error = told(
        f"Wilson 95 %, n = {n}, p = {p}", sum(bounds[int(v)].low <= p <= bounds[int(v)].high for v in k), 10 * DRAWS
    )
    assert abs(rate - 0.95) < 0.02 + 3 * error  # it oscillates with p, most near 0 and 1


@pytest.mark.parametrize(("n", "psi", "d"), [(1319, 0.2, 0.0), (1319, 0.2, 0.04), (3000, 0.05, 0.02), (500, 0.1, 0.02)])
def test_tango_covers(n: int, psi: float, d: float) -> None:
    rng = np.random.default_rng(SEED)
    both = upper = 0
    for b, c in item_pairs(rng, n, psi, d):
        both += abs(tests.score(int(b), int(c), n, d)) <= 1.959964
        upper += float(tests.score(int(b), int(c), n, d)) >= -1.644854  # the one-sided 95 % upper bound is at least d
    rate, error = told(f"Tango 95 %, n = {n}, discordance {psi}, d = {d}", both)
    one, _ = told(f"Tango one-sided upper 95 %, n = {n}, discordance {psi}, d = {d}", upper)
    assert abs(rate - 0.95) < 0.005 + 3 * error and abs(one - 0.95) < 0.01 + 3 * error


@pytest.mark.parametrize(("n", "psi"), [(1319, 0.2), (1319, 0.05), (200, 0.1)])
def test_mcnemar_has_its_size(n: int, psi: float) -> None:
    rng = np.random.default_rng(SEED)
    found = sum(tests.mcnemar(int(b), int(c)) < 0.05 for b, c in item_pairs(rng, n, psi, 0.0))
    rate, error = told(f"exact McNemar at 5 %, n = {n}, discordance {psi}", found)
    assert rate < 0.05 + 3 * error  # exact: never above, and a little below
    called = 0
    for b, c in item_pairs(rng, n, psi, 0.0):
        size = tests.detectable_difference(n, (b + c) / n) if b + c else 1.0
        called += tests.mcnemar(int(b), int(c)) < 0.05 and abs(b - c) / n >= size
    rate, error = told("  and at least the smallest detectable difference", called)
    assert rate < 0.01 + 3 * error


@pytest.mark.parametrize(("n", "psi", "d"), [(1319, 0.2, 0.03), (300, 0.3, 0.0)])
def test_paired_bootstrap_covers(n: int, psi: float, d: float) -> None:
    rng, draws = np.random.default_rng(SEED), 1000
    sampler = intervals.Resampler(n, resamples=1000, seed=1)
    covered = 0
    for b, c in item_pairs(rng, n, psi, d, draws):
        one, two = np.zeros((1, n)), np.zeros((1, n))
        one[0, :b], two[0, b : b + c] = 1, 1
        low, high = sampler.interval(sampler.means(one, "a") - sampler.means(two, "b"))
        covered += low <= d <= high
    rate, error = told(f"paired bootstrap 95 %, n = {n}, discordance {psi}, d = {d}", covered, draws)
    assert abs(rate - 0.95) < 0.01 + 3 * error


def retrained(rng: np.random.Generator, seeds: int, n: int, gap: float, spread: float, items: np.ndarray) -> np.ndarray:
    """[seeds, n] answers: every seed has an accuracy of its own (sd `spread`) around the system's; questions are easy
    or hard for all.
    """
    level = 0.5 + gap + spread * rng.standard_normal((seeds, 1))
    return (rng.random((seeds, n)) < np.clip(level + items, 0.02, 0.98)).astype(float)


@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.0), (3, 0.05), (5, 0.05), (10, 0.02)])
def test_intervals_over_seeds(seeds: int, spread: float) -> None:
    """The t interval over seeds and items covers; the bootstrap over few seeds does not, which is why no verdict rests
    on it.
    """
    rng, draws, n = np.random.default_rng(SEED), 1000, 500
    sampler = intervals.Resampler(n, resamples=500, seed=1)
    t = boot = 0
    for _ in range(draws):
        items = 0.25 * (rng.random(n) - 0.5) * 2
        a, b = retrained(rng, seeds, n, 0.0, spread, items), retrained(rng, seeds, n, 0.0, spread, items)
        bound = tests.retraining_bound(a, b)
        assert bound is not None
        t += abs(a.mean() - b.mean()) <= bound
        low, high = sampler.interval(sampler.means(a, "a") - sampler.means(b, "b"))
        boot += low <= 0 <= high
    rate, error = told(f"t over {seeds} seeds and items 95 %, seed sd {spread}", t, draws)
    boot_rate, _ = told(f"  two-level bootstrap 95 % of the same, {seeds} seeds", boot, draws)
    assert rate > 0.95 - 3 * error  # may be cautious: the items' error is in the seeds' spread, too
    assert boot_rate < rate or spread < 0.05


@pytest.mark.parametrize("seeds", [1, 3])
def test_family_wise_error_of_a_table(seeds: int) -> None:
    """Five equally good systems, ten pairs: how often a table calls any of them higher.

    Holm's family of p holds the error of the questions; that of the seeds is held by each comparison by itself, and
    where it does not stay under 0.05 after Holm over the seeds' p, too, the verdict says "this pair alone". A claim of
    the controls' grid needs the latter.
    """
    rng, draws, n, spread = np.random.default_rng(SEED), 1000, 500, 0.05 if seeds > 1 else 0.0
    any_holm = any_plain = any_called = pairs_called = any_family = 0
    for _ in range(draws):
        items = 0.25 * (rng.random(n) - 0.5) * 2
        systems = [retrained(rng, seeds, n, 0.0, spread, items) for _ in range(5)]
        p, called, over_seeds = [], [], []
        for i in range(5):
            for k in range(i):
                d = systems[i].mean(0) - systems[k].mean(0)
                exact = seeds == 1
                p.append(tests.mcnemar(int((d > 0).sum()), int((d < 0).sum())) if exact else tests.normal_test(d))
                size = tests.detectable_difference(n, min(1.0, float((d * d).mean())))
                bound = tests.retraining_bound(systems[i], systems[k])
                found = tests.retraining(systems[i], systems[k])
                over_seeds.append(0.0 if found is None else found.p)
                called.append(abs(d.mean()) >= size and (bound is None or abs(d.mean()) > bound))
        holm = tests.holm(p)
        any_plain += min(p) < 0.05
        any_holm += min(holm) < 0.05
        pairs_called += sum(h < 0.05 and c for h, c in zip(holm, called, strict=True))
        family = tests.holm(over_seeds)
        any_family += any(h < 0.05 and c and f < 0.05 for h, c, f in zip(holm, called, family, strict=True))
        any_called += any(h < 0.05 and c for h, c in zip(holm, called, strict=True))
    plain, _ = told(f"any of 10 pairs under 5 %, {seeds} seeds, seed sd {spread}, unadjusted", any_plain, draws)
    rate, error = told("  after Holm, over the questions", any_holm, draws)
    told("  any of them called higher (Holm, detectable, over seeds)", any_called, draws)
    whole, whole_error = told("  any of them without 'this pair alone'", any_family, draws)
    assert whole < 0.05 + 3 * whole_error
    each, each_error = told("  called higher, by pair", pairs_called, 10 * draws)
    assert each < 0.05 + 3 * each_error and plain > rate
    if seeds == 1:
        assert rate < 0.05 + 3 * error


def leaning(rng: np.random.Generator, clusters: int, sizes: np.ndarray, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Differences of two equally good systems and their sources:
    inside a source the discordant items lean to one of them.
    """
    labels = np.repeat(np.arange(clusters), sizes)
    lean = np.clip(0.5 + spread * (rng.random(clusters) - 0.5), 0, 1)[labels]
    discordant = rng.random(len(labels)) < 0.3
    return np.where(rng.random(len(labels)) < lean, 1.0, -1.0) * discordant, labels


@pytest.mark.parametrize(
    ("clusters", "size", "spread"), [(100, 13, 0.0), (100, 13, 0.8), (100, 50, 0.8), (20, 50, 0.8), (10, 20, 1.0)]
)
def test_clustered_tests_have_their_size(clusters: int, size: int, spread: float) -> None:
    rng, draws = np.random.default_rng(SEED), 2000
    flip = normal = plain = t = 0
    for _ in range(draws):
        sizes = rng.integers(1, 2 * size, clusters)
        d, labels = leaning(rng, clusters, sizes, spread)
        flip += cs.sign_flip(d, labels) < 0.05
        normal += cs.normal_sign_flip(d, labels) < 0.05
        plain += tests.mcnemar(int((d > 0).sum()), int((d < 0).sum())) < 0.05
        interval = intervals.clustered(d.tolist(), labels.tolist()).interval
        t += interval.low <= 0 <= interval.high
    name = f"{clusters} sources of 1 to {2 * size - 1} items, lean {spread}"
    exact, error = told(f"exact sign-flip at 5 %, {name}", flip, draws)
    approximate, _ = told("  its normal approximation", normal, draws)
    naive, _ = told("  McNemar, which knows no sources", plain, draws)
    covered, _ = told("  clustered t interval 95 % of the difference, coverage", t, draws)
    assert exact < 0.05 + 3 * error and approximate < 0.05 + 3 * error
    assert naive > 0.08 or spread == 0
    assert covered > 0.95 - 3 * error - (
        0.03 if clusters <= 20 else 0.01
    )  # unequal sources: a little short, more so with few


@pytest.mark.parametrize("clusters", [20, 100])
def test_clustered_bootstrap_covers(clusters: int) -> None:
    rng, draws = np.random.default_rng(SEED), 600
    covered = naive = 0
    for _ in range(draws):
        d, labels = leaning(rng, clusters, np.full(clusters, 20), 0.8)
        one, two = (d > 0).astype(float)[None], (d < 0).astype(float)[None]
        for name, labelled in (("by source", tuple(labels.tolist())), ("by item", None)):
            sampler = intervals.Resampler(len(d), resamples=600, seed=1, clusters=labelled)
            low, high = sampler.interval(sampler.means(one, "a") - sampler.means(two, "b"))
            covered, naive = (
                covered + (low <= 0 <= high) * (name == "by source"),
                naive + (low <= 0 <= high) * (name == "by item"),
            )
    rate, error = told(f"bootstrap over {clusters} sources 95 %", covered, draws)
    plain, _ = told("  over items", naive, draws)
    assert rate > 0.95 - 3 * error - (0.03 if clusters <= 20 else 0.01) and plain < rate


def test_power_at_the_detectable_difference_with_clusters() -> None:
    rng, draws, clusters, size = np.random.default_rng(SEED), 1500, 100, 20
    labels = np.repeat(np.arange(clusters), size)
    pilot = [
        cs.detectable_clustered(leaning(rng, clusters, np.full(clusters, size), 0.8)[0], labels) for _ in range(50)
    ]
    shift = (
        float(np.mean([v for v in pilot if v is not None])) / 0.3 / 2
    )  # a share of the discordant items that changes sides
    found = 0
    for _ in range(draws):
        lean = np.clip(0.5 + shift + 0.8 * (rng.random(clusters) - 0.5), 0, 1)[labels]
        discordant = rng.random(len(labels)) < 0.3
        d = np.where(rng.random(len(labels)) < lean, 1.0, -1.0) * discordant
        found += cs.sign_flip(d, labels) < 0.05
    rate, _ = told("power at the smallest detectable difference, 100 sources of 20", found, draws)
    assert 0.7 < rate < 0.9
