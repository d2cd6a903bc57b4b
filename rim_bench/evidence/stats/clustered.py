"""Paired tests and intervals where items share a source: a template, or the question that they were made from.

Fifty variants of one template are nearer to one observation than to fifty. McNemar's test and Wilson's interval take
items as independent and then find differences that are not there; here the cluster is the unit. Fractions in [0, 1];
nothing here knows what a run is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from rim_bench.evidence.stats import intervals, tests
from rim_bench.evidence.stats.intervals import Clustered, clustered

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FEW = 20
"""With fewer clusters than this a table says so: the normal approximations and the bootstrap over clusters are then too
narrow.
"""


def cluster_note(n: int, clusters: int) -> str:
    """What a table with clustered items does with them."""
    text = (
        f"The {n:,} questions come from {clusters:,} sources (templates, seed questions) that they share, so they are "
        "not independent: "
        "tests, the bootstrap and smallest detectable differences go by source. p: exact sign-flip test over sources "
        "between two settings "
        "with one seed each (McNemar's where no source is shared), otherwise z = ΣD/√ΣD² over sums D by source; "
        "detectable: on n / design "
        "effect questions"
    )
    return text + (f". Fewer than {FEW} sources: take intervals and z as too narrow." if clusters < FEW else ".")


def cluster_sums(difference: NDArray[np.float64], clusters: Sequence[int]) -> NDArray[np.float64]:
    """[clusters]: the items' paired differences added up by cluster (numbered from 0)."""
    import numpy as np

    return np.asarray(np.bincount(np.asarray(clusters), weights=difference), dtype=np.float64)


def sign_flip(
    difference: NDArray[np.float64], clusters: Sequence[int], alternative: Literal["two-sided", "greater"] = "two-sided"
) -> float:
    """Exact p of "neither system is better", for differences −1, 0, 1 of paired items that come in clusters. `greater`:
    the first is.

    Under it the two systems may be exchanged in any cluster, so the cluster's sum D changes its sign with probability
    1/2: p is the share of all 2^G sign patterns whose |ΣD| (`greater`: ΣD) is at least the one seen, by convolution,
    without drawing any. With one item in each cluster it is the exact McNemar test; its normal approximation, ΣD/√ΣD²,
    is Durkalski's clustered McNemar test for clusters of one size (Durkalski et al. 2003, Stat. Med. 22:2417), and what
    `normal_sign_flip` gives.

    Raises:
        ValueError: differences that are not whole numbers.
    """
    import numpy as np

    found = cluster_sums(difference, clusters)
    whole = np.rint(found).astype(np.int64)
    if np.abs(found - whole).max(initial=0.0) > 1e-6:
        raise ValueError("the exact test takes differences of one seed each: -1, 0 or 1")
    steps = np.abs(whole[whole != 0])
    total, value = int(steps.sum()), int(whole.sum())
    seen = abs(value)
    p = np.zeros(2 * total + 1)
    p[total] = 1.0  # index = total + sum
    for step in steps:
        moved = np.zeros_like(p)
        moved[step:] += p[: len(p) - step] / 2
        moved[: len(p) - step] += p[step:] / 2
        p = moved
    if alternative == "greater":
        return float(min(1.0, p[total + value :].sum()))
    outside = p[: total - seen + 1].sum() + p[total + seen :].sum() if seen else 1.0
    return float(min(1.0, outside))


def normal_sign_flip(difference: NDArray[np.float64], clusters: Sequence[int]) -> float:
    """The same by its normal approximation z = ΣD/√ΣD², for means over seeds and mixtures."""
    return tests.normal_test(cluster_sums(difference, clusters))


def design_effect(difference: NDArray[np.float64], clusters: Sequence[int]) -> float | None:
    """Variance of the mean difference over that of as many independent items, at least 1: clusters that look more alike
    than chance would
    have it are no reason to claim more. None for fewer than two clusters; 1 where the differences do not vary.
    """
    if len(set(clusters)) < 2:
        return None
    found = clustered(difference.tolist(), clusters).design_effect
    return 1.0 if math.isnan(found) else max(1.0, found)


def detectable_clustered(difference: NDArray[np.float64], clusters: Sequence[int]) -> float | None:
    """Smallest detectable difference (80 % power, two-sided 5 %) at the discordance observed, on n / design effect
    items.

    None where nothing is discordant, and for fewer than two clusters.
    """
    squares, effect = float((difference * difference).mean()), design_effect(difference, clusters)
    if squares <= 1e-12 or effect is None:
        return None
    return tests.detectable_difference(max(1, math.floor(len(difference) / effect + 1e-9)), min(1.0, squares))


def system_interval(values: Sequence[float], clusters: Sequence[int]) -> Clustered | None:
    """One system's accuracy with its clustered error; None for fewer than two clusters.

    The interval is t's, cut to [0, 1]. Where all items have the same score there is no spread to estimate it from:
    Wilson's interval then, with the clusters for items.
    """
    if len(set(clusters)) < 2:
        return None
    found = clustered(values, clusters)
    if found.se > 0:
        low, high = found.interval
        return found._replace(interval=intervals.Interval(max(0.0, low), min(1.0, high)))
    return found._replace(interval=intervals.wilson(found.mean * found.clusters, found.clusters))


def lowest(solved: NDArray[np.float64], clusters: Sequence[int] | None) -> float:
    """Lower 95 % bound of the mean accuracy of [seeds, items]:
    Wilson's, and no more than the clustered one where items share a source.
    """
    n, values = solved.shape[1], solved.mean(0)
    low = intervals.wilson(min(n, float(solved.mean()) * n), n).low
    if clusters is None:
        return low
    found = system_interval(values.tolist(), clusters)
    return 0.0 if found is None else min(low, found.interval.low)


def as_good(
    difference: NDArray[np.float64],
    clusters: Sequence[int],
    margin: float,
    interval: intervals.Interval,
    worse: float,
    differ: float,
) -> tuple[intervals.Interval, float, float]:
    """The 90 % interval, and p of "worse by `margin`" and of "they differ by `margin`", where items share a source.

    t's, on (clusters − 1) degrees of freedom; never more than what the tests of independent items say, which are given
    (`interval`, `worse`, `differ`): few discordant items make the clustered error small by chance. Fewer than two
    clusters: nothing can be said.
    """
    if len(set(clusters)) < 2:
        return intervals.Interval(-1.0, 1.0), 1.0, 1.0
    from scipy.stats import t as student

    found = clustered(difference.tolist(), clusters, 0.9)
    low, high = min(interval.low, max(-1.0, found.interval.low)), max(interval.high, min(1.0, found.interval.high))
    if found.se > 0:
        above = float(student.sf((found.mean + margin) / found.se, found.clusters - 1))
        below = float(student.sf((margin - found.mean) / found.se, found.clusters - 1))
        worse, differ = max(worse, above), max(differ, above, below)
    return intervals.Interval(low, high), worse, differ
