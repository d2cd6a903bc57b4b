"""Intervals and tests for accuracies. Fractions lie in [0, 1]; nothing here knows what a run is."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 2_000


class Interval(NamedTuple):
    """Lower and upper bound."""

    low: float
    high: float


def _z(probability: float) -> float:
    return NormalDist().inv_cdf(probability)


def wilson(k: float, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval (no continuity correction) for `k` of `n` correct; (0, 1) where n is 0.

    Equal to scipy's `binomtest(k, n).proportion_ci(level, "wilson")` for whole k. Here k may also be a mean count over training
    seeds, which the formula takes as it is.

    Raises:
        ValueError: k outside [0, n].
    """
    if n < 0 or not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is not a proportion")
    if n == 0:
        return Interval(0.0, 1.0)
    z, p = _z((1 + level) / 2), k / n
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(0.0 if k == 0 else max(0.0, center - half), 1.0 if k == n else min(1.0, center + half))


def mcnemar(b: int, c: int, alternative: Literal["two-sided", "greater", "less"] = "two-sided") -> float:
    """Exact McNemar p: b items only the first system solves, c only the second. `greater`: the first is better. 1 where b + c = 0.

    The binomial tail at 1/2 in whole numbers; equal to scipy's `binomtest(b, b + c, 0.5, alternative)`.
    """
    if b < 0 or c < 0:
        raise ValueError(f"{b} and {c} are not counts")
    n = b + c
    few = {"two-sided": min(b, c), "greater": c, "less": b}[alternative]  # at most so many on the losing side
    ways, term = 0, 1
    for i in range(few + 1):
        ways, term = ways + term, term * (n - i) // (i + 1)
    tail: float = ways / (1 << n)
    return min(1.0, 2 * tail) if alternative == "two-sided" else tail


def normal_test(difference: NDArray[np.float64]) -> float:
    """Two-sided p of z = Σd/√Σd² for the differences d of paired items: McNemar's test where they are −1, 0 or 1, and its like for means
    over seeds and for mixtures, where a sign would count 0.01 as one whole item. 1 where nothing differs."""
    squares = float((difference * difference).sum())
    return math.erfc(abs(float(difference.sum())) / math.sqrt(2 * squares)) if squares > 1e-12 else 1.0


class Retraining(NamedTuple):
    """How far a difference of mean accuracies would move with other training seeds and other items: its standard error, and t's degrees of
    freedom. `se` is infinite where nothing is known."""

    difference: float
    se: float
    freedom: float

    def bound(self, level: float = 0.95) -> float:
        """What the difference must exceed to be more than that."""
        if self.se == 0 or math.isinf(self.se):
            return self.se
        from scipy.stats import t as student

        return float(student.ppf((1 + level) / 2, self.freedom)) * self.se

    @property
    def p(self) -> float:
        """Two-sided p of "retraining would not show it"."""
        if self.se == 0 or math.isinf(self.se):
            return 1.0 if self.se or self.difference == 0 else 0.0
        from scipy.stats import t as student

        return float(2 * student.sf(abs(self.difference) / self.se, self.freedom))


def retraining(first: NDArray[np.float64], second: NDArray[np.float64], clusters: Sequence[int] | None = None) -> Retraining | None:
    """The error of the difference of two mean accuracies over training seeds and items.

    Arguments are [training seeds, items]. se² = s₁²/S₁ + s₂²/S₂ + var(d)/n: s is the standard deviation over the S seeds of the accuracy,
    d the items' differences of seed means; Welch and Satterthwaite's degrees of freedom. Where one side has one seed, the other's s stands
    for both. With few seeds t is large: three on each side show large differences only. Where items share a source (`clusters`: its number,
    per item), the clustered variance on (clusters − 1) degrees of freedom stands for var(d)/n.

    Returns:
        None with one seed on each side: nothing is known of retraining.
    """
    import numpy as np

    seeds = [len(first), len(second)]
    if seeds == [1, 1]:
        return None
    variances = [float(np.var(side.mean(1), ddof=1)) if len(side) > 1 else None for side in (first, second)]
    if None in variances:  # one and the same estimate for both sides
        (known,) = [v for v in variances if v is not None]
        terms = [(known / seeds[0] + known / seeds[1], max(seeds) - 1)]
    else:
        terms = [(v / n, n - 1) for v, n in zip(variances, seeds, strict=True) if v is not None]
    difference = first.mean(0) - second.mean(0)
    n, value = len(difference), float(difference.mean())
    if n < 2 or (clusters is not None and len(set(clusters)) < 2):
        return Retraining(value, math.inf, 1)
    if clusters is None:
        terms.append((float(np.var(difference, ddof=1)) / n, n - 1))
    else:
        from rim_bench.evidence_stats import clustered

        found = clustered(difference.tolist(), clusters)
        terms.append((found.se**2, found.clusters - 1))
    square = math.fsum(t for t, _ in terms)
    if square <= 1e-18:
        return Retraining(value, 0.0, 1)
    return Retraining(value, math.sqrt(square), square**2 / math.fsum(t * t / f for t, f in terms))


