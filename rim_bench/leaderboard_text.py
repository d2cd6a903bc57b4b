"""One section of the leaderboard as text: its grids and the notes beneath them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rim_bench import cells, chosen, cluster_grid, matching
from rim_bench.compare import QUICK, Scope
from rim_bench.curves import COSTS, SAME, TIMED, WIDE, Need
from rim_bench.equal_cost import Cost, Difference, default_costs
from rim_bench.leaderboard_sheet import TARGETS, Sheet
from rim_bench.naming import backbone_label, leaves
from rim_bench.pairing import ALONE, rule_notes
from rim_bench.render import Grid, Section
from rim_bench.stamps import changed_notes
from rim_bench.stats import RESAMPLES

NAMES = {"flops": "FLOPs per item", "passes": "sequential passes", "latency": "latency"}
_SHORT = {"flops": "FLOPs", "passes": "passes", "latency": "latency"}


def section(sheet: Sheet) -> Section:
    """Rankings first, then equal cost, then the points, what an accuracy costs, and areas."""
    contest, scopes = sheet.contest, sheet.contest.scopes
    grids = [_ranking(sheet, s) for s in scopes]
    for kind in COSTS:
        grids += [g for s in scopes if (g := _matched(sheet, kind, s)) is not None]
        if sheet.compared[kind]:
            grids.append(_differences(sheet.compared[kind], kind, len(scopes) > 1))
    for scope in scopes:
        grids += _points(sheet, scope)
        grids += [g for g in (_needed(sheet, scope), _areas(sheet, scope)) if g is not None]
    title = f"{contest.title} ({QUICK})" if contest.group.quick else contest.title
    notes = [note.replace(contest.ending, "") for note in _notes(sheet)]
    if contest.ending:
        notes.insert(1, f"All rows: {contest.ending.strip(' ()')}.")
    return Section(title, tuple(_without(g, contest.ending) for g in grids), tuple(notes))


def _without(grid: Grid, ending: str) -> Grid:
    """The grid without what is behind all labels; the notes say it once."""
    if not ending:
        return grid
    rows = tuple(tuple(cell.replace(ending, "") for cell in row) for row in grid.rows)
    return Grid(grid.caption, tuple(c.replace(ending, "") for c in grid.columns), rows, grid.short)


def cost_text(kind: str, value: float | None) -> str:
    """A cost with its unit."""
    if value is None:
        return "-"
    return cells.flops(value) if kind == "flops" else cells.amount(value) + (" ms" if kind == "latency" else "")


def _set(scope: Scope) -> str:
    return f"{scope.title}, n = {len(scope.ids):,}"


def _ranking(sheet: Sheet, scope: Scope) -> Grid:
    names = (
        "method", "rank", "accuracy %", "FLOPs per item", "passes", "full answer ms", "training FLOPs", "budget met", "TTFT ms", "seeds",
    )  # fmt: skip
    rows = []
    for place in sheet.places(scope):
        row, m = place.row, sheet.default(place.row, scope)
        accuracy = cells.accuracy(m.accuracy, sheet.contest.group.at_floor(row, scope))
        costs = (cells.flops(m.costs["flops"]), cells.amount(m.costs["passes"]), cells.amount(m.costs["latency"]))
        training = (matching.flops_text(row), matching.closeness(row))
        rows.append((row.label, place.text, accuracy, *costs, *training, cells.amount(m.ttft), str(len(row.parts))))
    return Grid(f"Ranking at the default settings, {_set(scope)}: ranks that overlap are ties", names, tuple(rows))


def _matched(sheet: Sheet, kind: str, scope: Scope) -> Grid | None:
    """Accuracy of every curve at every default cost; empty where the curve does not reach it."""
    field = sheet.fields.get((kind, scope.name))
    if field is None or not (costs := default_costs(field.tracks)):
        return None
    rows = []
    for track in field.tracks:
        found = [track.at(c.value) for c in costs]
        rows.append((track.curve.label, *("" if r is None else f"{cells.pct(r.value)} {cells.interval(field.interval(r))}" for r in found)))
    heads = [f"{cost_text(kind, c.value)} ({', '.join(r.label for r in c.rows)})" for c in costs]
    caption = f"Accuracy % at equal {NAMES[kind]}, {_set(scope)}: columns are the default costs; empty where a curve does not reach"
    return Grid(caption, ("curve", *heads), tuple(rows))


def _differences(found: Sequence[Difference], kind: str, several: bool) -> Grid:
    def cost(c: Cost) -> str:
        return cost_text(kind, c.value)

    rows = []
    for d in found:
        bounds = f"[{cells.points(d.interval.low)}, {cells.points(d.interval.high)}]"
        numbers = (cells.points(d.value), bounds, cells.p_value(d.p), cells.p_value(d.holm), cells.pct(d.detectable), d.verdict)
        rows.append((cost(d.cost), *((d.scope.name,) if several else ()), d.first.label, d.second.label, *numbers))
    names = ("first", "second", "difference", "bootstrap 95 %", "p (questions)", "Holm p", "smallest detectable", "verdict")
    caption = f"Paired differences at equal {NAMES[kind]}, points, first minus second; Holm over all of them"
    return Grid(caption, (NAMES[kind], *(("questions",) if several else ()), *names), tuple(rows), False)


def _points(sheet: Sheet, scope: Scope) -> Iterator[Grid]:
    names = ("setting", "on the front", "accuracy %", "FLOPs per item", "passes", "full answer ms", "TTFT ms")
    rows = []
    for m in sheet.measured[scope.name]:
        costs = (cells.flops(m.costs["flops"]), cells.amount(m.costs["passes"]), cells.amount(m.costs["latency"]), cells.amount(m.ttft))
        rows.append((m.label, ", ".join(_SHORT[k] for k in m.fronts), cells.accuracy(m.accuracy), *costs))
    rule = "no other has at least its accuracy at no more cost; point estimates, descriptive"
    yield Grid(f"Every setting measured, and the Pareto fronts ({rule}), {_set(scope)}", names, tuple(rows), False)
    yield Grid(f"Pareto fronts ({rule}), {_set(scope)}", names, tuple(r for r in rows if r[1]), True)


def _needed(sheet: Sheet, scope: Scope) -> Grid | None:
    if not (found := sheet.needed(scope)):
        return None

    def text(need: Need) -> str:
        return ("at most " if need.at_most else "") + cells.flops(need.cost)

    rows = [(row.label, *("" if n is None else text(n[1]) for n in needs)) for row, needs in found]
    caption = f"Least FLOPs per item for an accuracy, interpolated, {_set(scope)}: empty where no curve of the row gets there"
    return Grid(caption, ("method", *(f"{100 * t:.0f} %" for t in TARGETS)), tuple(rows))


def _areas(sheet: Sheet, scope: Scope) -> Grid | None:
    """Mean accuracy over log cost, a column for each cost that two curves share a range of."""
    spans = [(kind, span) for kind in COSTS if (span := sheet.span(kind, scope)) is not None]
    if not spans:
        return None
    by_kind = {kind: {t.curve.label: (v, i) for t, v, i in sheet.areas(kind, scope)} for kind, _ in spans}
    order = [r.label for r in sheet.contest.group.rows]
    labels = {t.curve.label: order.index(t.curve.row.label) for kind, _ in spans for t, _, _ in sheet.areas(kind, scope)}
    rows = []
    for label in sorted(labels, key=lambda name: (labels[name], name)):
        found = [by_kind[kind].get(label) for kind, _ in spans]
        rows.append((label, *("" if f is None else f"{cells.pct(f[0])} {cells.interval(f[1])}" for f in found)))
    heads = [f"{NAMES[kind]}, {cost_text(kind, low)} to {cost_text(kind, high)}" for kind, (low, high) in spans]
    caption = f"Area under the curve: mean accuracy % over log cost on the range shared by all curves that have one, {_set(scope)}"
    return Grid(caption, ("curve", *heads), tuple(rows))


def _notes(sheet: Sheet) -> Iterator[str]:
    contest, group = sheet.contest, sheet.contest.group
    facts = group.facts
    parts = [p for r in group.rows for p in r.parts]
    yield (
        f"{facts.task}, version {facts.task_version}; split {facts.split}; n = {len(parts[0].items):,} questions; data sha256 "
        f"{facts.data[:12]}; evaluator version {facts.evaluator_version}; backbone {backbone_label(parts[0].spec.get('backbone'))}."
    )
    yield _division(sheet)
    if budget := matching.matched(group.rows):
        yield budget
    if contest.others:
        yield "Rows with other training budgets stand in sections of their own: they are not ranked against these."
    if len({p.spec.get("start") for p in parts}) > 1:
        yield "Rows differ in their starting weights: a difference between them may be the start's."
    if len(group.rows) == 1:
        yield "One row only: there is nothing to rank it against."
    yield from matching.evaluation_notes(contest.evaluations)
    yield (
        "Rank: 1 + the rows clearly higher, to the number of rows − those clearly lower; Holm over the section's pairs, of the questions' "
        f'p and of the seeds\': what is higher in "{ALONE}" ranks nobody.'
    )
    yield from rule_notes(group.rows)
    yield from cluster_grid.notes(group)
    yield (
        "±: standard deviation over training seeds. [..]: Wilson 95 % on the questions in rankings, points and pictures; two-level "
        f"bootstrap 95 % over seeds and questions ({RESAMPLES:,} resamples) at equal cost, for differences and for areas."
    )
    yield from _curve_notes(sheet)
    yield from _area_notes(sheet)
    for scope in contest.scopes:
        answer, share = group.floor(scope)
        low = all(group.at_floor(r, scope) for r in group.rows)
        text = " All accuracies are at the floor and cannot be ranked." if low else ""
        yield f"Floor ({scope.name}): the best constant answer ({answer!r}) scores {cells.pct(share)} %.{text}"
    yield from chosen.notes(group.rows)
    yield from changed_notes(group.rows)
    if group.quick:
        yield f"{QUICK}."


def _division(sheet: Sheet) -> str:
    contest, rows = sheet.contest, sheet.contest.group.rows
    trials = {r.label: matching.tuning_trials(r) for r in rows}
    data = sorted({str(r.first.spec["task"].get("train_sha256"))[:12] for r in rows})
    spent = [f"{r.label} {cells.flops(f)}" for r in rows if (f := chosen.tuning_flops(r)) is not None]
    tuning = f" Training FLOPs of the trials, beside the runs' own: {', '.join(spent)}." if spent else ""
    if contest.closed:
        return (
            f"Closed division: all rows share training data (sha256 {data[0]}), backbone, training FLOPs, each met within one step, and "
            f"the number of learning-rate trials that their recipes declare ({next(iter(trials.values()))}).{tuning}"
        )
    told = "; ".join(f"{label} {'undeclared' if n is None else n}" for label, n in trials.items())
    same = f"training data sha256 {', '.join(data)}" + (" (rows differ in their training data)" if len(data) > 1 else "")
    return f"Open division: rows of one training budget, whatever else is declared; {same}; learning-rate trials: {told}.{tuning}"


def _curve_notes(sheet: Sheet) -> Iterator[str]:
    contest = sheet.contest
    if bare := [c.row.label for c in contest.curves if c.knob is None]:
        yield f"No curve: {', '.join(bare)}; run `rim-bench sweep`. The default setting is a curve of one point."
    near = f"Costs within {100 * SAME['flops']:g} % of each other (measured latencies: {100 * SAME['latency']:g} %) count as equal"
    yield (
        "At equal cost: between two neighbouring settings of a curve, accuracy is interpolated linearly in the cost, which is what "
        "answering each question with one of the two by chance costs and scores in expectation; beyond the settings measured nothing is "
        f"said. {near}; of equally dear settings of a curve the default stands for all, else the largest. Settings of one trained model "
        "are not tested against each other."
    )
    settings: dict[str, set[str]] = {}
    for p in contest.evaluations:
        for key, value in leaves(p.summary.get("settings") or {}).items():
            settings.setdefault(key, set()).add(str(value))
    if settings:
        texts = (f"{k} {', '.join(sorted(v, key=_natural))}" for k, v in sorted(settings.items()))
        yield f"Evaluation, all settings: {'; '.join(texts)}."
    timed = {str((p.summary.get("latency") or {}).get("n")) for p in contest.evaluations}
    text = f"Latency: mean time to the full answer at batch 1 over {' or '.join(sorted(timed, key=_natural))} questions timed"
    if len(contest.scopes) > 1:
        text += f", of the set that is compared (blank under {TIMED})"
        if any(point.pooled for c in contest.curves for point in c.points):
            text += "; older evaluations do not say which they timed, and stand with the mean over all of them"
    yield f"{text}; its own measurement error is in no interval."


def _area_notes(sheet: Sheet) -> Iterator[str]:
    """Which curves and which areas are missing, and why."""
    contest = sheet.contest
    names = [s.name for s in contest.scopes]

    def where(found: Sequence[str]) -> str:
        return "" if len(found) == len(names) else f" ({', '.join(found)})"

    for kind in contest.kinds:
        narrow: dict[str, list[str]] = {}
        for scope in contest.scopes:
            for track in sheet.narrow(kind, scope):
                narrow.setdefault(track.curve.label, []).append(scope.name)
        if narrow:
            told = "; ".join(label + where(found) for label, found in narrow.items())
            yield f"Left out of the area over {NAMES[kind]}, largest cost under {WIDE:g} times the smallest: {told}."
    missing = {kind: [s.name for s in contest.scopes if sheet.span(kind, s) is None] for kind in contest.kinds}
    if told := "; ".join(NAMES[kind] + where(found) for kind, found in missing.items() if found):
        yield f"No area under the curves over {told}: too few curves, or no range that all of them share."


def _natural(text: str) -> tuple[float, str]:
    return (float(text), "") if re.fullmatch(r"\d+(\.\d+)?", text) else (float("inf"), text)
