"""Inference curves: a method's accuracy as its own knob is turned, over FLOPs, sequential passes or milliseconds.

A curve is one row of a comparison (a method, its training, all seeds) with the evaluations that `rim-bench sweep` made
of one knob; the row's default setting is a point of each of its curves. What is between two points is interpolated,
what is outside is not said.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from rim_bench.evidence.rows import Evaluation, Group, LeftOut, Reason, Row
from rim_bench.evidence.stats import intervals
from rim_bench.util.files import canonical

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COSTS = ("flops", "passes", "latency")  # FLOPs per item, sequential passes, milliseconds to the full answer at batch 1
MILLISECONDS = {"latency": "full_ms", "ttft": "ttft_ms"}  # costs that are measured, by what their record is called
SAME = {
    "flops": 0.01,
    "passes": 0.01,
    "latency": 0.10,
    "ttft": 0.10,
}  # costs that differ by no more than this share count as equal
WIDE = 1.25  # an area is taken under curves whose largest cost is at least this much of their smallest
TIMED = 3  # fewer timed questions than these have no mean


def same(kind: str, first: float, second: float) -> bool:
    """Whether two costs count as equal: FLOPs and passes are counted, a latency is measured, and not to one per cent.

    The share in `SAME` is that of the larger.
    """
    return abs(first - second) <= SAME[kind] * max(first, second)


@dataclass(frozen=True)
class Point:
    """One setting of a row's knob; `row.parts` are its evaluations, one a training seed, on the row's items."""

    row: Row
    knob: str | None
    value: float | None
    default: bool
    note: str = ""  # what else tells it from a point with the same value: "temperature 1"

    @property
    def label(self) -> str:
        """The setting in short: "default", "K=8"."""
        return "default" if self.default else f"{self.knob}={self.value:g}" + (f" ({self.note})" if self.note else "")

    def cost(self, kind: str, ids: Sequence[str]) -> float | None:
        """Mean cost of a question of `ids` over questions and seeds; None where not stored.

        FLOPs and passes are those of the questions that were not too long for the model.
        """
        if kind == "flops":
            return self.row.flops(ids)
        return self.row.cost_mean("passes", ids) if kind == "passes" else self.milliseconds(MILLISECONDS[kind], ids)

    def milliseconds(self, kind: str, ids: Sequence[str]) -> float | None:
        """Mean latency at batch 1 ("ttft_ms" or "full_ms") over the timed questions of `ids`, then over the seeds.

        None where a seed has fewer than `TIMED` of them. Older evaluations do not say which questions they timed: then
        it is the mean over all of them.
        """
        wanted = set(ids)
        means: list[float] = []
        for part in self.row.parts:
            latency, mean = part.summary.latency, part.summary.time("latency", kind, "mean")
            if latency is not None and latency.questions is not None:
                lines = [(first, full) for i, first, full in latency.questions if i in wanted]
                times = [t for line in lines if (t := line[kind == "full_ms"]) is not None]
                mean = intervals.mean(times) if len(times) >= TIMED else None
            if mean is None:
                return None
            means.append(float(mean))
        return intervals.mean(means)

    @property
    def pooled(self) -> bool:
        """Whether an evaluation does not say which questions it timed."""
        latencies = [latency for p in self.row.parts if (latency := p.summary.latency) is not None]
        return any(latency.full_ms is not None and latency.questions is None for latency in latencies)

    def solved(self, ids: Sequence[str]) -> NDArray[np.float64]:
        """[seeds, items]: 1 where correct."""
        return self.row.solved(ids)


@dataclass(frozen=True)
class InferenceCurve:
    """Points of one row under one knob, by FLOPs; a row without a sweep has its default alone, and `knob` is None."""

    row: Row
    knob: str | None
    note: str  # what of the sweep's settings tells two curves of one knob apart; else empty
    points: tuple[Point, ...]

    @property
    def label(self) -> str:
        """The row's label and the knob."""
        return self.row.label + (f", {self.by}" if self.by else "")

    @property
    def by(self) -> str:
        """The knob: "by K"; empty where there is none."""
        return (f"by {self.knob}" if self.knob else "") + (f" ({self.note})" if self.note else "")


