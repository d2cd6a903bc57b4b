"""The numbers of one section of the leaderboard: ranks, points, curves at equal cost, needs and areas; as records."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rim_bench.evidence import training_budgets
from rim_bench.evidence.curves import COSTS, CostCurve, Need, Point, cheapest, front, joined, shared_span
from rim_bench.evidence.equal_cost import Difference, Field, default_costs, differences
from rim_bench.evidence.pairs import Pair, pairs
from rim_bench.evidence.ranking import Rank, RankingGroup, ranking
from rim_bench.evidence.rows import Accuracy, Row, Subset, stamp
from rim_bench.evidence.stats.intervals import Interval
from rim_bench.util.files import Record

TARGETS = (0.25, 0.5, 0.75, 0.9)  # accuracies whose FLOPs are looked up
COLUMNS = (
    "section", "stamp", "task", "task_version", "evaluator_version", "engine", "data_sha256", "split", "backbone",
    "division", "budget_kind", "budget_asked", "set", "ood", "n", "record", "label", "method", "seeds", "run_ids",
    "setting", "rank_low", "rank_high", "accuracy", "ci_low", "ci_high", "seed_sd", "training_flops",
    "training_examples", "budget_used", "tuning_trials", "flops", "passes", "full_ms", "ttft_ms", "fronts", "cost_kind",
    "cost", "cost_high", "at_most", "against", "against_setting", "difference", "p", "holm", "detectable", "verdict",
)  # fmt: skip


def _fraction(value: float) -> float:
    """Rounded beyond what the number of questions can show: it must not depend on the order in which a machine adds."""
    return round(value, 6) + 0.0


def _digits(value: float | None, digits: int = 6) -> float | None:
    """Rounded to so many significant digits."""
    return None if value is None else float(f"{value:.{digits}g}")


@dataclass(frozen=True)
class MeasuredSetting:
    """One setting of one row on one set of questions, as it was measured."""

    row: Row  # of the comparison
    point: Point
    accuracy: Accuracy
    costs: dict[str, float | None]  # by kind
    ttft: float | None  # milliseconds
    fronts: tuple[str, ...]  # kinds of cost in which it is on the Pareto front

    @property
    def label(self) -> str:
        """The row, and the setting where it is not the default."""
        return self.row.label if self.point.default else f"{self.row.label}, {self.point.label}"


@dataclass(frozen=True)
class LeaderboardNumbers:
    """What is computed for a contest, each thing once."""

    contest: RankingGroup

    @cached_property
    def pairs(self) -> list[Pair]:
        """Every pair of rows at their default settings."""
        return pairs(self.contest.group)

    def places(self, scope: Subset) -> list[Rank]:
        """The ranking."""
        return ranking(self.contest, scope, self.pairs)

    @cached_property
    def fields(self) -> dict[tuple[str, str], Field]:
        """By kind of cost and name of the set of questions: where some curve has that cost, and the costs compare."""
        return {
            (kind, scope.name): Field(self.contest.group, scope, tuple(tracks))
            for scope in self.contest.scopes
            for kind in COSTS
            if (tracks := self.contest.tracks(kind, scope))
        }

    @cached_property
    def compared(self) -> dict[str, list[Difference]]:
        """Differences at equal cost by kind; one Holm family each, over all its costs and sets of questions."""
        return {kind: differences([f for (k, _), f in self.fields.items() if k == kind]) for kind in COSTS}

    @cached_property
    def measured(self) -> dict[str, list[MeasuredSetting]]:
        """Every setting of every row, by the name of the set of questions."""
        points = {(c.row.label, p.label): (c.row, p) for c in self.contest.curves for p in c.points if not p.default}
        points |= {(c.row.label, ""): (c.row, p) for c in self.contest.curves for p in c.points if p.default}
        order = [r.label for r in self.contest.group.rows]

        def place(setting: tuple[Row, Point]) -> tuple[Any, ...]:
            row, point = setting
            return order.index(row.label), not point.default, point.knob or "", point.value or 0.0, point.note

        settings, out = sorted(points.values(), key=place), {}
        for scope in self.contest.scopes:
            accuracies = [p.row.accuracy(scope.ids) for _, p in settings]
            costs = [{kind: p.cost(kind, scope.ids) for kind in COSTS} for _, p in settings]
            fronts: list[list[str]] = [[] for _ in settings]
            for kind in self.contest.kinds:
                known = [(k, c, accuracies[k].value) for k, own in enumerate(costs) if (c := own[kind]) is not None]
                for (k, _, _), on_front in zip(known, front([(c, a) for _, c, a in known]), strict=True):
                    fronts[k] += [kind] if on_front else []
            out[scope.name] = [
                MeasuredSetting(row, p, a, c, p.milliseconds("ttft_ms", scope.ids), tuple(f))
                for (row, p), a, c, f in zip(settings, accuracies, costs, fronts, strict=True)
            ]
        return out

    def default(self, row: Row, scope: Subset) -> MeasuredSetting:
        """The row's default setting."""
        return next(m for m in self.measured[scope.name] if m.row.label == row.label and m.point.default)

    def joined(self, kind: str, scope: Subset) -> list[CostCurve]:
        """The curves over a cost, those of one row made one where they meet; none where the cost does not compare."""
        field = self.fields.get((kind, scope.name))
        return [] if field is None else joined(field.tracks)

    def span(self, kind: str, scope: Subset) -> tuple[float, float] | None:
        """The costs that all curves of more than one point share."""
        return shared_span(self.joined(kind, scope))

    def narrow(self, kind: str, scope: Subset) -> list[CostCurve]:
        """Curves whose costs are too near to each other for an area, though they have several settings."""
        return [t for t in self.joined(kind, scope) if t.span is None and len(t.curve.points) > 1]

    def needed(self, scope: Subset) -> list[tuple[Row, list[tuple[CostCurve, Need] | None]]]:
        """For every row, where each of `TARGETS` costs least in FLOPs: the curve and the cost; None: on none."""
        tracks = self.joined("flops", scope)
        by_row = [(row, [t for t in tracks if t.curve.row.label == row.label]) for row in self.contest.group.rows]
        return [(row, [cheapest(mine, target) for target in TARGETS]) for row, mine in by_row if mine]

    def areas(self, kind: str, scope: Subset) -> list[tuple[CostCurve, float, Interval]]:
        """Mean accuracy over log cost on the shared range, of every curve that has one; else nothing."""
        span = self.span(kind, scope)
        if span is None:
            return []
        field = self.fields[kind, scope.name]
        return [(t, *field.area(t, span)) for t in self.joined(kind, scope) if t.span is not None]

    def records(self) -> list[Record]:
        """All numbers, one record each: what it is stands under "record".

        The first, "section", has what is said of the others once.
        """
        contest, rows = self.contest, self.contest.group.rows
        facts = contest.group.facts
        base: Record = {
            "stamp": stamp(rows), "task": facts.task, "split": facts.split, "division": contest.division,
            "budget_kind": contest.kind, "budget_asked": contest.asked,
        }  # fmt: skip
        whole = {
            "record": "section", "task_version": facts.task_version, "evaluator_version": facts.evaluator_version,
            "engine": facts.engine, "data_sha256": facts.data, "backbone": rows[0].first.spec.backbone.label,
        }  # fmt: skip
        out: list[Record] = [base | whole]
        for scope in contest.scopes:
            here = base | {"set": scope.name, "ood": scope.ood, "n": len(scope.ids)}
            out += [here | r for r in itertools.chain(self._settings(scope), self._at_equal_cost(scope))]
        return out

    def _settings(self, scope: Subset) -> Iterator[Record]:
        """Records of the ranks, and of every setting."""
        for place in self.places(scope):
            row = place.row
            used = [b.used for b in training_budgets.budgets(row) if b.used is not None]
            spent = training_budgets.tuning_flops(row)
            yield {
                "record": "rank", **_row(row), "seeds": row.seeds_text, "run_ids": row.runs_text,
                **_measures(self.default(row, scope)), "rank_low": place.low, "rank_high": place.high,
                "training_flops": _digits(training_budgets.total_flops(row), 9),
                "training_examples": training_budgets.total_examples(row),
                "budget_used": _digits(sum(used) / len(used), 9) if used else None,
                "tuning_trials": training_budgets.tuning_trials(row),
                **({} if spent is None else {"tuning_flops": spent}),
            }  # fmt: skip
        for m in self.measured[scope.name]:
            own = {"seeds": m.row.seeds_text, "setting": m.point.label, "fronts": " ".join(m.fronts)}
            yield {"record": "point", **_row(m.row), **_measures(m), **own}

    def _at_equal_cost(self, scope: Subset) -> Iterator[Record]:
        """Records of the curves at equal cost, of what an accuracy costs, and of the areas."""
        for kind in COSTS:
            if (field := self.fields.get((kind, scope.name))) is None:
                continue
            for cost in default_costs(field.tracks):
                for r in field.readings(cost.value):
                    own = {"setting": r.setting, "cost_kind": kind, "cost": _digits(cost.value)}
                    yield {"record": "matched", **_row(r.curve.row), **own, **_value(r.value, field.interval(r))}
            for d in (d for d in self.compared[kind] if d.scope.name == scope.name):
                yield {
                    "record": "difference", **_row(d.first.curve.row), "setting": d.first.setting,
                    "against": d.second.curve.row.full_label, "against_setting": d.second.setting,
                    "cost_kind": kind, "cost": _digits(d.cost.value), "difference": _fraction(d.value),
                    "ci_low": _fraction(d.interval.low), "ci_high": _fraction(d.interval.high),
                    "p": _digits(d.p, 3), "holm": _digits(d.holm, 3), "detectable": _digits(d.detectable, 3),
                    "verdict": d.verdict.text("first higher" if d.higher is d.first else "second higher"),
                }  # fmt: skip
        for row, needs in self.needed(scope):
            for target, track, need in ((t, *n) for t, n in zip(TARGETS, needs, strict=True) if n is not None):
                own = {"accuracy": target, "cost_kind": "flops", "cost": _digits(need.cost), "at_most": need.at_most}
                yield {"record": "needed", **_row(row), "setting": track.curve.by, **own}
        for kind in COSTS:
            low, high = self.span(kind, scope) or (None, None)
            for track, value, interval in self.areas(kind, scope):
                ends = {"cost_kind": kind, "cost": _digits(low), "cost_high": _digits(high)}
                own = {"setting": track.curve.by, **ends, **_value(value, interval)}
                yield {"record": "area", **_row(track.curve.row), **own}


def _row(row: Row) -> Record:
    return {"label": row.full_label, "method": row.method}


def _value(accuracy: float, interval: Interval) -> Record:
    return {"accuracy": _fraction(accuracy), "ci_low": _fraction(interval.low), "ci_high": _fraction(interval.high)}


def _measures(m: MeasuredSetting) -> Record:
    costs = {"flops": m.costs["flops"], "passes": m.costs["passes"], "full_ms": m.costs["latency"], "ttft_ms": m.ttft}
    rounded = {k: _digits(v) for k, v in costs.items()}
    return {**_value(m.accuracy.value, m.accuracy.interval), "seed_sd": _fraction(m.accuracy.sd), **rounded}
