"""Curves compared at equal inference cost: which costs, every pair of curves at each of them, and what is clear of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rim_bench import stats
from rim_bench.compare import Group, Row, Scope
from rim_bench.curves import SAME, Reading, Resampler, Track
from rim_bench.pairing import differing
from rim_bench.stats import Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Cost:
    """A cost at which curves are compared: what the default settings of some rows cost, to within `SAME`."""

    value: float
    rows: tuple[Row, ...]


def default_costs(found: Sequence[Track]) -> list[Cost]:
    """The default cost of each row, rising; rows whose costs count as equal share the lowest of theirs."""
    costs: dict[str, tuple[float, Row]] = {}
    for track in found:
        if track.default is not None:
            costs.setdefault(track.curve.row.label, (track.default, track.curve.row))
    out: list[Cost] = []
    for value, row in sorted(costs.values(), key=lambda c: c[0]):
        if out and value - out[-1].value <= SAME * out[-1].value:
            out[-1] = Cost(out[-1].value, (*out[-1].rows, row))
        else:
            out.append(Cost(value, (row,)))
    return out


@dataclass(frozen=True)
class Field:
    """The curves of one section on one set of questions, over one cost."""

    group: Group
    scope: Scope
    tracks: tuple[Track, ...]
    resampler: Resampler

    def interval(self, reading: Reading) -> Interval:
        """Bootstrap interval of an accuracy at a cost, over seeds and questions."""
        return self.resampler.interval(self.resampler.means(reading.solved, reading.curve.row))

    def area(self, track: Track, span: tuple[float, float]) -> tuple[float, Interval]:
        """Mean accuracy over log cost in `span`, with a bootstrap interval."""
        values = track.area(*span)
        return float(values.mean()), self.resampler.interval(self.resampler.means(values, track.curve.row))

    def readings(self, cost: float) -> list[Reading]:
        """What reaches a cost, in the order of the curves; the same answers only once."""
        found = (r for t in self.tracks if (r := t.at(cost)) is not None)
        return list({r.key: r for r in found}.values())


@dataclass(frozen=True)
class Difference:
    """Two readings at the same cost, on the same questions."""

    scope: Scope
    cost: Cost
    first: Reading
    second: Reading
    value: float  # accuracy of first − second
    p: float
    holm: float
    interval: Interval
    detectable: float | None
    verdict: str
    higher: Reading | None


@dataclass(frozen=True)
class _Draft:
    field: Field
    cost: Cost
    first: Reading
    second: Reading
    difference: NDArray[np.float64]  # [items]: mean over seeds of first − second
    interval: Interval
    p: float


def differences(fields: Sequence[Field]) -> list[Difference]:
    """Every pair of readings at every default cost of every field; Holm over all of them.

    Clear is what `pairing.pairs` calls clear: Holm p < 0.05, at least the smallest detectable difference, and, where there are several
    seeds or a mixture of two settings, a bootstrap interval without 0.
    """
    drafts = []
    for field in fields:
        for cost in default_costs(field.tracks):
            found = field.readings(cost.value)
            draws = [field.resampler.means(r.solved, r.curve.row) for r in found]
            for (first, a), (second, b) in itertools.combinations(list(zip(found, draws, strict=True)), 2):
                difference = first.solved.mean(0) - second.solved.mean(0)
                p = _p_value(difference, exact=first.measured and second.measured)
                drafts.append(_Draft(field, cost, first, second, difference, field.resampler.interval(a - b), p))
    return [_judged(d, adjusted) for d, adjusted in zip(drafts, stats.holm([d.p for d in drafts]), strict=True)]


def _p_value(difference: NDArray[np.float64], *, exact: bool) -> float:
    """Two-sided p that neither answers more questions right. Between two settings that were evaluated: the exact sign test of
    `pairing.pairs`. With a mixture among them the differences are fractions, of which a sign says too little (0.01 for one, 0.99 for the
    other are not one question each): then the same test's normal form, z = Σd/√Σd², which weighs them.
    """
    if exact:
        return stats.mcnemar(int((difference > 1e-9).sum()), int((difference < -1e-9).sum()))
    squares = float((difference * difference).sum())
    return math.erfc(abs(float(difference.sum())) / math.sqrt(2 * squares)) if squares > 1e-12 else 1.0


def _judged(d: _Draft, holm: float) -> Difference:
    value, squares = float(d.difference.mean()), float((d.difference * d.difference).mean())
    least = stats.detectable_difference(len(d.difference), min(1.0, squares)) if squares > 1e-12 else None
    clear = holm < 0.05 and least is not None and abs(value) >= least
    if not (d.first.measured and d.second.measured) or len(d.first.solved) + len(d.second.solved) > 2:
        clear = clear and not d.interval.low <= 0 <= d.interval.high
    signs = int((d.difference > 1e-9).sum()) - int((d.difference < -1e-9).sum())
    if d.first.measured and d.second.measured:
        clear = clear and signs * value > 0
    higher = (d.first if value > 0 else d.second) if clear else None
    verdict = f"{higher.label} higher" if higher is not None else "tied"
    floor, n = d.field.group.floor(d.field.scope)[1], len(d.difference)
    if all(stats.wilson(min(n, r.value * n), n).low <= floor for r in (d.first, d.second)):
        higher, verdict = None, "tied (both at the floor)"
    verdict += "".join(f" ({text})" for text in differing(d.first.curve.row, d.second.curve.row))
    return Difference(d.field.scope, d.cost, d.first, d.second, value, d.p, holm, d.interval, least, verdict, higher)