def curves_of(group: Group, evaluations: Iterable[Evaluation]) -> tuple[list[InferenceCurve], list[LeftOut]]:
    """The curves of a group's rows, and each setting that no curve could take.

    `evaluations` are those with `summary.curve` of any runs (`rows.read(runs, curve=True)`); those of other groups
    are passed over. A point needs an evaluation of every seed of its row, on the same items and with the same settings
    but for the knob.
    """
    by_run: dict[str, list[Evaluation]] = {}
    for e in evaluations:
        if e.facts == group.facts:
            by_run.setdefault(e.run, []).append(e)
    curves: list[InferenceCurve] = []
    left_out: list[LeftOut] = []
    rows = [r for r in group.rows if r.first.default]
    taken: set[tuple[str, str]] = set()
    for row in rows:
        of_row, missing = _curves(row, by_run, taken)
        curves += of_row
        left_out += missing
    runs = {p.run for r in rows for p in r.parts}
    missed = [e for run in sorted(runs) for e in by_run.get(run, ()) if (e.run, e.key) not in taken]
    why = "is no point of a curve: no default evaluation on the same items and settings"
    left_out += [LeftOut(e.run, Reason.NO_POINT, f"{_setting(e)} {why}") for e in missed]
    return curves, left_out


def _setting(e: Evaluation) -> str:
    knob = e.summary.knob
    return e.key if knob is None else f"{knob.name}={knob.value}"


def _base(e: Evaluation, knob: str) -> str:
    """The settings that a point shares with its row's default."""
    drop = {"votes", "temperature", "sample_seed"} | ({"max_tokens"} if knob == "max_tokens" else set())
    return canonical([{k: v for k, v in e.settings.items() if k not in drop}, e.quick])


def _curves(
    row: Row, by_run: Mapping[str, Sequence[Evaluation]], taken: set[tuple[str, str]]
) -> tuple[list[InferenceCurve], list[LeftOut]]:
    """The curves of one row; adds what it took to `taken`."""
    knobs: dict[tuple[str, str], dict[float, dict[str, Evaluation]]] = {}  # knob and note -> value -> run -> evaluation
    left_out: list[LeftOut] = []
    for part in row.parts:
        for e in sorted(by_run.get(part.run, ()), key=lambda e: e.key):
            knob = e.summary.knob
            if knob is None or not isinstance(knob.value, int | float):
                continue
            if _base(e, knob.name) != _base(part, knob.name):
                continue
            temperature = e.settings.get("temperature") if knob.name == "votes" else None
            note = "" if temperature is None else f"temperature {temperature:g}"
            runs = knobs.setdefault((knob.name, note), {}).setdefault(float(knob.value), {})
            taken.add((e.run, e.key))
            if runs.setdefault(part.run, e) is not e:
                detail = f"{_setting(e)} was evaluated twice for seed {part.seed}; {e.key} is left out"
                left_out.append(LeftOut(row.label, Reason.TWICE, detail))
    if not knobs:
        return [InferenceCurve(row, None, "", (Point(row, None, None, True),))], left_out
    curves, ids = [], list(row.first.items)
    names = [name for name, _ in knobs]
    defaults = row.first.spec.method.settings
    defaults = {**defaults, "votes": 1, "max_tokens": row.first.settings.get("max_tokens")}
    for (name, note), values in sorted(knobs.items()):
        note = note if names.count(name) > 1 else ""
        default = float(defaults[name]) if isinstance(defaults.get(name), int | float) else None
        points = [Point(row, name, default, True)]
        for value, runs in sorted(values.items()):
            if missing := [str(p.seed) for p in row.parts if p.run not in runs]:
                detail = f"{name}={value:g} is no point of its curve: not evaluated for seed {', '.join(missing)}"
                left_out.append(LeftOut(row.label, Reason.NO_POINT, detail))
                continue
            points.append(Point(replace(row, parts=tuple(runs[p.run] for p in row.parts)), name, value, False, note))
        points.sort(key=lambda p: (p.cost("flops", ids) or 0.0, p.value or 0.0, not p.default))
        curves.append(InferenceCurve(row, name, note, tuple(points)))
    return curves, left_out


