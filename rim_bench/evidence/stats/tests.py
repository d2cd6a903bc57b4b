"""Tests of paired accuracies over questions, and their power: McNemar, non-inferiority, equivalence.

Everything is a fraction in [0, 1], and a comparison of two systems on the same n items is (b, c, n): b items only the
first solves, c only the second; the difference is (b − c)/n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

from rim_bench.evidence.stats.intervals import Interval, normal_quantile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Alternative = Literal["two-sided", "greater"]


def mcnemar(b: int, c: int, alternative: Literal["two-sided", "greater", "less"] = "two-sided") -> float:
    """Exact McNemar p; 1 where b + c = 0. `greater`: the first is better.

    The binomial tail at 1/2 in whole numbers; equal to scipy's `binomtest(b, b + c, 0.5, alternative)`.
    """
    if b < 0 or c < 0:
        raise ValueError(f"{b} and {c} are not counts")
    n = b + c
    fewest = {"two-sided": min(b, c), "greater": c, "less": b}[alternative]  # at most so many on the losing side
    ways, term = 0, 1
    for i in range(fewest + 1):
        ways, term = ways + term, term * (n - i) // (i + 1)
    tail: float = ways / (1 << n)
    return min(1.0, 2 * tail) if alternative == "two-sided" else tail


def normal_test(difference: NDArray[np.float64]) -> float:
    """Two-sided p of z = Σd/√Σd² for the differences d of paired items; 1 where nothing differs.

    McNemar's test where they are −1, 0 or 1, and its like for means over seeds and for mixtures, where a sign would
    count 0.01 as one whole item.
    """
    squares = float((difference * difference).sum())
    return math.erfc(abs(float(difference.sum())) / math.sqrt(2 * squares)) if squares > 1e-12 else 1.0


def holm(p_values: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """Holm's adjusted p values (family-wise), in the order of the arguments.

    Args:
        weights: shares of the error rate, above 0, as in Holm 1979; None: equal ones.
    """
    w = [1.0] * len(p_values) if weights is None else weights
    order = sorted(range(len(p_values)), key=lambda i: p_values[i] / w[i])
    adjusted, running, left = [0.0] * len(p_values), 0.0, math.fsum(w)
    for index in order:
        running = max(running, min(1.0, left / w[index] * p_values[index]))
        adjusted[index], left = running, left - w[index]
    return adjusted


def detectable_difference(n: int, discordance: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest true difference of accuracies that a two-sided McNemar test on n items finds with this power; at most 1.

    `discordance` is the share of items that exactly one of the systems solves (for means over seeds: the mean squared
    difference). Solves d·√n = z_α·√ψ + z_β·√(ψ − d²) for d (Miettinen 1968; Connor 1987).
    1,319 items: 2.4 / 3.4 / 4.2 points at 10 / 20 / 30 % discordance.

    Raises:
        ValueError: no items, or a discordance outside [0, 1].
    """
    if n < 1 or not 0 <= discordance <= 1:
        raise ValueError(f"n = {n} and discordance = {discordance} do not describe a comparison")
    z_alpha, z_beta = normal_quantile(1 - alpha / 2), normal_quantile(power)
    root = math.sqrt(max(0.0, n + z_beta**2 - z_alpha**2))
    return min(1.0, math.sqrt(discordance) * (math.sqrt(n) * z_alpha + z_beta * root) / (n + z_beta**2))


