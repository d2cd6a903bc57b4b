"""Intervals of accuracies: Wilson for one share, the two-level bootstrap for several seeds. Fractions in [0, 1]."""

from __future__ import annotations

import math
import zlib
from collections.abc import Hashable, Sequence
from functools import lru_cache
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 2_000


class Interval(NamedTuple):
    """Lower and upper bound."""

    low: float
    high: float


def normal_quantile(probability: float) -> float:
    """Quantile of the standard normal distribution."""
    return NormalDist().inv_cdf(probability)


def wilson(k: float, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval (no continuity correction) for `k` of `n` correct; (0, 1) where n is 0.

    Equal to scipy's `binomtest(k, n).proportion_ci(level, "wilson")` for whole k. Here k may also be a mean count over
    training seeds, which the formula takes as it is.

    Raises:
        ValueError: k outside [0, n].
    """
    if n < 0 or not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is not a proportion")
    if n == 0:
        return Interval(0.0, 1.0)
    z, p = normal_quantile((1 + level) / 2), k / n
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(0.0 if k == 0 else max(0.0, center - half), 1.0 if k == n else min(1.0, center + half))


class Resampler:
    """Two-level percentile bootstrap of accuracies on the same items: training seeds within each system, then items.

    The draws of the items are made once for all that is compared on them, so that a hundred differences cost hardly
    more than one. Where items share a source (`clusters`: its number from 0, per item), whole clusters are drawn: items
    of one template are not new evidence each.
    """

    def __init__(
        self, items: int, *, resamples: int = RESAMPLES, seed: int = 0, clusters: Sequence[int] | None = None
    ) -> None:
        import numpy as np

        self.items, self.resamples, self.seed = items, resamples, seed
        self._clusters = None if clusters is None else np.asarray(clusters)
        units = items  # what is drawn
        if self._clusters is not None:
            if len(self._clusters) != items:
                raise ValueError(f"{items} items have {len(self._clusters)} clusters")
            units = int(self._clusters.max()) + 1
        rng = np.random.default_rng(seed)
        size = max(1, 2_000_000 // max(1, units))  # resamples at a time: 16 MB as doubles
        self._counts = [
            rng.multinomial(units, np.full(units, 1 / units), size=min(size, resamples - start)).astype(np.uint16)
            for start in range(0, resamples, size)
        ]

    @staticmethod
    @lru_cache(maxsize=4)
    def of(items: int, clusters: tuple[int, ...] | None = None) -> Resampler:
        """The one for so many items: the same comparison has the same interval wherever it is made."""
        return Resampler(items, clusters=clusters)

    def means(self, solved: NDArray[np.float64], system: str) -> NDArray[np.float64]:
        """[resamples]: accuracies of [seeds, items].

        Equal names draw equal seeds, as all settings of one trained system must.
        """
        import numpy as np

        by_seed = self.each(solved)
        seeds = len(solved)
        if seeds == 1:
            return np.asarray(by_seed[0])
        rng = np.random.default_rng([self.seed, zlib.crc32(system.encode())])
        drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=self.resamples).T / seeds  # [seeds, resamples]
        return np.asarray((by_seed * drawn).sum(0))

    def each(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """[rows, resamples]: means of each of [rows, items], no row drawn."""
        import numpy as np

        chunks = (counts.T.astype(np.float64) for counts in self._counts)  # [items or clusters, resamples at a time]
        if self._clusters is None:
            return np.concatenate([rows @ counts for counts in chunks], axis=1) / self.items
        sizes = np.bincount(self._clusters).astype(np.float64)
        rows = np.array([np.bincount(self._clusters, weights=row) for row in rows])
        return np.concatenate([rows @ counts / (sizes @ counts) for counts in chunks], axis=1)

    @staticmethod
    def interval(draws: NDArray[np.float64], level: float = 0.95) -> Interval:
        """Percentile interval."""
        import numpy as np

        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        return Interval(float(low), float(high))


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; NaN of nothing."""
    return fmean(values) if values else math.nan


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation (n − 1); NaN of fewer than two.

    Not `statistics.stdev`, whose exact fractions differ in the last digit from what tables hold.
    """
    if len(values) < 2:
        return math.nan
    center = mean(values)
    return math.sqrt(math.fsum((v - center) ** 2 for v in values) / (len(values) - 1))


class Clustered(NamedTuple):
    """A mean over items that come in clusters, with t's interval on (clusters − 1) degrees of freedom."""

    mean: float
    se: float
    interval: Interval
    clusters: int
    design_effect: float  # variance over that of as many independent items; NaN where those do not vary


def clustered(values: Sequence[float], sources: Sequence[Hashable], level: float = 0.95) -> Clustered:
    """Mean and clustered standard error of item scores, or of paired differences of them, where items share a source.

    The sandwich with the factor G/(G − 1) over G clusters: √(G/(G−1)·Σ_g(Σ_i∈g(x_i − x̄))²)/n, which is what
    statsmodels gives for a constant with `cov_type="cluster"`, and for clusters of one size the standard error of their
    means. The interval is not cut to [0, 1].

    Raises:
        ValueError: fewer than two clusters, or not one source per value.
    """
    n = len(values)
    if len(sources) != n:
        raise ValueError(f"{n} values have {len(sources)} sources")
    groups: dict[Hashable, list[float]] = {}
    for value, source in zip(values, sources, strict=True):
        groups.setdefault(source, []).append(value)
    if (g := len(groups)) < 2:
        raise ValueError("a clustered error needs items from at least two sources")
    from scipy.stats import t as student

    center = fmean(values)
    square = math.fsum(math.fsum(v - center for v in group) ** 2 for group in groups.values())
    se = math.sqrt(g / (g - 1) * square) / n
    independent = math.fsum((v - center) ** 2 for v in values) / (n * (n - 1))
    half = float(student.ppf((1 + level) / 2, g - 1)) * se
    effect = se * se / independent if independent > 0 else math.nan
    return Clustered(center, se, Interval(center - half, center + half), g, effect)
