"""Intervals and tests for accuracies. Fractions lie in [0, 1]; nothing here knows what a run is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


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


def paired_bootstrap(first: ArrayLike, second: ArrayLike, *, seed: int = 0, resamples: int = 10_000, level: float = 0.95) -> Interval:
    """Percentile interval of the difference of accuracies, first − second, on the same items.

    Each argument is [items] or [training seeds, items] (0/1 or fractions). With more than one training seed on either side
    both levels are resampled: seeds within each system, then items, which are common to both. Same input, same interval.

    Raises:
        ValueError: no items, or not the same number of them.
    """
    import numpy as np

    a, b = np.atleast_2d(np.asarray(first, dtype=float)), np.atleast_2d(np.asarray(second, dtype=float))
    if a.shape[1] != b.shape[1] or not a.size or not b.size:
        raise ValueError(f"paired items are needed, got {a.shape[1]} and {b.shape[1]}")
    rng = np.random.default_rng(seed)
    if len(a) == len(b) == 1:
        draws = _resampled_means(a[0] - b[0], resamples, rng)
    else:
        blocks = min(resamples, 500)  # draws of seeds; for each of them `each` draws of items
        each = -(-resamples // blocks)
        parts = []
        for _ in range(blocks):
            picked_a, picked_b = rng.integers(len(a), size=len(a)), rng.integers(len(b), size=len(b))
            parts.append(_resampled_means(a[picked_a].mean(0) - b[picked_b].mean(0), each, rng))
        draws = np.concatenate(parts)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _resampled_means(values: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Means of `resamples` draws of len(values) values with replacement.

    Such a draw is a multinomial count over the distinct values, of which a difference of accuracies has few: [draws, distinct].
    """
    import numpy as np

    distinct, counts = np.unique(values, return_counts=True)
    drawn = rng.multinomial(len(values), counts / len(values), size=resamples)
    return np.asarray(drawn @ distinct / len(values), dtype=np.float64)


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
