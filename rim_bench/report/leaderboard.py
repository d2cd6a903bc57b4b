"""The leaderboard: rankings at equal training budgets, comparisons at equal inference cost. A pure function of stored
runs: the same
runs give the same bytes. Accuracy is never blended over tasks, and oracle numbers do not appear.

One section of the leaderboard as text: its grids and the notes beneath them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rim_bench.evidence import training_budgets
from rim_bench.evidence.curves import COSTS, SAME, TIMED, WIDE, Need
from rim_bench.evidence.equal_cost import Cost, Difference, default_costs
from rim_bench.evidence.leaderboard import COLUMNS, TARGETS, LeaderboardNumbers
from rim_bench.evidence.pairs import ALONE
from rim_bench.evidence.ranking import RankingGroup, contests
from rim_bench.evidence.rows import LeftOut, Subset
from rim_bench.evidence.stats.intervals import RESAMPLES
from rim_bench.report import sections
from rim_bench.report.notes import changed_notes, evaluation_notes, matched, rule_notes
from rim_bench.report.sections import selection_columns
from rim_bench.storage.run_folder import Damaged, Run
from rim_bench.util.files import Record, finite, write_bytes_atomic
from rim_bench.util.table import QUICK, Panel, Section, Table
from rim_bench.util.text import (
    backbone_label,
    format_accuracy,
    format_amount,
    format_flops,
    format_interval,
    format_p,
    format_percent,
    format_points,
    leaves,
)

TITLE = "Leaderboard at equal compute"
_ONCE = (
    "stamp",
    "task",
    "task_version",
    "evaluator_version",
    "data_sha256",
    "split",
    "backbone",
    "division",
    "budget_kind",
    "budget_asked",
)


@dataclass(frozen=True)
class Board:
    """A leaderboard as text; `table.records` are its numbers, and `table` writes itself as Markdown, LaTeX and for the
    terminal.
    """

    table: Table
    contests: tuple[RankingGroup, ...]

    def to_csv(self) -> str:
        """Tidy CSV: a line for each rank, point, matched accuracy, difference, needed cost and area ("record" says
        which); each section's
        first line has what is the same for all of its lines."""
        return self.table.to_csv()

    def to_json(self) -> str:
        """Sections with their notes and records, one on a line; a record has the fields that apply to it."""
        by_section: dict[int, list[Record]] = {}
        for record in self.table.records:
            by_section.setdefault(record["section"], []).append(record)
        sections = []
        for number, made in enumerate(self.table.sections, 1):
            head, *found = by_section[number]
            told = {"title": made.title, **{k: head[k] for k in _ONCE}, "notes": list(made.notes)}
            rows = [
                {k: r[k] for k in self.table.columns if k not in (*_ONCE, "section") and r.get(k) not in (None, "")}
                for r in found
            ]
            lines = ",\n".join(_json(r) for r in rows)
            sections.append(f'{_json(told, indent=1)[:-2]},\n "records": [\n{lines}\n]}}')
        whole = _json({"schema": 1, "title": self.table.heading, "left_out": list(self.table.left_out)}, indent=1)
        return f'{whole[:-2]},\n "sections": [\n' + ",\n".join(sections) + "\n]}\n"

    def write(self, folder: Path) -> list[Path]:
        """Writes leaderboard.md, .csv, .tex and .json into a folder; each is there whole or not at all.

        Raises:
            UsageError: disk full or not writable.
        """
        texts = {
            "md": self.table.to_markdown(),
            "csv": self.to_csv(),
            "tex": self.table.to_latex(),
            "json": self.to_json(),
        }
        for suffix, text in texts.items():
            write_bytes_atomic(folder / f"leaderboard.{suffix}", text.encode())
        return [folder / f"leaderboard.{suffix}" for suffix in texts]


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(
        finite(value), indent=indent, separators=(",", ": " if indent else ":"), ensure_ascii=False, allow_nan=False
    )


def leaderboard(runs: Iterable[Run], *, split: str | None = None, damaged: Iterable[Damaged] = ()) -> Board:
    """The leaderboard of stored runs. `damaged` (from `Store.runs`) are named under it.

    Raises:
        UsageError: nothing to rank, or runs that must not be in one leaderboard.
    """
    found, unranked = contests(runs, split)
    left_out = (*map(LeftOut.text, unranked), *(f"{d.path.name}: {d.reason}" for d in damaged))
    sheets = [LeaderboardNumbers(c) for c in found]
    records = tuple({"section": number, **r} for number, s in enumerate(sheets, 1) for r in s.records())
    quick, columns = any(c.group.quick for c in found), (*COLUMNS, *selection_columns(records, ("tuning_flops",)))
    return Board(
        Table(TITLE, quick, tuple(section(s) for s in sheets), records, columns, left_out, "leaderboard.md"),
        tuple(found),
    )


NAMES = {"flops": "FLOPs per item", "passes": "sequential passes", "latency": "latency"}
_SHORT = {"flops": "FLOPs", "passes": "passes", "latency": "latency"}


def section(sheet: LeaderboardNumbers) -> Section:
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
    return Section(title, tuple(grids), tuple(_notes(sheet)))


def cost_text(kind: str, value: float | None) -> str:
    """A cost with its unit."""
    if value is None:
        return "-"
    return format_flops(value) if kind == "flops" else format_amount(value) + (" ms" if kind == "latency" else "")


def _set(scope: Subset) -> str:
    return f"{scope.title}, n = {len(scope.ids):,}"


def _ranking(sheet: LeaderboardNumbers, scope: Subset) -> Panel:
    names = (
        "method",
        "rank",
        "accuracy %",
        "FLOPs per item",
        "passes",
        "full answer ms",
        "training FLOPs",
        "budget met",
        "TTFT ms",
        "seeds",
    )
    rows = []
    for place in sheet.places(scope):
        row, m = place.row, sheet.default(place.row, scope)
        accuracy = format_accuracy(m.accuracy, sheet.contest.group.at_floor(row, scope))
        costs = (format_flops(m.costs["flops"]), format_amount(m.costs["passes"]), format_amount(m.costs["latency"]))
        training = (training_budgets.flops_text(row), training_budgets.closeness(row))
        rows.append((row.label, place.text, accuracy, *costs, *training, format_amount(m.ttft), str(len(row.parts))))
    return Panel(f"Ranking at the default settings, {_set(scope)}: ranks that overlap are ties", names, tuple(rows))


def _matched(sheet: LeaderboardNumbers, kind: str, scope: Subset) -> Panel | None:
    """Accuracy of every curve at every default cost; empty where the curve does not reach it."""
    field = sheet.fields.get((kind, scope.name))
    if field is None or not (costs := default_costs(field.tracks)):
        return None
    rows = []
    for track in field.tracks:
        found = [track.at(c.value) for c in costs]
        rows.append(
            (
                track.curve.label,
                *(
                    "" if r is None else f"{format_percent(r.value)} {format_interval(*field.interval(r))}"
                    for r in found
                ),
            )
        )
    heads = [f"{cost_text(kind, c.value)} ({', '.join(r.label for r in c.rows)})" for c in costs]
    caption = (
        f"Accuracy % at equal {NAMES[kind]}, {_set(scope)}: columns are the default costs; empty where a curve "
        "does not reach"
    )
    return Panel(caption, ("curve", *heads), tuple(rows))


def _differences(found: Sequence[Difference], kind: str, several: bool) -> Panel:
    def cost(c: Cost) -> str:
        return cost_text(kind, c.value)

    rows = []
    for d in found:
        bounds = f"[{format_points(d.interval.low)}, {format_points(d.interval.high)}]"
        numbers = (
            format_points(d.value),
            bounds,
            format_p(d.p),
            format_p(d.holm),
            format_percent(d.detectable),
            d.verdict.text(),
        )
        rows.append((cost(d.cost), *((d.scope.name,) if several else ()), d.first.label, d.second.label, *numbers))
    names = (
        "first",
        "second",
        "difference",
        "bootstrap 95 %",
        "p (questions)",
        "Holm p",
        "smallest detectable",
        "verdict",
    )
    caption = f"Paired differences at equal {NAMES[kind]}, points, first minus second; Holm over all of them"
    return Panel(caption, (NAMES[kind], *(("questions",) if several else ()), *names), tuple(rows), False)


def _points(sheet: LeaderboardNumbers, scope: Subset) -> Iterator[Panel]:
    names = ("setting", "on the front", "accuracy %", "FLOPs per item", "passes", "full answer ms", "TTFT ms")
    rows = []
    for m in sheet.measured[scope.name]:
        costs = (
            format_flops(m.costs["flops"]),
            format_amount(m.costs["passes"]),
            format_amount(m.costs["latency"]),
            format_amount(m.ttft),
        )
        rows.append((m.label, ", ".join(_SHORT[k] for k in m.fronts), format_accuracy(m.accuracy), *costs))
    rule = "no other has at least its accuracy at no more cost; point estimates, descriptive"
    yield Panel(f"Every setting measured, and the Pareto fronts ({rule}), {_set(scope)}", names, tuple(rows), False)
    yield Panel(f"Pareto fronts ({rule}), {_set(scope)}", names, tuple(r for r in rows if r[1]), True)


def _needed(sheet: LeaderboardNumbers, scope: Subset) -> Panel | None:
    if not (found := sheet.needed(scope)):
        return None

    def text(need: Need) -> str:
        return ("at most " if need.at_most else "") + format_flops(need.cost)

    rows = [(row.label, *("" if n is None else text(n[1]) for n in needs)) for row, needs in found]
    caption = (
        f"Least FLOPs per item for an accuracy, interpolated, {_set(scope)}: empty where no curve of the row gets there"
    )
    return Panel(caption, ("method", *(f"{100 * t:.0f} %" for t in TARGETS)), tuple(rows))


def _areas(sheet: LeaderboardNumbers, scope: Subset) -> Panel | None:
    """Mean accuracy over log cost, a column for each cost that two curves share a range of."""
    spans = [(kind, span) for kind in COSTS if (span := sheet.span(kind, scope)) is not None]
    if not spans:
        return None
    by_kind = {kind: {t.curve.label: (v, i) for t, v, i in sheet.areas(kind, scope)} for kind, _ in spans}
    order = [r.label for r in sheet.contest.group.rows]
    labels = {
        t.curve.label: order.index(t.curve.row.label) for kind, _ in spans for t, _, _ in sheet.areas(kind, scope)
    }
    rows = []
    for label in sorted(labels, key=lambda name: (labels[name], name)):
        found = [by_kind[kind].get(label) for kind, _ in spans]
        rows.append((label, *("" if f is None else f"{format_percent(f[0])} {format_interval(*f[1])}" for f in found)))
    heads = [f"{NAMES[kind]}, {cost_text(kind, low)} to {cost_text(kind, high)}" for kind, (low, high) in spans]
    caption = (
        "Area under the curve: mean accuracy % over log cost on the range shared by all curves that have one, "
        f"{_set(scope)}"
    )
    return Panel(caption, ("curve", *heads), tuple(rows))


def _notes(sheet: LeaderboardNumbers) -> Iterator[str]:
    contest, group = sheet.contest, sheet.contest.group
    facts = group.facts
    parts = [p for r in group.rows for p in r.parts]
    yield (
        f"{facts.task}, version {facts.task_version}; split {facts.split}; n = {len(parts[0].items):,} questions; data "
        "sha256 "
        f"{facts.data[:12]}; evaluator version {facts.evaluator_version}; backbone "
        f"{backbone_label(parts[0].spec.get('backbone'))}."
    )
    if contest.shared:
        yield f"All rows: {contest.shared}."
    yield _division(sheet)
    if budget := matched(group.rows):
        yield budget
    if contest.others:
        yield "Rows with other training budgets stand in sections of their own: they are not ranked against these."
    if len({p.spec.get("start") for p in parts}) > 1:
        yield "Rows differ in their starting weights: a difference between them may be the start's."
    if len(group.rows) == 1:
        yield "One row only: there is nothing to rank it against."
    yield from evaluation_notes(contest.evaluations)
    yield (
        "Rank: 1 + the rows clearly higher, to the number of rows − those clearly lower; Holm over the section's "
        "pairs, of the questions' "
        f'p and of the seeds\': what is higher in "{ALONE}" ranks nobody.'
    )
    yield from rule_notes(group.rows)
    yield from sections.cluster_notes(group)
    yield (
        "±: standard deviation over training seeds. [..]: Wilson 95 % on the questions in rankings, points and "
        "pictures; two-level "
        f"bootstrap 95 % over seeds and questions ({RESAMPLES:,} resamples) at equal cost, for differences and for "
        "areas."
    )
    yield from _curve_notes(sheet)
    yield from _area_notes(sheet)
    for scope in contest.scopes:
        answer, share = group.floor(scope)
        low = all(group.at_floor(r, scope) for r in group.rows)
        text = " All accuracies are at the floor and cannot be ranked." if low else ""
        yield f"Floor ({scope.name}): the best constant answer ({answer!r}) scores {format_percent(share)} %.{text}"
    yield from sections.selection_notes(group.rows)
    yield from changed_notes(group.rows)
    if group.quick:
        yield f"{QUICK}."


def _division(sheet: LeaderboardNumbers) -> str:
    contest, rows = sheet.contest, sheet.contest.group.rows
    trials = {r.label: training_budgets.tuning_trials(r) for r in rows}
    data = sorted({str(r.first.spec["task"].get("train_sha256"))[:12] for r in rows})
    spent = [f"{r.label} {format_flops(f)}" for r in rows if (f := training_budgets.tuning_flops(r)) is not None]
    tuning = f" Training FLOPs of the trials, beside the runs' own: {', '.join(spent)}." if spent else ""
    if contest.closed:
        return (
            f"Closed division: all rows share training data (sha256 {data[0]}), backbone, training FLOPs, each met "
            "within one step, and "
            f"the number of learning-rate trials that their recipes declare ({next(iter(trials.values()))}).{tuning}"
        )
    told = "; ".join(f"{label} {'undeclared' if n is None else n}" for label, n in trials.items())
    same = f"training data sha256 {', '.join(data)}" + (
        " (rows differ in their training data)" if len(data) > 1 else ""
    )
    return (
        f"Open division: rows of one training budget, whatever else is declared; {same}; learning-rate trials: "
        f"{told}.{tuning}"
    )


def _curve_notes(sheet: LeaderboardNumbers) -> Iterator[str]:
    contest = sheet.contest
    if bare := [c.row.label for c in contest.curves if c.knob is None]:
        yield f"No curve: {', '.join(bare)}; run `rim-bench sweep`. The default setting is a curve of one point."
    near = (
        f"Costs within {100 * SAME['flops']:g} % of each other (measured latencies: {100 * SAME['latency']:g} %) "
        "count as equal"
    )
    yield (
        "At equal cost: between two neighbouring settings of a curve, accuracy is interpolated linearly in the cost, "
        "which is what "
        "answering each question with one of the two by chance costs and scores in expectation; beyond the settings "
        "measured nothing is "
        f"said. {near}; of equally dear settings of a curve the default stands for all, else the largest. Settings of "
        "one trained model "
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
    text = (
        f"Latency: mean time to the full answer at batch 1 over {' or '.join(sorted(timed, key=_natural))} "
        "questions timed"
    )
    if len(contest.scopes) > 1:
        text += f", of the set that is compared (blank under {TIMED})"
        if any(point.pooled for c in contest.curves for point in c.points):
            text += "; older evaluations do not say which they timed, and stand with the mean over all of them"
    yield f"{text}; its own measurement error is in no interval."


def _area_notes(sheet: LeaderboardNumbers) -> Iterator[str]:
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