def score(b: Any, c: Any, n: int, margin: float) -> Any:
    """Tango's score statistic for "the true difference is `margin`", of numbers or numpy arrays of b and c.

    About normal under that hypothesis, negative where less was seen. The variance is the one under it, so it is no zero
    where b and c are (Wald's is, and then calls five items proof). At margin 0 it is McNemar's (b − c)/√(b + c).
    Source: T. Tango 1998, Stat. Med. 17:891.

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
    root = (linear * linear + 8 * n * c * margin * (1 - margin)) ** 0.5
    only_second = (root - linear) / (4 * n)  # its probability, at best
    variance = n * (2 * only_second + margin * (1 - margin))
    if margin == 0:
        variance = variance + (b + c == 0)  # nothing differs: 0, not 0/0
    return (b - c - n * margin) / variance**0.5


def score_interval(b: int, c: int, n: int, level: float = 0.95) -> Interval:
    """Tango's interval for (b − c)/n: the differences that `score` does not reject. (−1, 1) for no items.

    Each bound by itself holds with probability (1 + level)/2. Equal to R's `PropCIs::scoreci.mp(c, b, n, level)`.
    """
    if n == 0:
        return Interval(-1.0, 1.0)
    z = normal_quantile((1 + level) / 2)
    return Interval(_crossing(b, c, n, z), _crossing(b, c, n, -z))


def upper_bound(b: int, c: int, n: int, confidence: float = 0.95) -> float:
    """One-sided upper bound of the paired difference (b − c)/n. 1 for no items."""
    return _crossing(b, c, n, -normal_quantile(confidence)) if n else 1.0


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
    """p of "the first is worse than the second by `margin` or more"; small: it is as good, but for less than that."""
    if not 0 < margin < 1:
        raise ValueError(f"margin {margin} must lie between 0 and 1: it is a fraction of the items")
    return NormalDist().cdf(-float(score(b, c, n, -margin))) if n else 1.0


def equivalence(b: int, c: int, n: int, margin: float) -> float:
    """p of "they differ by `margin` or more" (TOST): the larger of the two non-inferiority p values.

    Under 0.05 exactly where the 90 % `score_interval` lies inside ±margin.
    """
    return max(noninferiority(b, c, n, margin), noninferiority(c, b, n, margin))


def power_of(
    n: int, discordance: float, difference: float, alpha: float = 0.05, alternative: Alternative = "two-sided"
) -> float:
    """Probability that McNemar's test on n items finds a true difference, by the formula of `detectable_difference`.

    Raises:
        ValueError: a difference larger than the discordance, which no two systems have.
    """
    _check_possible(discordance, difference)
    if discordance == 0:
        return 0.0
    two_sided = alternative == "two-sided"
    limit = normal_quantile(1 - alpha / 2 if two_sided else 1 - alpha) * math.sqrt(discordance)
    spread, size = math.sqrt(max(0.0, discordance - difference**2)), abs(difference) * math.sqrt(n)
    if spread == 0:
        return float(size > limit)
    power = NormalDist().cdf((size - limit) / spread)
    return power + NormalDist().cdf((-size - limit) / spread) if two_sided else power


def exact_power(
    n: int, discordance: float, difference: float, alpha: float = 0.05, alternative: Alternative = "two-sided"
) -> float:
    """The same of the exact test, which is the more cautious one: the sum over all outcomes that it finds."""
    import numpy as np
    from scipy.stats import binom

    b, c, p = outcomes(n, discordance, difference)
    if alternative == "two-sided":
        rejected = 2 * binom.cdf(np.minimum(b, c), b + c, 0.5) < alpha
    else:
        rejected = binom.cdf(c, b + c, 0.5) < alpha
    return float(p[rejected].sum())


def items_needed(discordance: float, difference: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Fewest items on which a two-sided McNemar test finds this true difference with this power (Miettinen; Connor).

    Raises:
        ValueError: no difference, or one larger than the discordance.
    """
    _check_possible(discordance, difference)
    if difference == 0:
        raise ValueError("no number of items shows a difference of 0")
    far = normal_quantile(1 - alpha / 2) * math.sqrt(discordance)
    near = normal_quantile(power) * math.sqrt(discordance - difference**2)
    return math.ceil(((far + near) / difference) ** 2 - 1e-9)


def outcomes(
    n: int, discordance: float, difference: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """b, c and their probability, for all outcomes on n items but those that are together rarer than 1e-9.

    Exact operating characteristics are sums over it, without the error of a simulation.
    """
    import numpy as np
    from scipy.stats import binom

    _check_possible(discordance, difference)
    total = np.arange(int(binom.ppf(1e-10, n, discordance)), int(binom.isf(1e-10, n, discordance)) + 1)
    share = (1 + difference / discordance) / 2 if discordance else 0.5
    low, high = int(binom.ppf(1e-11, total[0], share)), int(binom.isf(1e-11, total[-1], share)) + 1
    grid_b, grid_total = np.meshgrid(np.arange(low, high + 1), total)
    kept = grid_b <= grid_total
    b, m = grid_b[kept], grid_total[kept]
    p = binom.pmf(total, n, discordance)[m - total[0]] * binom.pmf(b, m, share)
    return b.astype(np.int64), (m - b).astype(np.int64), p


def _check_possible(discordance: float, difference: float) -> None:
    """Raises ValueError for a discordance or a difference that no two systems have."""
    if not 0 <= discordance <= 1:
        raise ValueError(f"discordance {discordance} is not a share of the items")
    if not abs(difference) <= discordance:
        raise ValueError(
            f"a difference of {difference:.4g} needs a discordance of at least as much, not {discordance:.4g}"
        )
