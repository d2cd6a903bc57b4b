"""What the pictures of a report draw: accuracies, differences, accuracy over costs, training losses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from rim_bench.evidence import training_budgets
from rim_bench.evidence.curves import CostCurve, InferenceCurve, front, tracks
from rim_bench.evidence.pairs import Pair
from rim_bench.evidence.rows import Evaluation, Group, Row, Subset, stamp
from rim_bench.evidence.stats.intervals import Interval
from rim_bench.report.page.records import (
    CostLine,
    CostPicture,
    CostPoint,
    Estimate,
    FloorLine,
    ForestLine,
    LossCurve,
    QuestionSet,
    RowFacts,
)
from rim_bench.report.page.words import kind_of
from rim_bench.report.plots.style import COLORS, color_and_marker
from rim_bench.report.sections import format_bounds
from rim_bench.storage.run_folder import Run
from rim_bench.util.text import (
    format_amount,
    format_flops,
    format_interval,
    format_number,
    format_p,
    format_percent,
    format_points,
)

COST_TITLES = {
    "flops": "FLOPs per question",
    "passes": "sequential passes",
    "ttft": "ms to the first token (batch 1, mean)",
    "latency": "ms to the full answer (batch 1, mean)",
}
_TIMED = ("ttft", "latency")
STRETCHES = 120  # points of a loss curve


def question_set(group: Group, scope: Subset) -> QuestionSet:
    """A set of questions with its floor."""
    floor = group.floor(scope)
    text = f"{format_percent(floor.value)} % {format_interval(*floor.interval)}: {floor.text()}"
    return QuestionSet(scope.name, scope.title, scope.level, scope.ood, len(scope.ids), FloorLine(floor.value, text))


def estimate(row: Row, ids: Sequence[str], at_floor: bool) -> Estimate:
    """The accuracy of a row on some questions."""
    accuracy = row.accuracy(ids)
    seeds = tuple(row.of_seed(part).accuracy(ids).value for part in row.parts)
    known = not math.isnan(accuracy.sd)
    return Estimate(
        accuracy.value,
        accuracy.interval.low,
        accuracy.interval.high,
        accuracy.sd if known else None,
        seeds,
        at_floor,
        format_percent(accuracy.value),
        format_percent(accuracy.sd) if known else "-",
        format_interval(*accuracy.interval),
        tuple(map(format_percent, seeds)),
    )


def budget_texts(group: Group) -> list[str]:
    """The training budget of each row, in words."""
    first = (training_budgets.Budget.of(row.first) for row in group.rows)
    return [training_budgets.budget_text(budget.kind, budget.asked) for budget in first]


def row_facts(group: Group, budgets: Sequence[str]) -> Iterator[RowFacts]:
    """The rows of a group; `budgets` are those that there are."""
    methods = [row.method for row in group.rows]
    for row, budget in zip(group.rows, budget_texts(group), strict=True):
        color, marker = color_and_marker(row.method, methods)
        yield RowFacts(
            row.label,
            row.method,
            COLORS.index(color),
            marker,
            budgets.index(budget),
            tuple(part.seed for part in row.parts),
            row.runs,
            stamp([row]),
            tuple(estimate(row, scope.ids, group.at_floor(row, scope)) for scope in group.scopes),
        )


def differences(group: Group, pairs: Sequence[Pair]) -> Iterator[ForestLine]:
    """Every pair of rows."""
    rows = {id(row): k for k, row in enumerate(group.rows)}
    sets = {scope.name: k for k, scope in enumerate(group.scopes) if not scope.level}
    for p in pairs:
        back = Interval(-p.interval.high, -p.interval.low)
        yield ForestLine(
            sets[p.scope.name],
            rows[id(p.first)],
            rows[id(p.second)],
            p.difference,
            p.interval.low,
            p.interval.high,
            kind_of(p),
            (format_points(p.difference), format_bounds(p.interval)),
            (format_points(-p.difference), format_bounds(back)),
            p.b,
            p.c,
            format_p(p.p),
            "-" if p.p_seeds is None else format_p(p.p_seeds),
            format_p(p.holm),
            format_percent(p.detectable),
            p.verdict.text(),
        )


def cost_pictures(group: Group, curves: Sequence[InferenceCurve]) -> Iterator[CostPicture]:
    """Accuracy over every cost, on the headline set and on OOD. `curves`: those of the group."""
    settings: list[Evaluation] = [e for c in curves for p in c.points for e in p.row.parts]
    apart = training_budgets.timed_apart(settings)
    for number, scope in enumerate(group.scopes):
        if scope.level:
            continue
        for kind, title in COST_TITLES.items():
            missing, lines = "", []
            if kind in _TIMED and apart:
                missing = f"the runs were timed on different machines or settings ({apart})"
            elif not (lines := _cost_lines(group, scope, tracks(curves, kind, scope.ids))):
                missing = "none of the runs has it stored"
            yield CostPicture(number, kind, title, tuple(lines), missing)


def _cost_lines(group: Group, scope: Subset, costs: Sequence[CostCurve]) -> list[CostLine]:
    rows, budgets = {row.label: k for k, row in enumerate(group.rows)}, budget_texts(group)
    by_budget: dict[str, list[tuple[float, float]]] = {}
    for track in costs:
        values = [(cost, p.row.accuracy(scope.ids).value) for cost, p in zip(track.costs, track.points, strict=True)]
        by_budget.setdefault(budgets[rows[track.curve.row.label]], []).extend(values)
    best = {budget: dict(zip(points, front(points), strict=True)) for budget, points in by_budget.items()}
    out = []
    for track in costs:
        row, points = rows[track.curve.row.label], []
        for cost, point in zip(track.costs, track.points, strict=True):
            here = estimate(point.row, scope.ids, group.at_floor(point.row, scope))
            text = format_flops(cost) if track.kind == "flops" else format_amount(cost)
            on_front = best[budgets[row]][cost, here.value]
            points.append(CostPoint(point.label, point.default, cost, text, here, on_front))
        out.append(CostLine(row, track.curve.label, tuple(points)))
    return out


def loss_curves(group: Group, runs: Mapping[str, Run]) -> Iterator[LossCurve]:
    """The training losses of a group's runs; `runs` by id."""
    for number, row in enumerate(group.rows):
        for part in row.parts:
            logged = [m for m in runs[part.run].metrics() if m.get("loss") is not None]
            if not logged:
                continue
            steps, losses = [float(m["step"]) for m in logged], [float(m["loss"]) for m in logged]
            width = max(1, math.ceil(len(logged) / STRETCHES))
            parts = [slice(k, k + width) for k in range(0, len(logged), width)]
            means = [math.fsum(losses[s]) / len(losses[s]) for s in parts]
            starts = [k for k in range(len(logged)) if k == 0 or logged[k].get("stage") != logged[k - 1].get("stage")]
            yield LossCurve(
                number,
                part.seed,
                part.run,
                tuple(math.fsum(steps[s]) / len(steps[s]) for s in parts),
                tuple(means),
                tuple((int(logged[k]["step"]), str(logged[k].get("stage") or "")) for k in starts),
                format_number(means[0], 3),
                format_number(means[-1], 3),
                int(logged[-1]["step"]),
            )
