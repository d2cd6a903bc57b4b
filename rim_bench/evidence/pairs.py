"""Every pair of rows on the same questions, and the one rule for what is called higher, also at equal inference cost.

"tied" is a difference smaller than the number of questions can show, and one that other training seeds could undo.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from rim_bench.evidence.rows import Group, Row, Subset
from rim_bench.evidence.stats import clustered, tests
from rim_bench.evidence.stats.intervals import Interval, Resampler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ALONE = "this pair alone"
TINY = 1e-9  # what differs by less is equal: sums of fractions are not exact


class Side(Protocol):
    """One setting of a row, or a mixture of two, and how it answered the questions."""

    @property
    def row(self) -> Row:
        """The row of the comparison."""

    @property
    def label(self) -> str:
        """The name in tables."""

    @property
    def solved(self) -> NDArray[np.float64]:
        """[seeds, items]: 1 where correct; a fraction in a mixture."""

    @property
    def measured(self) -> bool:
        """Whether it was evaluated; False: a mixture."""


S = TypeVar("S", bound=Side)


class Differs(Enum):
    """What else than the method may explain a difference between two rows; the value says it in words."""

    START = "other start"
    BUDGET = "other budget"


@dataclass(frozen=True)
class Verdict(Generic[S]):
    """What a contrast says of its two sides."""

    higher: S | None  # the side that is clearly better, this pair taken by itself; None where they are tied
    only_alone: bool = False  # not after Holm over the seeds' p of the family: nothing is ranked or headlined by it
    at_floor: bool = False  # both sides are, so that neither is better
    differs: tuple[Differs, ...] = ()

    @property
    def winner(self) -> S | None:
        """The side that is clearly better also after Holm over the seeds' p: what may rank."""
        return None if self.only_alone else self.higher

    def text(self, outcome: str = "") -> str:
        """In words; `outcome` stands for "LABEL higher" where a side is higher."""
        if self.higher is None:
            text = "tied (both at the floor)" if self.at_floor else "tied"
        else:
            text = (outcome or f"{self.higher.label} higher") + (f" ({ALONE})" if self.only_alone else "")
        return text + "".join(f" ({d.value})" for d in self.differs)


@dataclass(frozen=True)
class PairedDifference(Generic[S]):
    """Two sides on the same questions."""

    first: S
    second: S
    interval: Interval  # two-level bootstrap of the difference
    clusters: tuple[int, ...] | None = None  # the items' sources by number, where items share one

    @cached_property
    def difference(self) -> NDArray[np.float64]:
        """[items]: first − second, of the means over seeds."""
        import numpy as np

        return np.asarray(self.first.solved.mean(0) - self.second.solved.mean(0))

    @property
    def value(self) -> float:
        """Accuracy of first − second."""
        return float(self.difference.mean())

    @property
    def counts(self) -> tuple[int, int]:
        """Questions that the first solves only (or in a larger share of its seeds), and those of the second."""
        return int((self.difference > TINY).sum()), int((self.difference < -TINY).sum())

    @cached_property
    def p(self) -> float:
        """Two-sided p over the questions: exact McNemar between two settings with one seed each, otherwise z = Σd/√Σd².

        Where questions share a source, the same over sums by source: the exact sign-flip test, and z.
        """
        exact = all(side.measured and len(side.solved) == 1 for side in (self.first, self.second))
        if self.clusters is not None:
            return (clustered.sign_flip if exact else clustered.normal_sign_flip)(self.difference, self.clusters)
        return tests.mcnemar(*self.counts) if exact else tests.normal_test(self.difference)

    @cached_property
    def detectable(self) -> float | None:
        """Smallest detectable difference at the discordance observed; None where no question is discordant.

        The discordance's upper bound is no way out: for no n is a difference within that bound detectable. Where
        questions share a source, on n / design effect of them.
        """
        if self.clusters is not None:
            return clustered.detectable_clustered(self.difference, self.clusters)
        squares = float((self.difference * self.difference).mean())
        return tests.detectable_difference(len(self.difference), min(1.0, squares)) if squares > 1e-12 else None

    def retraining(self, level: float = 0.95) -> float | None:
        """`tests.retraining_bound` of the difference."""
        return tests.retraining_bound(self.first.solved, self.second.solved, level, self.clusters)

    @cached_property
    def p_seeds(self) -> float | None:
        """Two-sided p over training seeds and questions; None with one seed on each side."""
        error = tests.retraining(self.first.solved, self.second.solved, self.clusters)
        return None if error is None else error.p

    def judged(self, holm: float, floor: float, holm_seeds: float | None = None) -> Verdict[S]:
        """The verdict.

        Clear is: adjusted p < 0.05, at least the smallest detectable difference, and, where a side has several seeds,
        more than the retraining bound; that holds for this pair by itself, and the verdict says so where it does not
        after Holm over the seeds' p of the family, too. Nothing is clear where both sides' intervals reach the floor.

        Args:
            holm: the adjusted `p`.
            floor: accuracy of the best constant answer.
            holm_seeds: the adjusted `p_seeds`.
        """
        size, least = abs(self.value), self.detectable
        clear = holm < 0.05 and least is not None and size >= least - TINY
        if clear and (bound := self.retraining()) is not None:
            clear = size > bound + TINY
        higher = (self.first if self.value > 0 else self.second) if clear else None
        differs = differing(self.first.row, self.second.row)
        if all(clustered.lowest(s.solved, self.clusters) <= floor + TINY for s in (self.first, self.second)):
            return Verdict(None, at_floor=True, differs=differs)
        alone = higher is not None and holm_seeds is not None and holm_seeds >= 0.05
        return Verdict(higher, only_alone=alone, differs=differs)


