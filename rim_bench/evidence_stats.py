"""Evidence about paired accuracies beyond a test of "no difference": non-inferiority, equivalence, power, clustered errors.

Everything is a fraction in [0, 1], and a comparison of two systems on the same n items is (b, c, n): b items only the first solves, c only
the second; the difference is (b − c)/n. Nothing here knows what a run is.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rim_bench.stats import Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Alternative = Literal["two-sided", "greater"]


def _z(probability: float) -> float:
    return NormalDist().inv_cdf(probability)


# Non-inferiority and equivalence -----------------------------------------------------------------------------------------------------


def score(b: Any, c: Any, n: int, margin: float) -> Any:
    """Tango's score statistic for "the true difference is `margin`": about normal under it, negative where less was seen.

    The variance is the one under that hypothesis, so it is no zero where b and c are (Wald's is, and then calls five items proof). At
    margin 0 it is McNemar's (b − c)/√(b + c). Takes numbers, or numpy arrays of b and c. Source: T. Tango 1998, Stat. Med. 17:891.

    Raises:
        ValueError: a margin outside (−1, 1), or counts that no n items have.
    """
    if not -1 < margin < 1:
        raise ValueError(f"a difference of accuracies of {margin} cannot be tested: it lies between -1 and 1")
    if isinstance(b, int) and (min(b, c) < 0 or b + c > n):
        raise ValueError(f"{b} and {c} are not counts of {n} items")
    if margin < 0:
        return -score(c, b, n, -margin)
    linear = (2 * n - b + c) * margin - b - c
    only_second = ((linear * linear + 8 * n * c * margin * (1 - margin)) ** 0.5 - linear) / (4 * n)  # its probability, at best
    variance = n * (2 * only_second + margin * (1 - margin))
    if margin == 0:
        variance = variance + (b + c == 0)  # nothing differs: 0, not 0/0
    return (b - c - n * margin) / variance**0.5


def score_interval(b: int, c: int, n: int, level: float = 0.95) -> Interval:
    """Tango's interval for the paired difference (b − c)/n: the differences that `score` does not reject. Each bound by itself holds
    with probability (1 + level)/2. (−1, 1) for no items.

    Equal to R's `PropCIs::scoreci.mp(c, b, n, level)`.
    """
    if n == 0:
        return Interval(-1.0, 1.0)
    z = _z((1 + level) / 2)
    return Interval(_crossing(b, c, n, z), _crossing(b, c, n, -z))


def upper_bound(b: int, c: int, n: int, confidence: float = 0.95) -> float:
    """One-sided upper bound of the paired difference (b − c)/n. 1 for no items."""
    return _crossing(b, c, n, -_z(confidence)) if n else 1.0


def _crossing(b: int, c: int, n: int, target: float) -> float:
    """The difference at which `score`, which falls in it, has the value `target`."""
    low, high = -1.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if score(b, c, n, middle) > target:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def noninferiority(b: int, c: int, n: int, margin: float) -> float:
    """p of "the first is worse than the second by `margin` or more"; small: the first is as good, but for less than the margin."""
    _positive(margin)
    return NormalDist().cdf(-float(score(b, c, n, -margin))) if n else 1.0


def equivalence(b: int, c: int, n: int, margin: float) -> float:
    """p of "they differ by `margin` or more", two one-sided tests (TOST): the larger of the two non-inferiority p values.

    Under 0.05 exactly where the 90 % `score_interval` lies inside ±margin.
    """
    return max(noninferiority(b, c, n, margin), noninferiority(c, b, n, margin))


def _positive(margin: float) -> None:
    if not 0 < margin < 1:
        raise ValueError(f"margin {margin} must lie between 0 and 1: it is a fraction of the items")


# Power -------------------------------------------------------------------------------------------------------------------------------


def power(n: int, discordance: float, difference: float, alpha: float = 0.05, alternative: Alternative = "two-sided") -> float:
    """Probability that McNemar's test on n items finds a true difference, by the formula behind `stats.detectable_difference`.

    Raises:
        ValueError: a difference larger than the discordance, which no two systems have.
    """
    _possible(discordance, difference)
    if discordance == 0:
        return 0.0
    z = _z(1 - alpha / 2) if alternative == "two-sided" else _z(1 - alpha)
    spread, size = math.sqrt(max(0.0, discordance - difference**2)), abs(difference) * math.sqrt(n)
    far = z * math.sqrt(discordance)
    if spread == 0:
        return float(size > far)
    found = NormalDist().cdf((size - far) / spread)
    return found + NormalDist().cdf((-size - far) / spread) if alternative == "two-sided" else found


def exact_power(n: int, discordance: float, difference: float, alpha: float = 0.05, alternative: Alternative = "two-sided") -> float:
    """The same of the exact test, by adding up the probabilities of all outcomes that it finds. The exact test is the more cautious one."""
    import numpy as np
    from scipy.stats import binom

    b, c, p = outcomes(n, discordance, difference)
    total = b + c
    if alternative == "two-sided":
        found = 2 * binom.cdf(np.minimum(b, c), total, 0.5) < alpha
    else:
        found = binom.cdf(c, total, 0.5) < alpha
    return float(p[found].sum())


def items_needed(discordance: float, difference: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Fewest items on which a two-sided McNemar test finds this true difference with this power (Miettinen 1968; Connor 1987).

    Raises:
        ValueError: no difference, or one larger than the discordance.
    """
    _possible(discordance, difference)
    if difference == 0:
        raise ValueError("no number of items shows a difference of 0")
    root = _z(1 - alpha / 2) * math.sqrt(discordance) + _z(power) * math.sqrt(discordance - difference**2)
    return math.ceil((root / difference) ** 2 - 1e-9)


def outcomes(n: int, discordance: float, difference: float) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """b, c and their probability, for all outcomes on n items but those that are together rarer than 1e-9.

    Exact operating characteristics are sums over it, without the error of a simulation.
    """
    import numpy as np
    from scipy.stats import binom

    _possible(discordance, difference)
    total = np.arange(int(binom.ppf(1e-10, n, discordance)), int(binom.isf(1e-10, n, discordance)) + 1)
    share = (1 + difference / discordance) / 2 if discordance else 0.5
    low, high = int(binom.ppf(1e-11, total[0], share)), int(binom.isf(1e-11, total[-1], share)) + 1
    grid_b, grid_total = np.meshgrid(np.arange(low, high + 1), total)
    kept = grid_b <= grid_total
    b, m = grid_b[kept], grid_total[kept]
    p = binom.pmf(total, n, discordance)[m - total[0]] * binom.pmf(b, m, share)
    return b.astype(np.int64), (m - b).astype(np.int64), p


def _possible(discordance: float, difference: float) -> None:
    if not 0 <= discordance <= 1:
        raise ValueError(f"discordance {discordance} is not a share of the items")
    if not abs(difference) <= discordance:
        raise ValueError(f"a difference of {difference:.4g} needs a discordance of at least as much, not {discordance:.4g}")


# Items that share a source -----------------------------------------------------------------------------------------------------------


class Clustered(NamedTuple):
    """A mean over items that come in clusters, with t's interval on (clusters − 1) degrees of freedom."""

    mean: float
    se: float
    interval: Interval
    clusters: int
    design_effect: float  # variance over that of as many independent items; NaN where those do not vary


def clustered(values: Sequence[float], sources: Sequence[Hashable], level: float = 0.95) -> Clustered:
    """Mean and clustered standard error of item scores, or of paired differences of them, where items share a template or source question.

    The sandwich with the factor G/(G − 1) over G clusters: √(G/(G−1)·Σ_g(Σ_i∈g(x_i − x̄))²)/n, which is what statsmodels gives for a
    constant with `cov_type="cluster"`, and for clusters of one size the standard error of their means. The interval is not cut to [0, 1].

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
    mean = math.fsum(values) / n
    square = math.fsum(math.fsum(v - mean for v in group) ** 2 for group in groups.values())
    se = math.sqrt(g / (g - 1) * square) / n
    alone = math.fsum((v - mean) ** 2 for v in values) / (n * (n - 1))
    from scipy.stats import t as student

    half = float(student.ppf((1 + level) / 2, g - 1)) * se
    return Clustered(mean, se, Interval(mean - half, mean + half), g, se * se / alone if alone > 0 else math.nan)
