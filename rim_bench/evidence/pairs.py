"""Every pair of rows on the same questions, and the one rule for its verdict, also at equal inference cost.

A verdict is on methods, so it counts training seeds as well as questions: higher, lower, equivalent within
`EQUIVALENCE`, or undecided. From one seed there is none: a difference is then said of these weights alone. A row of
which nothing was trained has no seed that could change it: it is the same beside every seed of another row, and between
two such rows the error is that of the questions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from rim_bench.evidence.rows import Group, Row, Subset
from rim_bench.evidence.stats import clustered, crossed, tests
from rim_bench.evidence.stats.crossed import SeedsAndQuestions
from rim_bench.evidence.stats.intervals import Interval, Resampler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EQUIVALENCE = 0.02  # accuracies that differ by less are as good
LEVEL = 0.05
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
    TRAINED = "only one of them trained"


@dataclass(frozen=True)
class Verdict(Generic[S]):
    """What a contrast says of its two sides."""

    higher: S | None = None  # the side that is better, over seeds and questions, after Holm over the family
    equivalent: bool = False  # they differ by less than `EQUIVALENCE`, after Holm over the family
    one_seed: bool = False  # a side has one seed: nothing is said of the methods
    here: S | None = None  # with one seed: the side whose weights are better on these questions
    seeds_needed: int | None = None  # undecided: of each side; None: no number decides on these questions
    at_floor: bool = False  # both sides are, so that neither is better
    differs: tuple[Differs, ...] = ()

    @property
    def undecided(self) -> bool:
        """Whether the data do not say which is better, nor that neither is."""
        return self.higher is None and not self.equivalent

    def text(self, outcome: str = "") -> str:
        """In words; `outcome` stands for "LABEL higher" where a side is higher."""
        if self.at_floor:
            text = "undecided (both at the floor)"
        elif self.one_seed:
            better = "no difference shown" if self.here is None else outcome or f"{self.here.label} higher"
            text = f"one seed (these weights: {better})"
        elif self.higher is not None:
            text = outcome or f"{self.higher.label} higher"
        elif self.equivalent:
            text = "equivalent"
        else:
            few = "no number of seeds" if self.seeds_needed is None else f"{self.seeds_needed:,} seeds"
            text = f"undecided ({few} would decide)"
        return text + "".join(f" ({d.value})" for d in self.differs)


@dataclass(frozen=True)
class Adjusted:
    """The p values of a contrast, adjusted over its family by Holm's method."""

    p: float  # of "they are equal": `p_seeds`; with one seed `p`, over those of one seed
    p_equivalent: float  # of "they differ by `EQUIVALENCE` or more"
    family: int  # contrasts in it


