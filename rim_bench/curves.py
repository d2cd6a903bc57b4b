"""Inference curves: a method's accuracy as its own knob is turned, over FLOPs, sequential passes or milliseconds.

A curve is one row of a comparison (a method, its training, all seeds) with the evaluations that `rim-bench sweep` made of one knob;
the row's default setting is a point of each of its curves. What is between two points is interpolated, what is outside is not said.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from rim_bench import stats
from rim_bench.compare import Evaluated, Group, Row, facts_of
from rim_bench.files import canonical
from rim_bench.stats import Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COSTS = ("flops", "passes", "latency")  # FLOPs per item, sequential passes, milliseconds to the full answer at batch 1
SAME = 0.01  # costs that differ by no more than this share of them count as equal
RESAMPLES = 2_000


# Points and curves -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """One setting of a row's knob; `row.parts` are its evaluations, one a training seed, on the row's items."""

    row: Row
    knob: str | None
    value: float | None
    default: bool

    @property
    def label(self) -> str:
        """The setting in short: "default", "K=8"."""
        return "default" if self.default else f"{self.knob}={self.value:g}"

    def cost(self, kind: str, ids: Sequence[str]) -> float | None:
        """Mean cost of a question of `ids`, over questions and seeds: FLOPs, sequential passes or milliseconds; None where not stored.

        Latency is the mean to the full answer at batch 1 over the questions timed, whichever they are: `ids` does not select from them.
        """
        if kind == "flops":
            return self.row.flops(ids)
        return self.row.item_mean("passes", ids) if kind == "passes" else self.milliseconds("full_ms")

    def milliseconds(self, kind: str) -> float | None:
        """Mean latency at batch 1 ("ttft_ms" or "full_ms") over the seeds; None where one of them has none."""
        found = [((p.summary.get("latency") or {}).get(kind) or {}).get("mean") for p in self.row.parts]
        known = [float(v) for v in found if v is not None]
        return stats.mean(known) if len(known) == len(found) else None

    def solved(self, ids: Sequence[str]) -> NDArray[np.float64]:
        """[seeds, items]: 1 where correct."""
        import numpy as np

        places = [self._places[i] for i in ids]
        return np.asarray(self._solved[:, places], dtype=np.float64)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: k for k, name in enumerate(self.row.first.items)}

    @cached_property
    def _solved(self) -> NDArray[np.float64]:
        import numpy as np

        return np.array(self.row.vector(list(self._places)))


@dataclass(frozen=True)
class Curve:
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


def is_default(row: Row) -> bool:
    """Whether the row was evaluated at its method's default setting."""
    return row.first.summary.get("effort") is None and row.first.summary.get("knob") is None


def curves_of(group: Group, found: Iterable[Evaluated]) -> tuple[list[Curve], list[str]]:
    """The curves of a group's rows, and a line for each setting that no curve could take.

    `found` are evaluations with `summary["curve"]` of any runs (`compare.read(runs, curve=True)`); those of other groups are passed
    over. A point needs an evaluation of every seed of its row, on the same items and with the same settings but for the knob.
    """
    by_run: dict[str, list[Evaluated]] = {}
    for e in found:
        by_run.setdefault(e.run, []).append(e)
    curves: list[Curve] = []
    left_out: list[str] = []
    rows = [r for r in group.rows if is_default(r)]
    taken: set[tuple[str, str]] = set()
    for row in rows:
        made, lines = _curves(row, by_run, group.facts, taken)
        curves += made
        left_out += lines
    runs = {p.run for r in rows for p in r.parts}
    missed = [e for run in sorted(runs) for e in by_run.get(run, ()) if facts_of(e) == group.facts and (e.run, e.key) not in taken]
    left_out += [f"{e.run}: {_setting(e)} is no point of a curve: no default evaluation on the same items and settings" for e in missed]
    return curves, left_out


def _setting(e: Evaluated) -> str:
    knob = e.summary.get("knob")
    return f"{knob.get('name')}={knob.get('value')}" if isinstance(knob, Mapping) else e.key


def _base(e: Evaluated, knob: str) -> str:
    """The settings that a point shares with its row's default. The batch changes no answer, so it may differ."""
    drop = {"batch_size", "votes", "temperature", "sample_seed"} | ({"max_tokens"} if knob == "max_tokens" else set())
    settings = {k: v for k, v in (e.summary.get("settings") or {}).items() if k not in drop}
    return canonical([settings, list(e.items), e.quick])


