"""The statistics of the tables by simulation: coverage of every interval, size of every test.

Not part of the suite: a few minutes.

    pytest tests/simulations.py -s

prints each rate with its Monte-Carlo error. Bounds are three such errors beside the nominal rate, wider only where a
method is known to be approximate or cautious, and then it is said. Small versions stand in
tests/evidence: test_intervals, test_tests, test_clustered.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import t as student

from rim_bench.evidence import gate
from rim_bench.evidence.stats import clustered as cs
from rim_bench.evidence.stats import crossed, intervals, tests

DRAWS = 4000
SEED = 20


def told(name: str, hits: float, draws: int = DRAWS) -> tuple[float, float]:
    """The rate and its Monte-Carlo error, printed."""
    rate = hits / draws
    error = math.sqrt(max(rate * (1 - rate), 1 / draws) / draws)
    print(f"\n  {name}: {100 * rate:.2f} % +- {100 * error:.2f}")
    return rate, error


def check_is_red(
    rng: np.random.Generator, sizes: list[int], of: str, runs: int, psi: float, margin: float, losses: list[float]
) -> bool:
    """One check by the gate's rule: runs with parts of these sizes, which lose these shares, at discordance psi.

    of: what the parts are: "levels", "sources", or "both" (each level is a source, too).
    """
    drawn = [
        [rng.multinomial(n, [(psi + d) / 2, (psi - d) / 2, 1 - psi])[:2] for n, d in zip(sizes, losses, strict=True)]
        for _ in range(runs)
    ]
    cells = [(int(b), int(c), n) for run in drawn for (b, c), n in zip(run, sizes, strict=True)]
    wholes = [(sum(int(b) for b, _ in run), sum(int(c) for _, c in run), sum(sizes)) for run in drawn]
    kinds = [cells] * {"levels": 1, "sources": 1, "both": 2}[of]
    p = gate.adjust(*([tests.mcnemar(b, c, "greater") for b, c, _ in group] for group in (wholes, *kinds)))
    return any(
        value < gate.ALPHA and (b - c) / n >= margin - 1e-12
        for group, values in zip((wholes, *kinds), p, strict=True)
        for (b, c, n), value in zip(group, values, strict=True)
    )


@pytest.mark.parametrize(
    ("sizes", "of", "runs", "psi"),
    [
        ([1000] * 3, "levels", 1, 0.2),
        ([1000] * 3, "levels", 3, 0.2),
        ([1000] * 3, "both", 3, 0.02),
        ([110] * 12, "levels", 1, 0.2),
        ([13] * 100, "sources", 1, 0.2),
        ([250] * 2, "both", 5, 0.4),
    ],
)
@pytest.mark.parametrize("margin", [0.0, 0.02])
def test_a_check_of_unchanged_runs_is_rarely_red(
    sizes: list[int], of: str, runs: int, psi: float, margin: float
) -> None:
    """Under 5 % of checks, with no margin at all, too."""
    rng = np.random.default_rng(SEED)
    red = sum(check_is_red(rng, sizes, of, runs, psi, margin, [0.0] * len(sizes)) for _ in range(DRAWS))
    name = f"check of {runs} unchanged runs, {len(sizes)} {of} of {sizes[0]}, discordance {psi}, margin {margin}"
    rate, error = told(name, red)
    assert rate < 0.05 + 3 * error


@pytest.mark.parametrize(("loss", "least"), [(0.05, 0.5), (0.08, 0.95), (0.5, 1.0)])
def test_a_check_finds_a_loss_that_another_level_makes_up_for(loss: float, least: float) -> None:
    rng, draws = np.random.default_rng(SEED), 1000
    psi = max(0.2, loss)
    red = sum(check_is_red(rng, [1000] * 3, "levels", 1, psi, 0.02, [loss, 0.0, -loss]) for _ in range(draws))
    rate, error = told(f"check, T = 1 loses {100 * loss:g} points of 1,000 and T = 3 wins them", red, draws)
    assert rate >= least - 3 * error


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


Effects = Callable[[np.random.Generator, int], np.ndarray]


def normal(spread: float) -> Effects:
    return lambda rng, seeds: spread * rng.standard_normal(seeds)


def two_kinds(spread: float) -> Effects:
    """Half of the trainings find it, half do not: what seeds of a method in the middle of a transition look like."""
    return lambda rng, seeds: spread * np.where(rng.random(seeds) < 0.5, -1.0, 1.0)


def retrained(
    rng: np.random.Generator, seeds: int, n: int, gap: float, effects: Effects, items: np.ndarray, shared: np.ndarray
) -> np.ndarray:
    """[seeds, n] answers: every seed has an accuracy of its own around the system's, and an effect `shared` with the
    other systems of that seed (start, order); questions are easy or hard for all.
    """
    level = 0.5 + gap + (effects(rng, seeds) + shared)[:, None]
    return (rng.random((seeds, n)) < np.clip(level + items, 0.0, 1.0)).astype(float)


def paired_error(
    rng: np.random.Generator, seeds: int, n: int, gap: float, effects: Effects, common: float = 0.05
) -> crossed.SeedsAndQuestions:
    items, shared = 0.25 * (rng.random(n) - 0.5) * 2, common * rng.standard_normal(seeds)
    a, b = (retrained(rng, seeds, n, g, effects, items, shared) for g in (gap / 2, -gap / 2))
    return crossed.paired(a - b)


@pytest.mark.parametrize(
    "effects",
    [normal(0.0), normal(0.05), normal(0.12), two_kinds(0.12)],
    ids=["no spread", "sd 5", "sd 12", "two kinds"],
)
@pytest.mark.parametrize("seeds", [2, 3, 5, 10, 20])
def test_paired_by_seed_has_its_size(seeds: int, effects: Effects, request: pytest.FixtureRequest) -> None:
    """Equal systems: p under 5 % in no more than 5 %, and equivalence at the edge of its margin in no more than 5 %."""
    rng, draws, n, margin = np.random.default_rng(SEED), 2000, 300, 0.05
    errors = [paired_error(rng, seeds, n, 0.0, effects) for _ in range(draws)]
    rate, error = told(f"paired by seed, size, {request.node.name}", sum(e.p < 0.05 for e in errors), draws)
    assert rate < 0.05 + 3 * error
    edge = [paired_error(rng, seeds, n, margin, effects) for _ in range(draws)]
    tost, tost_error = told(
        "  equivalent though they differ by it", sum(e.p_equivalent(margin) < 0.05 for e in edge), draws
    )
    assert tost < 0.05 + 3 * tost_error


@pytest.mark.parametrize(("seeds", "spread"), [(5, 0.05), (10, 0.05), (10, 0.12), (20, 0.12)])
def test_paired_by_seed_has_its_power(seeds: int, spread: float) -> None:
    """At the smallest detectable difference of the true components the test finds it in about 80 %; pairing by seed
    finds more than the same test on seeds that are shuffled, for what seeds share is then no noise.
    """
    rng, draws, n = np.random.default_rng(SEED), 1000, 300
    variance = 2 * spread**2 / seeds + 2 * 0.23 / (n * seeds)  # of the difference: seeds, and one answer's
    gap = (student.ppf(0.975, seeds - 1) + student.ppf(0.8, seeds - 1)) * math.sqrt(variance)
    hits = shuffled = 0
    for _ in range(draws):
        items, shared = 0.25 * (rng.random(n) - 0.5) * 2, 0.05 * rng.standard_normal(seeds)
        a, b = (retrained(rng, seeds, n, g, normal(spread), items, shared) for g in (gap / 2, -gap / 2))
        hits += crossed.paired(a - b).p < 0.05
        shuffled += crossed.apart(a, b).p < 0.05
    rate, error = told(f"paired by seed, power at {100 * gap:.1f} points, {seeds} seeds, sd {spread}", hits, draws)
    told("  the same, seeds not paired", shuffled, draws)
    assert abs(rate - 0.8) < 0.06 + 3 * error


@pytest.mark.parametrize("seeds", [3, 10])
def test_family_wise_error_of_a_table(seeds: int) -> None:
    """Five equally good systems, ten pairs: how often a table calls any of them higher."""
    rng, draws, n = np.random.default_rng(SEED), 1000, 300
    plain = called = 0
    for _ in range(draws):
        items, shared = 0.25 * (rng.random(n) - 0.5) * 2, 0.05 * rng.standard_normal(seeds)
        systems = [retrained(rng, seeds, n, 0.0, normal(0.05), items, shared) for _ in range(5)]
        p = [crossed.paired(a - b).p for a, b in itertools.combinations(systems, 2)]
        plain += min(p) < 0.05
        called += min(tests.holm(p)) < 0.05
    told(f"any of 10 pairs under 5 %, {seeds} seeds, unadjusted", plain, draws)
    rate, error = told("  called higher, after Holm", called, draws)
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
