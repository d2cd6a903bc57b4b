"""Curves compared at equal inference cost: which costs, every pair of curves at each of them, and what is clear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rim_bench.evidence.curves import CostCurve, MatchedAccuracy, same
from rim_bench.evidence.pairs import PairedDifference, Verdict, contrasts, judged
from rim_bench.evidence.rows import Group, Row, Subset
from rim_bench.evidence.stats.intervals import Interval, Resampler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Cost:
    """A cost at which curves are compared: what the default settings of some rows cost, where `same` says so."""

    value: float
    rows: tuple[Row, ...]


def default_costs(cost_curves: Sequence[CostCurve]) -> list[Cost]:
    """The default cost of each row, rising; rows whose costs count as equal share the lowest of theirs."""
    costs: dict[str, tuple[float, Row]] = {}
    for track in cost_curves:
        if track.default is not None:
            costs.setdefault(track.curve.row.label, (track.default, track.curve.row))
    out: list[Cost] = []
    for value, row in sorted(costs.values(), key=lambda c: c[0]):
        if out and same(cost_curves[0].kind, value, out[-1].value):
            out[-1] = Cost(out[-1].value, (*out[-1].rows, row))
        else:
            out.append(Cost(value, (row,)))
    return out


@dataclass(frozen=True)
class Field:
    """The curves of one section on one set of questions, over one cost."""

    group: Group
    scope: Subset
    tracks: tuple[CostCurve, ...]

    def interval(self, reading: MatchedAccuracy) -> Interval:
        """Bootstrap interval of an accuracy at a cost, over seeds and questions."""
        return self._interval(reading.solved, reading.curve.row)

    def area(self, track: CostCurve, span: tuple[float, float]) -> tuple[float, Interval]:
        """Mean accuracy over log cost in `span`, with a bootstrap interval."""
        values = track.area(*span)
        return float(values.mean()), self._interval(values, track.curve.row)

    def _interval(self, solved: NDArray[np.float64], row: Row) -> Interval:
        return self.resampler.interval(self.resampler.means(solved, row.runs_text))

    @property
    def resampler(self) -> Resampler:
        """Draws of its questions."""
        return Resampler.of(len(self.scope.ids), self.group.clusters(self.scope))

    def readings(self, cost: float) -> list[MatchedAccuracy]:
        """What reaches a cost, in the order of the curves; the same answers only once."""
        reached = (r for t in self.tracks if (r := t.at(cost)) is not None)
        return list({r.key: r for r in reached}.values())


@dataclass(frozen=True)
class Difference:
    """Two readings at the same cost, on the same questions."""

    scope: Subset
    cost: Cost
    first: MatchedAccuracy
    second: MatchedAccuracy
    value: float  # accuracy of first − second
    p: float
    holm: float
    interval: Interval
    detectable: float | None
    verdict: Verdict[MatchedAccuracy]

    @property
    def higher(self) -> MatchedAccuracy | None:
        """The reading that is better; None where they are equivalent, undecided, or have one seed."""
        return self.verdict.higher


def differences(fields: Sequence[Field]) -> list[Difference]:
    """Every pair of readings of different rows at every default cost of every field; Holm over all of them.

    The verdict is that of `pairs.PairedDifference`.
    """
    drafts: list[tuple[Field, Cost, PairedDifference[MatchedAccuracy]]] = []
    for field in fields:
        clusters = field.group.clusters(field.scope)
        for cost in default_costs(field.tracks):
            drafts += [(field, cost, c) for c in contrasts(field.readings(cost.value), clusters)]
    out, verdicts = [], judged([(c, field.group.floor(field.scope).value) for field, _, c in drafts])
    for (field, cost, c), (holm, verdict) in zip(drafts, verdicts, strict=True):
        numbers = (c.value, c.p, holm, c.interval, c.detectable)
        out.append(Difference(field.scope, cost, c.first, c.second, *numbers, verdict))
    return out