def _curves(
    row: Row, by_run: Mapping[str, Sequence[Evaluated]], facts: tuple[str, ...], taken: set[tuple[str, str]]
) -> tuple[list[Curve], list[str]]:
    """The curves of one row; adds what it took to `taken`."""
    knobs: dict[tuple[str, str], dict[float, dict[str, Evaluated]]] = {}  # knob and note -> value -> run -> evaluation
    lines: list[str] = []
    for part in row.parts:
        for e in sorted(by_run.get(part.run, ()), key=lambda e: e.key):
            knob = e.summary.get("knob")
            if facts_of(e) != facts or not isinstance(knob, Mapping) or not isinstance(knob.get("value"), int | float):
                continue
            if _base(e, knob["name"]) != _base(part, knob["name"]):
                continue
            temperature = (e.summary.get("settings") or {}).get("temperature") if knob["name"] == "votes" else None
            note = "" if temperature is None else f"temperature {temperature:g}"
            runs = knobs.setdefault((str(knob["name"]), note), {}).setdefault(float(knob["value"]), {})
            taken.add((e.run, e.key))
            if runs.setdefault(part.run, e) is not e:
                lines.append(f"{row.label}: {_setting(e)} was evaluated twice for seed {part.seed}; {e.key} is left out")
    if not knobs:
        return [Curve(row, None, "", (Point(row, None, None, True),))], lines
    curves = []
    names = [name for name, _ in knobs]
    for (name, note), values in sorted(knobs.items()):
        points = [Point(row, name, _default_value(row, name), True)]
        for value, runs in sorted(values.items()):
            if missing := [str(p.seed) for p in row.parts if p.run not in runs]:
                lines.append(f"{row.label}: {name}={value:g} is no point of its curve: not evaluated for seed {', '.join(missing)}")
                continue
            points.append(Point(Row(row.label, tuple(runs[p.run] for p in row.parts)), name, value, False))
        ids = list(row.first.items)
        points.sort(key=lambda p: (p.cost("flops", ids) or 0.0, p.value or 0.0, not p.default))
        curves.append(Curve(row, name, note if names.count(name) > 1 else "", tuple(points)))
    return curves, lines


def _default_value(row: Row, knob: str) -> float | None:
    """The knob's value in the default evaluation, where the run says it."""
    if knob == "votes":
        return 1.0
    if knob == "max_tokens":
        value: Any = (row.first.summary.get("settings") or {}).get("max_tokens")
    else:
        value = (row.first.spec["method"].get("settings") or {}).get(knob)
    return float(value) if isinstance(value, int | float) else None


