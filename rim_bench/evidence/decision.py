"""What to deploy within a budget for one answer: the best arm with latent positions beside the best one of text.

Of every row the best *measured* setting within the budget counts: nothing is interpolated, and what was not measured is
named. The arms are chosen on the questions that they are compared on, which flatters both; p is adjusted over all pairs
of a latent and a text arm (Holm).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from rim_bench.evidence.curves import InferenceCurve, MatchedAccuracy, Point
from rim_bench.evidence.pairs import PairedDifference, Verdict, contrasts, judged
from rim_bench.evidence.ranking import RankingGroup
from rim_bench.evidence.rows import Accuracy, Row, Subset

BudgetKind = Literal["flops", "latency", "memory"]
Family = Literal["latent", "text"]
Answer = Literal["yes", "no", "not shown"]
FAMILIES: tuple[Family, Family] = ("latent", "text")


@dataclass(frozen=True)
class AnswerBudget:
    """What one answer may cost, and how accurate it must be.

    Attributes:
        kind: FLOPs per item, milliseconds to the full answer at batch 1, or bytes of keys and values.
        least: accuracy below which an arm is of no use; a fraction.
    """

    kind: BudgetKind
    amount: float
    least: float = 0.0


@dataclass(frozen=True)
class ArmWithinBudget:
    """A row at its best measured setting within the budget."""

    family: Family
    point: Point
    cost: float
    accuracy: Accuracy
    reading: MatchedAccuracy  # its answers


@dataclass(frozen=True)
class Beyond:
    """A row without a setting that counts: too dear, not accurate enough, or without this cost."""

    family: Family
    row: Row
    cheapest: float | None  # the lowest cost measured; None: this cost is not stored
    best: float | None  # the best accuracy within the budget; None: nothing lies within it


@dataclass(frozen=True)
class BudgetDecision:
    """What the stored runs of one contest say of a budget."""

    contest: RankingGroup
    scope: Subset
    budget: AnswerBudget

    @cached_property
    def arms(self) -> tuple[ArmWithinBudget, ...]:
        """The rows that have a setting within the budget, the best first."""
        arms = [arm for row in self.contest.group.rows if (arm := self._arm(row)) is not None]
        return tuple(sorted(arms, key=lambda arm: -arm.accuracy.value))

    @cached_property
    def beyond(self) -> tuple[Beyond, ...]:
        """The other rows."""
        inside = {arm.reading.row.label for arm in self.arms}
        out = []
        for row in self.contest.group.rows:
            if row.label not in inside:
                costs = [cost for _, _, cost in self._settings(row)]
                within = [r.value for r in self._within(row)]
                out.append(Beyond(self.family(row), row, min(costs, default=None), max(within, default=None)))
        return tuple(out)

    @cached_property
    def unmeasured(self) -> tuple[Row, ...]:
        """Rows that nobody has swept: there may be a better setting within the budget."""
        return tuple(c.row for c in self.contest.curves if c.knob is None)

    def family(self, row: Row) -> Family:
        """Latent where the default prompt has positions that carry no text: thoughts, memory blocks, pauses."""
        return "latent" if (row.cost_mean("latent_positions", self.scope.ids) or 0.0) > 0 else "text"

    def best(self, family: Family) -> ArmWithinBudget | None:
        """The most accurate arm of a family; None where it has none."""
        return next((arm for arm in self.arms if arm.family == family), None)

    @cached_property
    def contrast(self) -> tuple[PairedDifference[MatchedAccuracy], Verdict[MatchedAccuracy]] | None:
        """The best latent arm against the best text arm, latent first; None where one of them is missing."""
        best = [self.best(family) for family in FAMILIES]
        if best[0] is None or best[1] is None:
            return None
        sides = [arm.reading for arm in sorted(self.arms, key=lambda arm: arm.family)]  # latent before text
        of = {id(arm.reading): arm.family for arm in self.arms}
        clusters, floor = self.contest.group.clusters(self.scope), self.contest.group.floor(self.scope).value
        across = [c for c in contrasts(sides, clusters) if of[id(c.first)] != of[id(c.second)]]
        verdicts = judged([(c, floor) for c in across])
        for difference, (_, verdict) in zip(across, verdicts, strict=True):
            if difference.first is best[0].reading and difference.second is best[1].reading:
                return difference, verdict
        return None  # settings of one trained model: neither is better than the other

    @property
    def answer(self) -> Answer:
        """Whether latent beats the best text arm within the budget."""
        if self.contrast is None:
            return "not shown"
        difference, verdict = self.contrast
        if verdict.higher is not None:
            return "yes" if verdict.higher is difference.first else "no"
        return "no" if verdict.equivalent else "not shown"

    def _settings(self, row: Row) -> list[tuple[InferenceCurve, Point, float]]:
        """Every measured setting of a row that has this cost."""
        mine = [c for c in self.contest.curves if c.row.label == row.label]
        return [(c, p, cost) for c in mine for p in c.points if (cost := self.cost(p)) is not None]

    def cost(self, point: Point) -> float | None:
        """Mean cost of an answer in the budget's unit; None where it is not stored, or timed on several machines."""
        ids, kind = self.scope.ids, self.budget.kind
        if kind == "memory":
            return point.row.cost_mean("kv_bytes", ids)
        return point.cost(kind, ids) if kind in self.contest.kinds else None

    def _within(self, row: Row) -> list[MatchedAccuracy]:
        return [
            MatchedAccuracy(curve, cost, ((point, 1.0),), point.solved(self.scope.ids))
            for curve, point, cost in self._settings(row)
            if cost <= self.budget.amount
        ]

    def _arm(self, row: Row) -> ArmWithinBudget | None:
        within = [r for r in self._within(row) if r.value >= self.budget.least]
        if not within:
            return None
        best = max(within, key=lambda r: (r.value, -r.cost))
        point = best.parts[0][0]
        return ArmWithinBudget(self.family(row), point, best.cost, point.row.accuracy(self.scope.ids), best)


def decisions(contests: Sequence[RankingGroup], budget: AnswerBudget) -> list[BudgetDecision]:
    """One for every contest and set of questions: in distribution, and beyond it where there is such."""
    return [
        BudgetDecision(c, scope, budget)
        for c, scope in itertools.chain(*([(c, s) for s in c.scopes] for c in contests))
    ]