@dataclass(frozen=True)
class MatchedAccuracy:
    """A curve's answers at one cost: at a point, or between two of them with the weights that the cost gives them."""

    curve: InferenceCurve
    cost: float  # its own: at a point as good as equal to what was asked for (`same`), in between equal to it
    parts: tuple[tuple[Point, float], ...]
    solved: NDArray[np.float64]  # [seeds, items]: the chance that a question is answered right

    @property
    def row(self) -> Row:
        """The curve's row."""
        return self.curve.row

    @property
    def measured(self) -> bool:
        """Whether it is a setting that was evaluated, not a mixture of two."""
        return len(self.parts) == 1

    @property
    def value(self) -> float:
        """Accuracy."""
        return float(self.solved.mean())

    @property
    def label(self) -> str:
        """The row, and the setting where it is not the default."""
        default = self.measured and self.parts[0][0].default
        return self.curve.row.label if default else f"{self.curve.row.label}, {self.setting}"

    @property
    def setting(self) -> str:
        """The setting, or the two it lies between: "K=2 to K=4"."""
        return " to ".join(p.label for p, _ in self.parts)

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for readings that are the same answers, as the default is on each of a row's curves."""
        if self.measured and self.parts[0][0].default:
            return (self.curve.row.label,)
        return self.curve.label, *((p.value, round(w, 9)) for p, w in self.parts)


class Need(NamedTuple):
    """What an accuracy costs on a curve; `at_most` where the cheapest setting has it already."""

    cost: float
    at_most: bool


@dataclass(frozen=True)
class CostCurve:
    """A curve over one cost on one set of questions: points by cost, of equally dear ones one."""

    curve: InferenceCurve
    kind: str
    ids: tuple[str, ...]
    points: tuple[Point, ...]
    costs: tuple[float, ...]  # rising, no two of them the same

    @staticmethod
    def of(curve: InferenceCurve, kind: str, ids: Sequence[str]) -> CostCurve | None:
        """None where no point has this cost.

        Of points whose costs count as equal the default stands for all, else the largest value of the knob: which of
        them is right more often must not decide, and nothing is interpolated along what measuring a latency adds.
        """
        kept: list[tuple[float, Point]] = []
        for p in sorted(curve.points, key=lambda p: (not p.default, -p.value if p.value is not None else 0.0)):
            cost = p.cost(kind, ids)
            if cost is not None and cost > 0 and not any(same(kind, cost, other) for other, _ in kept):
                kept.append((cost, p))
        if not kept:
            return None
        costs, points = zip(*sorted(kept, key=lambda k: k[0]), strict=True)
        return CostCurve(curve, kind, tuple(ids), points, costs)

    @cached_property
    def solved(self) -> tuple[NDArray[np.float64], ...]:
        """[seeds, items] of every point."""
        return tuple(p.solved(self.ids) for p in self.points)

    @property
    def default(self) -> float | None:
        """Cost of the default setting."""
        return next((c for p, c in zip(self.points, self.costs, strict=True) if p.default), None)

    @property
    def span(self) -> tuple[float, float] | None:
        """Lowest and highest cost; None where they are nearer than `WIDE`."""
        low, high = self.costs[0], self.costs[-1]
        return None if high < WIDE * low else (low, high)

    def at(self, cost: float) -> MatchedAccuracy | None:
        """The answers at a given cost, None where the curve does not reach it: nothing is extrapolated.

        A point whose cost is the same stands for itself (the default first, then the nearest). Else linear
        interpolation in the cost between the two neighbouring points a and b: a question counts (1 − w)·a + w·b with w
        = (cost − cost_a)/(cost_b − cost_a). That is no assumption on the curve's shape: answering each question with
        setting a with probability 1 − w and with setting b with probability w costs exactly this and is right exactly
        this often, both in expectation.
        """
        near = [k for k, c in enumerate(self.costs) if same(self.kind, c, cost)]
        if near:
            k = min(near, key=lambda k: (not self.points[k].default, abs(self.costs[k] - cost), -self.costs[k]))
            return MatchedAccuracy(self.curve, self.costs[k], ((self.points[k], 1.0),), self.solved[k])
        above = next((k for k, c in enumerate(self.costs) if c > cost), 0)
        if above == 0:
            return None
        a, b = above - 1, above
        w = (cost - self.costs[a]) / (self.costs[b] - self.costs[a])
        parts = ((self.points[a], 1 - w), (self.points[b], w))
        return MatchedAccuracy(self.curve, cost, parts, (1 - w) * self.solved[a] + w * self.solved[b])

    def needed(self, accuracy: float) -> Need | None:
        """The lowest cost at which the interpolated curve has this accuracy; None where it never gets there."""
        values = [float(v.mean()) for v in self.solved]
        if values[0] >= accuracy:
            return Need(self.costs[0], True)
        for k in range(1, len(values)):
            if values[k] >= accuracy > values[k - 1]:
                w = (accuracy - values[k - 1]) / (values[k] - values[k - 1])
                return Need(self.costs[k - 1] + w * (self.costs[k] - self.costs[k - 1]), False)
        return None

    def area(self, low: float, high: float) -> NDArray[np.float64]:
        """[seeds, items]: the interpolated answers' mean over log cost from `low` to `high`, both inside the curve.

        Between two points y(c) = a + (b − a)(c − c_a)/(c_b − c_a), and ∫ y d(log c) has a closed form.
        """
        import numpy as np

        total = np.zeros_like(self.solved[0])
        for k in range(1, len(self.costs)):
            c_a, c_b = self.costs[k - 1], self.costs[k]
            start, end = max(c_a, low), min(c_b, high)
            if end <= start:
                continue
            log = math.log(end / start)
            share = ((end - start) - c_a * log) / (c_b - c_a)  # ∫ w d(log c)
            total += (log - share) * self.solved[k - 1] + share * self.solved[k]
        return total / math.log(high / low)