def contrasts(
    sides: Sequence[S], clusters: tuple[int, ...] | None = None, *, ablations: bool = False
) -> Iterator[PairedDifference[S]]:
    """Every pair of sides in order.

    Two settings of the same trained model are not ranked against each other: with `ablations` they are contrasted, too,
    and the caller must not say that the one is better.
    """
    if len(sides) < 2:
        return
    resampler = Resampler.of(sides[0].solved.shape[1], clusters)
    one_source = clusters is not None and len(set(clusters)) < 2  # shows no spread, and says nothing of another
    draws = [resampler.means(s.solved, s.row.runs_text) for s in sides]
    for (first, a), (second, b) in itertools.combinations(list(zip(sides, draws, strict=True)), 2):
        if ablations or not set(first.row.runs) & set(second.row.runs):
            interval = Interval(-1.0, 1.0) if one_source else resampler.interval(a - b)
            yield PairedDifference(first, second, interval, clusters)


def judged(drafts: Sequence[tuple[PairedDifference[S], float]]) -> list[tuple[float, Verdict[S]]]:
    """Of a family of contrasts, each with its floor: Holm's adjusted p over the questions, and the verdict.

    The seeds' p is adjusted among the contrasts that have several seeds.
    """
    family = [c for c, _ in drafts]
    seeds = iter(tests.holm([c.p_seeds for c in family if c.p_seeds is not None]))
    return [
        (holm, c.judged(holm, floor, None if c.p_seeds is None else next(seeds)))
        for (c, floor), holm in zip(drafts, tests.holm([c.p for c in family]), strict=True)
    ]


@dataclass(frozen=True)
class Pair:
    """Two rows on the same questions; `PairedDifference` says what the numbers are."""

    scope: Subset
    first: Row
    second: Row
    difference: float  # accuracy of first − second
    b: int  # questions only (with several seeds: or more often) the first solves
    c: int
    p: float
    holm: float
    interval: Interval
    detectable: float | None
    verdict: Verdict[Whole]
    p_seeds: float | None = None  # over training seeds and questions, for this pair by itself

    @property
    def higher(self) -> Row | None:
        """The row that is clearly better, this pair taken by itself; None where they are tied."""
        return None if self.verdict.higher is None else self.verdict.higher.row

    @property
    def winner(self) -> Row | None:
        """The row that is clearly better also after Holm over the seeds' p: what may rank."""
        return None if self.verdict.winner is None else self.verdict.winner.row


@dataclass(frozen=True)
class Whole:
    """A row as a side."""

    row: Row
    solved: NDArray[np.float64]
    measured: bool = True

    @property
    def label(self) -> str:
        """The row's label."""
        return self.row.label


def pairs(group: Group) -> list[Pair]:
    """Every pair of rows of different runs on the headline set and on the OOD set; Holm over all of them."""
    drafts: list[tuple[Subset, PairedDifference[Whole]]] = []
    for scope in (s for s in group.scopes if not s.level):
        sides = [Whole(r, r.solved(scope.ids)) for r in group.rows]
        drafts += [(scope, c) for c in contrasts(sides, group.clusters(scope))]
    out, verdicts = [], judged([(c, group.floor(scope)[1]) for scope, c in drafts])
    for (scope, c), (holm, verdict) in zip(drafts, verdicts, strict=True):
        (b, k), rows = c.counts, (c.first.row, c.second.row)
        out.append(Pair(scope, *rows, c.value, b, k, c.p, holm, c.interval, c.detectable, verdict, c.p_seeds))
    return out


def differing(first: Row, second: Row) -> tuple[Differs, ...]:
    """What else than the method may explain a difference between two rows: another start, another training budget."""
    a, b = first.first.spec, second.first.spec
    apart = {Differs.START: a.start != b.start, Differs.BUDGET: a.total_budget != b.total_budget}
    return tuple(what for what, differs in apart.items() if differs)