# One curve over one cost -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """A curve's answers at one cost: at a point, or between two of them with the weights that the cost gives them."""

    curve: Curve
    cost: float  # what it costs itself: within SAME of what was asked for at a point, equal to it in between
    parts: tuple[tuple[Point, float], ...]
    solved: NDArray[np.float64]  # [seeds, items]: the chance that a question is answered right

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
        return self.curve.row.label if self.setting == "default" else f"{self.curve.row.label}, {self.setting}"

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
class Track:
    """A curve over one cost on one set of questions: points by cost, of equally dear ones one."""

    curve: Curve
    kind: str
    ids: tuple[str, ...]
    points: tuple[Point, ...]
    costs: tuple[float, ...]  # strictly rising

    @staticmethod
    def of(curve: Curve, kind: str, ids: Sequence[str]) -> Track | None:
        """None where no point has this cost. Of points with equal cost the default stands for all, else the largest value of the knob:
        which of them is right more often must not decide.
        """
        best: dict[float, Point] = {}
        for p in sorted(curve.points, key=lambda p: (p.default, p.value if p.value is not None else -math.inf)):
            if (cost := p.cost(kind, ids)) is not None:
                best[cost] = p
        costs = sorted(best)
        return Track(curve, kind, tuple(ids), tuple(best[c] for c in costs), tuple(costs)) if costs else None

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
        """Lowest and highest cost; None where they count as equal."""
        low, high = self.costs[0], self.costs[-1]
        return None if high - low <= SAME * high else (low, high)

    def at(self, cost: float) -> Reading | None:
        """The answers at a given cost, None where the curve does not reach it: nothing is extrapolated.

        A point within SAME of the cost stands for itself (the default first, then the nearest). Else linear interpolation in the
        cost between the two neighbouring points a and b: a question counts (1 − w)·a + w·b with w = (cost − cost_a)/(cost_b − cost_a).
        That is no assumption on the curve's shape: answering each question with setting a with probability 1 − w and with setting b
        with probability w costs exactly this and is right exactly this often, both in expectation.
        """
        near = [k for k, c in enumerate(self.costs) if abs(c - cost) <= SAME * cost]
        if near:
            k = min(near, key=lambda k: (not self.points[k].default, abs(self.costs[k] - cost), -self.costs[k]))
            return Reading(self.curve, self.costs[k], ((self.points[k], 1.0),), self.solved[k])
        above = next((k for k, c in enumerate(self.costs) if c > cost), 0)
        if above == 0:
            return None
        a, b = above - 1, above
        w = (cost - self.costs[a]) / (self.costs[b] - self.costs[a])
        parts = ((self.points[a], 1 - w), (self.points[b], w))
        return Reading(self.curve, cost, parts, (1 - w) * self.solved[a] + w * self.solved[b])

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
        """[seeds, items]: the mean over log cost from `low` to `high`, both inside the curve, of the interpolated answers.

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


def tracks(curves: Iterable[Curve], kind: str, ids: Sequence[str]) -> list[Track]:
    """Every curve that has this cost."""
    return [t for c in curves if (t := Track.of(c, kind, ids)) is not None]


def joined(found: Iterable[Track]) -> list[Track]:
    """Tracks with those of one row made one where they meet in the default setting and go on from there: shorter chains below it, votes
    above. Interpolation between neighbours means the same there. Tracks of a row that lie over each other stay apart.
    """
    by_row: dict[str, list[Track]] = {}
    for track in found:
        by_row.setdefault(track.curve.row.label, []).append(track)
    out = []
    for mine in by_row.values():
        mine.sort(key=lambda t: (t.costs[0], t.costs[-1]))
        if len(mine) > 1 and all(b.costs[0] >= a.costs[-1] for a, b in itertools.pairwise(mine)):
            points = {c: p for t in mine for c, p in zip(t.costs, t.points, strict=True)}
            names = ", then ".join(dict.fromkeys(str(t.curve.knob) for t in mine))
            curve = Curve(mine[0].curve.row, names, "", tuple(points.values()))
            mine = [Track(curve, mine[0].kind, mine[0].ids, curve.points, tuple(points))]
        out += mine
    return out


def shared_span(found: Iterable[Track]) -> tuple[float, float] | None:
    """The costs that all curves of more than one cost reach; None where there are no two such curves, or no such costs."""
    spans = [s for t in found if (s := t.span) is not None]
    if len(spans) < 2:
        return None
    low, high = max(s[0] for s in spans), min(s[1] for s in spans)
    return (low, high) if high - low > SAME * high else None


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether each (cost, accuracy) is on the Pareto front: none other has at least its accuracy at no more cost, one of the two
    strictly better. On point estimates: it describes what was measured and tests nothing.
    """
    return [not any(c <= cost and a >= accuracy and (c < cost or a > accuracy) for c, a in points) for cost, accuracy in points]


# Intervals ---------------------------------------------------------------------------------------------------------------------------


class Resampler:
    """Two-level bootstrap as in `stats.paired_bootstrap`, with one set of draws of the items for all that is compared on them, so that a
    hundred differences cost hardly more than one. Seeds are drawn for each row by itself, and the same for all curves of a row.
    """

    def __init__(self, items: int, *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        import numpy as np

        self.items, self.resamples, self.seed = items, resamples, seed
        rng = np.random.default_rng(seed)
        size = max(1, 2_000_000 // max(1, items))  # resamples at a time: 16 MB as doubles
        starts = range(0, resamples, size)
        self._counts = [
            rng.multinomial(items, np.full(items, 1 / items), size=min(size, resamples - at)).astype(np.uint16) for at in starts
        ]

    def means(self, solved: NDArray[np.float64], row: Row) -> NDArray[np.float64]:
        """[resamples]: accuracies of the [seeds, items] of a row."""
        import numpy as np

        by_seed = np.concatenate([solved @ counts.T.astype(np.float64) for counts in self._counts], axis=1) / self.items
        seeds = len(solved)
        if seeds == 1:
            return np.asarray(by_seed[0])
        rng = np.random.default_rng([self.seed, zlib.crc32(row.label.encode())])
        drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=self.resamples).T / seeds  # [seeds, resamples]
        return np.asarray((by_seed * drawn).sum(0))

    @staticmethod
    def interval(draws: NDArray[np.float64], level: float = 0.95) -> Interval:
        """Percentile interval."""
        import numpy as np

        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        return Interval(float(low), float(high))