def tracks(curves: Iterable[InferenceCurve], kind: str, ids: Sequence[str]) -> list[CostCurve]:
    """Every curve that has this cost."""
    return [t for c in curves if (t := CostCurve.of(c, kind, ids)) is not None]


def joined(cost_curves: Iterable[CostCurve]) -> list[CostCurve]:
    """The curves with those of one row made one where they meet in the default setting and go on from there.

    Shorter chains lie below it, votes above. Interpolation between neighbours means the same there. Curves of a row
    that lie over each other stay apart.
    """
    by_row: dict[str, list[CostCurve]] = {}
    for track in cost_curves:
        by_row.setdefault(track.curve.row.label, []).append(track)
    out = []
    for mine in by_row.values():
        mine.sort(key=lambda t: (t.costs[0], t.costs[-1]))
        if len(mine) > 1 and all(b.costs[0] >= a.costs[-1] for a, b in itertools.pairwise(mine)):
            points = {c: p for t in mine for c, p in zip(t.costs, t.points, strict=True)}
            names = ", then ".join(dict.fromkeys(str(t.curve.knob) for t in mine))
            curve = InferenceCurve(mine[0].curve.row, names, "", tuple(points.values()))
            mine = [CostCurve(curve, mine[0].kind, mine[0].ids, curve.points, tuple(points))]
        out += mine
    return out


def shared_span(cost_curves: Iterable[CostCurve]) -> tuple[float, float] | None:
    """The costs that all curves with a range reach; None without two such curves, or without such costs."""
    spans = [(t.kind, *s) for t in cost_curves if (s := t.span) is not None]
    if len(spans) < 2:
        return None
    low, high = max(s[1] for s in spans), min(s[2] for s in spans)
    return (low, high) if high > low and not same(spans[0][0], low, high) else None


def cheapest(cost_curves: Iterable[CostCurve], accuracy: float) -> tuple[CostCurve, Need] | None:
    """The curve, of those of one row, on which an accuracy costs least; None where none of them gets there."""
    needs = [(t, need) for t in cost_curves if (need := t.needed(accuracy)) is not None]
    return min(needs, key=lambda n: (n[1].cost, n[1].at_most), default=None)


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether each (cost, accuracy) is on the Pareto front: none is as good in both and better in one.

    On point estimates: it describes what was measured and tests nothing.
    """
    return [
        not any(c <= cost and a >= accuracy and (c < cost or a > accuracy) for c, a in points)
        for cost, accuracy in points
    ]