@dataclass(frozen=True)
class PairedDifference(Generic[S]):
    """Two sides on the same questions."""

    first: S
    second: S
    bootstrap: Interval  # two-level, of the difference
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
    def error(self) -> SeedsAndQuestions | None:
        """The difference's error over seeds and questions, paired by training seed where both sides have it.

        None where a side has one seed: nothing is known of retraining. With nothing trained there is nothing to know.
        """
        mine, theirs = ([p.seed for p in side.row.parts] for side in (self.first, self.second))
        if self.first.row.untrained or self.second.row.untrained:
            by_seed = self.first.solved - self.second.solved  # [seeds of the other, items]
            if self.seedless:
                return crossed.of_questions(by_seed[0], self.clusters)
            return crossed.paired(by_seed, self.clusters) if len(by_seed) > 1 else None
        if len(shared := [seed for seed in mine if seed in theirs]) > 1:
            a, b = self.first.solved, self.second.solved
            by_seed = a[[*map(mine.index, shared)]] - b[[*map(theirs.index, shared)]]
            return crossed.paired(by_seed, self.clusters)
        if min(len(mine), len(theirs)) < 2:
            return None
        return crossed.apart(self.first.solved, self.second.solved, self.clusters)

    @cached_property
    def detectable(self) -> float | None:
        """Smallest detectable difference, over seeds and questions; None where nothing differs.

        With one seed over the questions alone, at the discordance observed: its upper bound is no way out, for no n is
        a difference within that bound detectable. Where questions share a source, on n / design effect of them.
        """
        if self.error is not None:
            return self.error.detectable()
        if self.clusters is not None:
            return clustered.detectable_clustered(self.difference, self.clusters)
        squares = float((self.difference * self.difference).mean())
        return tests.detectable_difference(len(self.difference), min(1.0, squares)) if squares > 1e-12 else None

    @property
    def interval(self) -> Interval:
        """95 % of the difference: over seeds and questions; with one seed the bootstrap over questions."""
        if self.error is None:
            return self.bootstrap
        half = self.error.bound()
        return Interval(max(-1.0, self.error.difference - half), min(1.0, self.error.difference + half))

    @property
    def p_seeds(self) -> float | None:
        """Two-sided p over training seeds and questions; None where a side has one seed."""
        if self.seedless:  # few questions on which they differ ask for the exact test
            return self.p
        return None if self.error is None else self.error.p

    @property
    def p_equivalent(self) -> float:
        """p of "they differ by `EQUIVALENCE` or more" (TOST); 1 where a side has one seed.

        Without seeds Tango's test of the paired questions, which has an answer where none of them differs.
        """
        if self.seedless and self.clusters is None and self.first.measured and self.second.measured:
            return tests.equivalence(*self.counts, len(self.difference), EQUIVALENCE)
        return 1.0 if self.error is None else self.error.p_equivalent(EQUIVALENCE)

    @property
    def seedless(self) -> bool:
        """Whether nothing was trained of either side, so that no seed could change them."""
        return self.first.row.untrained and self.second.row.untrained

    @property
    def leader(self) -> S:
        """The side with the larger mean."""
        return self.first if (self.value if self.error is None else self.error.difference) > 0 else self.second

    def judged(self, adjusted: Adjusted, floor: float) -> Verdict[S]:
        """The verdict. Neither side is better where the intervals of both reach the floor.

        Args:
            floor: what an answer gets that looks at nothing, in accuracy.
        """
        differs = differing(self.first.row, self.second.row)
        if all(clustered.lowest(s.solved, self.clusters) <= floor + TINY for s in (self.first, self.second)):
            return Verdict(at_floor=True, one_seed=self.error is None, differs=differs)
        better = self.leader if adjusted.p < LEVEL else None
        if self.error is None:
            return Verdict(one_seed=True, here=better, differs=differs)
        if better is not None or adjusted.p_equivalent < LEVEL:
            return Verdict(better, better is None, differs=differs)
        needed = None if self.seedless else self.error.seeds_needed(EQUIVALENCE, alpha=LEVEL / adjusted.family)
        return Verdict(seeds_needed=needed and max(needed, self.error.seeds + 1), differs=differs)


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
    """Of a family of contrasts, each with its floor: Holm's adjusted p, and the verdict.

    Contrasts that differ in the method alone are one family, those with another start or budget a second one; each in
    two parts, of several seeds and of one.
    """
    families: dict[tuple[bool, bool], list[int]] = {}
    for k, (c, _) in enumerate(drafts):
        families.setdefault((c.error is None, bool(differing(c.first.row, c.second.row))), []).append(k)
    out: dict[int, tuple[float, Verdict[S]]] = {}
    for members in families.values():
        family = [drafts[k][0] for k in members]
        holm = tests.holm([c.p if c.p_seeds is None else c.p_seeds for c in family])
        alike = tests.holm([c.p_equivalent for c in family])
        for k, p, equivalent in zip(members, holm, alike, strict=True):
            difference, floor = drafts[k]
            out[k] = p, difference.judged(Adjusted(p, equivalent, len(members)), floor)
    return [out[k] for k in range(len(drafts))]


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
    p_seeds: float | None = None  # over training seeds and questions, not adjusted

    @property
    def higher(self) -> Row | None:
        """The row that is better; None where they are equivalent, undecided, or have one seed."""
        return None if self.verdict.higher is None else self.verdict.higher.row


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
    out, verdicts = [], judged([(c, group.floor(scope).value) for scope, c in drafts])
    for (scope, c), (holm, verdict) in zip(drafts, verdicts, strict=True):
        (b, k), rows = c.counts, (c.first.row, c.second.row)
        out.append(Pair(scope, *rows, c.value, b, k, c.p, holm, c.interval, c.detectable, verdict, c.p_seeds))
    return out


def differing(first: Row, second: Row) -> tuple[Differs, ...]:
    """What else than the method may explain a difference between two rows: another start, another training budget.

    Or that training explains it, of which one of them had none.
    """
    a, b = first.first.spec, second.first.spec
    if a.untrained != b.untrained:
        return (Differs.TRAINED,)
    apart = {Differs.START: a.start != b.start, Differs.BUDGET: a.total_budget != b.total_budget}
    return tuple(what for what, differs in apart.items() if differs)
