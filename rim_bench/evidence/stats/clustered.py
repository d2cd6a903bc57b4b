"""Paired tests and intervals where items share a source: a template, or the question that they were made from.

Fifty variants of one template are nearer to one observation than to fifty. McNemar's test and Wilson's interval take
items as independent and then find differences that are not there; here the cluster is the unit. Fractions in [0, 1];
`clusters` is the number of each item's source, from 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rim_bench.evidence.stats import tests
from rim_bench.evidence.stats.intervals import Clustered, Interval, clustered, wilson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FEW = 20
"""With fewer clusters than this a table says so: the normal approximations and the bootstrap over clusters are then too
narrow.
"""


def source_numbers(sources: Sequence[str]) -> tuple[int, ...] | None:
    """The number of each item's source, from 0; None where no two share one. "": the item is its own source."""
    names = [("source", s) if s else ("item", str(k)) for k, s in enumerate(sources)]
    numbers = {name: k for k, name in enumerate(dict.fromkeys(names))}
    return tuple(numbers[name] for name in names) if len(numbers) < len(names) else None


def cluster_sums(difference: NDArray[np.float64], clusters: Sequence[int]) -> NDArray[np.float64]:
    """[clusters]: the items' paired differences added up by cluster."""
    import numpy as np

    return np.asarray(np.bincount(np.asarray(clusters), weights=difference), dtype=np.float64)


def sign_flip(
    difference: NDArray[np.float64], clusters: Sequence[int], alternative: tests.Alternative = "two-sided"
) -> float:
    """Exact p of "neither system is better", for differences −1, 0, 1 of paired items. `greater`: the first is.

    Under it the two systems may be exchanged in any cluster, so the cluster's sum D changes its sign with probability
    1/2: p is the share of all 2^G sign patterns whose |ΣD| (`greater`: ΣD) is at least the one seen, by convolution,
    without drawing any. With one item in each cluster it is the exact McNemar test; its normal approximation, ΣD/√ΣD²,
    is Durkalski's clustered McNemar test for clusters of one size (Durkalski et al. 2003, Stat. Med. 22:2417), and what
    `normal_sign_flip` gives.

    Raises:
        ValueError: differences that are not whole numbers.
    """
    import numpy as np

    sums = cluster_sums(difference, clusters)
    whole = np.rint(sums).astype(np.int64)
    if np.abs(sums - whole).max(initial=0.0) > 1e-6:
        raise ValueError("the exact test takes differences of one seed each: -1, 0 or 1")
    steps = np.abs(whole[whole != 0])
    total, value = int(steps.sum()), int(whole.sum())
    p = np.zeros(2 * total + 1)
    p[total] = 1.0  # index = total + sum
    for step in steps:
        moved = np.zeros_like(p)
        moved[step:] += p[: len(p) - step] / 2
        moved[: len(p) - step] += p[step:] / 2
        p = moved
    if alternative == "greater":
        return float(min(1.0, p[total + value :].sum()))
    seen = abs(value)
    outside = p[: total - seen + 1].sum() + p[total + seen :].sum() if seen else 1.0
    return float(min(1.0, outside))


def normal_sign_flip(difference: NDArray[np.float64], clusters: Sequence[int]) -> float:
    """The same by its normal approximation z = ΣD/√ΣD², for means over seeds and mixtures."""
    return tests.normal_test(cluster_sums(difference, clusters))


def design_effect(difference: NDArray[np.float64], clusters: Sequence[int]) -> float | None:
    """Variance of the mean difference over that of as many independent items; None for fewer than two clusters.

    At least 1: clusters that look more alike than chance would have it are no reason to claim more. 1 where the
    differences do not vary.
    """
    if len(set(clusters)) < 2:
        return None
    effect = clustered(difference.tolist(), clusters).design_effect
    return 1.0 if math.isnan(effect) else max(1.0, effect)


def effective_items(difference: NDArray[np.float64], clusters: Sequence[int]) -> int | None:
    """n / design effect: as how many independent items they count, at least 1; None for fewer than two clusters."""
    effect = design_effect(difference, clusters)
    return None if effect is None else max(1, math.floor(len(difference) / effect + 1e-9))


def detectable_clustered(difference: NDArray[np.float64], clusters: Sequence[int]) -> float | None:
    """Smallest detectable difference (80 % power, two-sided 5 %) at the discordance observed, on the effective items.

    None where nothing is discordant, and for fewer than two clusters.
    """
    squares, n = float((difference * difference).mean()), effective_items(difference, clusters)
    return None if squares <= 1e-12 or n is None else tests.detectable_difference(n, min(1.0, squares))


def system_interval(values: Sequence[float], clusters: Sequence[int]) -> Clustered | None:
    """One system's accuracy with its clustered error; None for fewer than two clusters.

    The interval is t's, cut to [0, 1]. Where all items have the same score there is no spread to estimate it from:
    Wilson's interval then, with the clusters for items.
    """
    if len(set(clusters)) < 2:
        return None
    accuracy = clustered(values, clusters)
    if accuracy.se > 0:
        low, high = accuracy.interval
        return accuracy._replace(interval=Interval(max(0.0, low), min(1.0, high)))
    return accuracy._replace(interval=wilson(accuracy.mean * accuracy.clusters, accuracy.clusters))


def lowest(solved: NDArray[np.float64], clusters: Sequence[int] | None) -> float:
    """Lower 95 % bound of the mean accuracy of [seeds, items]: Wilson's, or the clustered one where that is lower."""
    n, values = solved.shape[1], solved.mean(0)
    low = wilson(min(n, float(solved.mean()) * n), n).low
    if clusters is None:
        return low
    accuracy = system_interval(values.tolist(), clusters)
    return 0.0 if accuracy is None else min(low, accuracy.interval.low)


def as_good(
    difference: NDArray[np.float64],
    clusters: Sequence[int],
    margin: float,
    interval: Interval,
    worse: float,
    differ: float,
) -> tuple[Interval, float, float]:
    """The 90 % interval, and p of "worse by `margin`" and of "they differ by `margin`", where items share a source.

    t's, on (clusters − 1) degrees of freedom; never more than what the tests of independent items say (`interval`,
    `worse`, `differ`): few discordant items make the clustered error small by chance. Fewer than two clusters: nothing
    can be said.
    """
    if len(set(clusters)) < 2:
        return Interval(-1.0, 1.0), 1.0, 1.0
    from scipy.stats import t as student

    mean = clustered(difference.tolist(), clusters, 0.9)
    low, high = min(interval.low, max(-1.0, mean.interval.low)), max(interval.high, min(1.0, mean.interval.high))
    if mean.se > 0:
        above = float(student.sf((mean.mean + margin) / mean.se, mean.clusters - 1))
        below = float(student.sf((margin - mean.mean) / mean.se, mean.clusters - 1))
        worse, differ = max(worse, above), max(differ, above, below)
    return Interval(low, high), worse, differ