def retraining_bound(
    first: NDArray[np.float64], second: NDArray[np.float64], level: float = 0.95, clusters: Sequence[int] | None = None
) -> float | None:
    """What a difference of mean accuracies must exceed to be more than other training seeds and other items would make of it: t·se of
    `retraining`. None with one seed on each side."""
    found = retraining(first, second, clusters)
    return None if found is None else found.bound(level)


class Resampler:
    """Two-level percentile bootstrap of accuracies on the same items: training seeds within each system, then items, which are common to
    all. The draws of the items are made once for all that is compared on them, so that a hundred differences cost hardly more than one.

    Where items share a source (`clusters`: its number from 0, per item), whole clusters are drawn: items of one template are not new
    evidence each.
    """

    def __init__(self, items: int, *, resamples: int = RESAMPLES, seed: int = 0, clusters: Sequence[int] | None = None) -> None:
        import numpy as np

        self.items, self.resamples, self.seed = items, resamples, seed
        self._clusters = None if clusters is None else np.asarray(clusters)
        if self._clusters is not None and len(self._clusters) != items:
            raise ValueError(f"{items} items have {len(self._clusters)} clusters")
        if self._clusters is not None:
            items = int(self._clusters.max()) + 1  # what is drawn
        rng = np.random.default_rng(seed)
        size = max(1, 2_000_000 // max(1, items))  # resamples at a time: 16 MB as doubles
        starts = range(0, resamples, size)
        self._counts = [
            rng.multinomial(items, np.full(items, 1 / items), size=min(size, resamples - at)).astype(np.uint16) for at in starts
        ]

    @staticmethod
    @lru_cache(maxsize=4)
    def of(items: int, clusters: tuple[int, ...] | None = None) -> Resampler:
        """The one for so many items: the same comparison has the same interval wherever it is made."""
        return Resampler(items, clusters=clusters)

    def means(self, solved: NDArray[np.float64], system: str) -> NDArray[np.float64]:
        """[resamples]: accuracies of [seeds, items]. Equal names draw equal seeds, as all settings of one trained system must."""
        import numpy as np

        chunks = (counts.T.astype(np.float64) for counts in self._counts)  # [items or clusters, resamples at a time]
        if self._clusters is None:
            by_seed = np.concatenate([solved @ counts for counts in chunks], axis=1) / self.items
        else:
            sizes = np.bincount(self._clusters).astype(np.float64)
            solved = np.array([np.bincount(self._clusters, weights=row) for row in solved])
            by_seed = np.concatenate([solved @ counts / (sizes @ counts) for counts in chunks], axis=1)
        seeds = len(solved)
        if seeds == 1:
            return np.asarray(by_seed[0])
        rng = np.random.default_rng([self.seed, zlib.crc32(system.encode())])
        drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=self.resamples).T / seeds  # [seeds, resamples]
        return np.asarray((by_seed * drawn).sum(0))

    @staticmethod
    def interval(draws: NDArray[np.float64], level: float = 0.95) -> Interval:
        """Percentile interval."""
        import numpy as np

        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        return Interval(float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (family-wise), in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def detectable_difference(n: int, discordance: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest true difference of accuracies that a two-sided McNemar test on n items finds with this power.

    `discordance` is the share of items that exactly one of the systems solves (for means over seeds: the mean squared
    difference). Solves d·√n = z_α·√ψ + z_β·√(ψ − d²) for d (Miettinen 1968; Connor 1987). At most 1.
    1,319 items: 2.4 / 3.4 / 4.2 points at 10 / 20 / 30 % discordance.

    Raises:
        ValueError: no items, or a discordance outside [0, 1].
    """
    if n < 1 or not 0 <= discordance <= 1:
        raise ValueError(f"n = {n} and discordance = {discordance} do not describe a comparison")
    z_alpha, z_beta = _z(1 - alpha / 2), _z(power)
    root = math.sqrt(max(0.0, n + z_beta**2 - z_alpha**2))
    return min(1.0, math.sqrt(discordance) * (math.sqrt(n) * z_alpha + z_beta * root) / (n + z_beta**2))


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; NaN of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation (n − 1); NaN of fewer than two."""
    if len(values) < 2:
        return math.nan
    center = mean(values)
    return math.sqrt(math.fsum((v - center) ** 2 for v in values) / (len(values) - 1))


def quantile(values: Sequence[float], q: float) -> float:
    """Quantile q in [0, 1], linear between the order statistics (numpy's default); NaN of nothing."""
    if not 0 <= q <= 1:
        raise ValueError(f"{q} is not in [0, 1]")
    if not values:
        return math.nan
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(values: Sequence[float]) -> float:
    """The middle value; NaN of nothing."""
    return quantile(values, 0.5)
