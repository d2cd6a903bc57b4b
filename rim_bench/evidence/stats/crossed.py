"""The error of a difference over training seeds and questions, which are crossed: every seed answers every question.

d[s, q] = μ + a[s] + b[q] + e[s, q] for the paired differences of two systems that share seeds (starts, order of the
examples) and questions. The mean's variance is (MS_seeds + MS_questions − MS_rest)/(S·Q), the mean squares of the
two-way layout (Searle, Casella and McCulloch 1992, Variance Components, section 4; Clark 1973, J. Verb. Learn. Verb.
Behav. 12:335), and no less than either alone gives. t has (seeds − 1) degrees of freedom: Satterthwaite's are more
where the seeds' share is estimated small, which with two or three seeds happens by chance (simulated size 13.5 and
7.3 % where 5 is nominal). Fractions in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_SEEDS = 1_000  # that a number of seeds is looked for among


@dataclass(frozen=True)
class SeedsAndQuestions:
    """A difference of mean accuracies, and how far other seeds and other questions would move it.

    Attributes:
        by_seed: variance of a seed's effect, without what its questions add.
        by_question: variance of a question's effect (of a source's, where questions share one).
        rest: variance of what is left of one seed's answer to one question.
        questions: how many, or how many sources.
        se: standard error; infinite where a single question or source shows no spread.
        freedom: t's degrees of freedom.
    """

    difference: float
    by_seed: float
    by_question: float
    rest: float
    seeds: int
    questions: int
    se: float
    freedom: float

    def _beyond(self, difference: float) -> float:
        """One-sided p of "the truth is `difference` or less"."""
        from scipy.stats import t as student

        gap = self.difference - difference
        if self.se == 0:
            return float(gap <= 0)
        return float(student.sf(gap / self.se, self.freedom)) if math.isfinite(self.se) else 1.0

    @property
    def p(self) -> float:
        """Two-sided p of "there is no difference"."""
        if self.difference == 0 or math.isinf(self.se):
            return 1.0
        return min(1.0, 2 * min(self._beyond(0.0), 1 - self._beyond(0.0)))

    def p_worse(self, margin: float) -> float:
        """p of "the first is worse by `margin` or more"."""
        return self._beyond(-margin)

    def p_equivalent(self, margin: float) -> float:
        """p of "they differ by `margin` or more" (TOST)."""
        return max(self._beyond(-margin), 1 - self._beyond(margin) if math.isfinite(self.se) else 1.0)

    def bound(self, level: float = 0.95) -> float:
        """Half of the interval."""
        return _t((1 + level) / 2, self.freedom) * self.se if 0 < self.se < math.inf else self.se

    def detectable(self, power: float = 0.8, alpha: float = 0.05) -> float | None:
        """Smallest true difference that so many seeds and questions show with this power; None where none is known."""
        if not 0 < self.se < math.inf:
            return None
        return min(1.0, (_t(1 - alpha / 2, self.freedom) + _t(power, self.freedom)) * self.se)

    def seeds_needed(self, margin: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
        """Seeds of each with which this pair alone would be decided with this power, were the difference the true one.

        Decided is: different, or equivalent within `margin`. None: no number up to `MOST_SEEDS` does on these
        questions.
        """
        size = abs(self.difference)

        def decides(seeds: int) -> bool:
            variance = self.by_seed / seeds + self.by_question / self.questions + self.rest / (seeds * self.questions)
            se, freedom = math.sqrt(variance), seeds - 1
            reach = _t(power, freedom) * se
            return size > _t(1 - alpha / 2, freedom) * se + reach or margin - size > _t(1 - alpha, freedom) * se + reach

        if not math.isfinite(self.se) or not decides(MOST_SEEDS):
            return None
        low, high = 1, MOST_SEEDS
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if decides(middle) else (middle, high)
        return high


def _t(probability: float, freedom: float) -> float:
    from scipy.stats import t as student

    return float(student.ppf(probability, freedom))


def _by_source(difference: NDArray[np.float64], clusters: Sequence[int] | None) -> NDArray[np.float64]:
    """[seeds, sources]: a source's share in the mean, so that the mean over sources is the mean over questions.

    It is taken about the mean of all, so that sources of other sizes add no spread.
    """
    import numpy as np

    if clusters is None:
        return difference
    numbers = np.asarray(clusters)
    center, sources = difference.mean(), int(numbers.max()) + 1
    sums = np.array([np.bincount(numbers, weights=row - center, minlength=sources) for row in difference])
    return np.asarray(center + sums * sources / difference.shape[1])


def paired(difference: NDArray[np.float64], clusters: Sequence[int] | None = None) -> SeedsAndQuestions:
    """The error of the mean of [seeds, questions], differences of two systems that share the seeds.

    Args:
        difference: at least two seeds.
        clusters: the number of each question's source, where questions share one.
    """
    import numpy as np

    d = _by_source(difference, clusters)
    (s, q), mean = d.shape, float(d.mean())
    if q < 2:
        return SeedsAndQuestions(mean, 0.0, 0.0, 0.0, s, q, math.inf, 1)
    of_seeds, of_questions = d.mean(1), d.mean(0)
    ms_seeds = q * float(((of_seeds - mean) ** 2).sum()) / (s - 1)
    ms_questions = s * float(((of_questions - mean) ** 2).sum()) / (q - 1)
    rest = float(((d - of_seeds[:, None] - of_questions + mean) ** 2).sum()) / ((s - 1) * (q - 1))
    square = max(ms_seeds + ms_questions - rest, ms_seeds, ms_questions)  # no component is below zero
    if square <= 1e-15:
        return SeedsAndQuestions(mean, 0.0, 0.0, 0.0, s, q, 0.0, 1)
    components = (max(0.0, (ms_seeds - rest) / q), max(0.0, (ms_questions - rest) / s), rest)
    return SeedsAndQuestions(mean, *components, s, q, float(np.sqrt(square / (s * q))), s - 1)


def of_questions(difference: NDArray[np.float64], clusters: Sequence[int] | None = None) -> SeedsAndQuestions:
    """The error of the mean of [questions], differences of two systems that no seed changes: that of the questions."""
    import numpy as np

    d = _by_source(difference[None], clusters)[0]
    q, mean = len(d), float(d.mean())
    if q < 2:
        return SeedsAndQuestions(mean, 0.0, 0.0, 0.0, 1, q, math.inf, 1)
    variance = float(np.var(d, ddof=1))
    se = 0.0 if variance <= 1e-15 else math.sqrt(variance / q)
    return SeedsAndQuestions(mean, 0.0, variance, 0.0, 1, q, se, q - 1)


def apart(
    first: NDArray[np.float64], second: NDArray[np.float64], clusters: Sequence[int] | None = None
) -> SeedsAndQuestions:
    """The error of the difference of the means of two [seeds, questions] that share the questions, not the seeds.

    se² = s₁²/S₁ + s₂²/S₂ + var(d)/Q: s is the standard deviation over the S seeds of the accuracy, d the questions'
    differences of seed means; Welch and Satterthwaite's degrees of freedom. At least two seeds of each.
    """
    import numpy as np

    variances = [float(np.var(side.mean(1), ddof=1)) for side in (first, second)]
    difference = _by_source((first.mean(0) - second.mean(0))[None], clusters)[0]
    seeds, q, mean = (len(first), len(second)), len(difference), float(difference.mean())
    if q < 2:
        return SeedsAndQuestions(mean, 0.0, 0.0, 0.0, min(seeds), q, math.inf, 1)
    of_questions = float(np.var(difference, ddof=1))
    terms = [(v / n, n - 1) for v, n in zip(variances, seeds, strict=True)] + [(of_questions / q, q - 1)]
    square = math.fsum(t for t, _ in terms)
    if square <= 1e-15:
        return SeedsAndQuestions(mean, 0.0, 0.0, 0.0, min(seeds), q, 0.0, 1)
    freedom = min(square**2 / math.fsum(t * t / f for t, f in terms), sum(seeds) - 2)  # as in `paired`
    return SeedsAndQuestions(mean, sum(variances), of_questions, 0.0, min(seeds), q, math.sqrt(square), freedom)
