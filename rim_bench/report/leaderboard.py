"""The leaderboard: rankings at equal training budgets, comparisons at equal inference cost.

A pure function of stored runs: the same runs give the same bytes. Accuracy is never blended over tasks, and oracle
numbers do not appear.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rim_bench.evidence import training_budgets
from rim_bench.evidence.curves import COSTS
from rim_bench.evidence.equal_cost import default_costs
from rim_bench.evidence.leaderboard import COLUMNS, TARGETS, LeaderboardNumbers, MeasuredSetting
from rim_bench.evidence.ranking import RankingGroup, contests
from rim_bench.evidence.rows import OVERLAP, Reason, Subset
from rim_bench.evidence.stats.intervals import Interval
from rim_bench.report.comparison import used_columns
from rim_bench.report.notes import COST_NAMES, leaderboard_notes
from rim_bench.report.sections import DAMAGED, damaged_runs, damaged_section, format_bounds, state_section
from rim_bench.storage.run_folder import Damaged, Run
from rim_bench.util.files import Record, finite, write_bytes_atomic
from rim_bench.util.progress import phase
from rim_bench.util.table import QUICK, Panel, Section, Table
from rim_bench.util.text import (
    escape_json,
    format_accuracy,
    format_amount,
    format_flops,
    format_interval,
    format_p,
    format_percent,
    format_points,
)

TITLE = "Leaderboard at equal compute"
_ONCE = (  # columns that all records of a section share
    "stamp", "task", "task_version", "evaluator_version", "engine", "data_sha256", "split", "backbone", "division",
    "budget_kind", "budget_asked",
)  # fmt: skip
_SHORT_NAMES = {"flops": "FLOPs", "passes": "passes", "latency": "latency"}


@dataclass(frozen=True)
class Board:
    """A leaderboard; `table` writes itself as Markdown, LaTeX and for the terminal, its records are the numbers."""

    table: Table
    contests: tuple[RankingGroup, ...]

    def to_csv(self) -> str:
        """Tidy CSV: a line for each rank, point, matched accuracy, difference, needed cost and area.

        The column "record" says which; each section's first line has what is the same for all of its lines.
        """
        return self.table.to_csv()

    def to_json(self) -> str:
        """Sections with their notes and records, one on a line; a record has the fields that apply to it."""
        by_section: dict[int, list[Record]] = {}
        for record in self.table.records:
            by_section.setdefault(record["section"], []).append(record)
        fields = [name for name in self.table.columns if name not in (*_ONCE, "section")]
        sections = []
        for number, section in enumerate(self.table.sections, 1):
            shared, *records = by_section[number]
            head = {"title": section.title, **{k: shared.get(k) for k in _ONCE}, "notes": list(section.notes)}
            lines = ",\n".join(_json({k: r[k] for k in fields if r.get(k) not in (None, "")}) for r in records)
            sections.append(f'{_json(head, indent=1)[:-2]},\n "records": [\n{lines}\n]}}')
        whole = _json({"schema": 1, "title": self.table.heading, "left_out": list(self.table.left_out)}, indent=1)
        return f'{whole[:-2]},\n "sections": [\n' + ",\n".join(sections) + "\n]}\n"

    def write(self, folder: Path) -> list[Path]:
        """Writes leaderboard.md, .csv, .tex and .json into a folder; each is there whole or not at all.

        Raises:
            UsageError: disk full or not writable.
        """
        table = self.table
        texts = {"md": table.to_markdown(), "csv": self.to_csv(), "tex": table.to_latex(), "json": self.to_json()}
        for suffix, text in texts.items():
            write_bytes_atomic(folder / f"leaderboard.{suffix}", text.encode())
        return [folder / f"leaderboard.{suffix}" for suffix in texts]


def _json(value: Any, indent: int | None = None) -> str:
    marks = (",", ": " if indent else ":")
    text = json.dumps(finite(value), indent=indent, separators=marks, ensure_ascii=False, allow_nan=False)
    return escape_json(text)


@phase("ranking the runs")
def leaderboard(runs: Iterable[Run], *, split: str | None = None, damaged: Iterable[Damaged] = ()) -> Board:
    """The leaderboard of stored runs. `damaged` (from `Store.runs`) and what turns out to be damaged are rows
    without a number.

    Raises:
        UsageError: nothing to rank, or runs that must not be in one leaderboard.
    """
    ranked, unranked = contests(runs, split)
    bad = damaged_runs(damaged, unranked)
    seen = {item.run: item.detail for item in unranked if item.reason is Reason.OVERLAP}
    left_out = tuple(item.text() for item in unranked if item.reason not in (Reason.DAMAGED, Reason.OVERLAP))
    parts: list[Section] = []
    records: list[Record] = []
    for number, contest in enumerate(ranked, 1):
        numbers = LeaderboardNumbers(contest)
        panels = tuple(panel for section in SECTIONS for panel in section(numbers))
        title = f"{contest.title} ({QUICK})" if contest.group.quick else contest.title
        parts.append(Section(title, panels, tuple(leaderboard_notes(numbers))))
        records += [{"section": number, **record} for record in numbers.records()]
    caption = "Questions that trained or chose: no held-out sets"
    unnumbered = [(section, bad, DAMAGED) for section in damaged_section(bad)]
    unnumbered += [(s, seen, OVERLAP) for s in state_section("Out of the ranking", caption, OVERLAP, seen)]
    for section, reasons, state in unnumbered:
        parts.append(section)
        shared = {"section": len(parts), "stamp": state}
        records += [shared | {"record": "section"}]
        records += [shared | {"record": state, "label": k, "run_ids": k, "reason": why} for k, why in reasons.items()]
    quick, columns = any(c.group.quick for c in ranked), COLUMNS + used_columns(records, ("tuning_flops", "reason"))
    table = Table(TITLE, quick, tuple(parts), tuple(records), columns, left_out, "leaderboard.md")
    return Board(table, tuple(ranked))


def cost_text(kind: str, value: float | None) -> str:
    """A cost with its unit."""
    if value is None:
        return "-"
    return format_flops(value) if kind == "flops" else format_amount(value) + (" ms" if kind == "latency" else "")


def _set(scope: Subset) -> str:
    return f"{scope.title}, n = {len(scope.ids):,}"


def _costs(m: MeasuredSetting) -> tuple[str, str, str]:
    return format_flops(m.costs["flops"]), format_amount(m.costs["passes"]), format_amount(m.costs["latency"])


def _with_interval(value: float, interval: Interval) -> str:
    return f"{format_percent(value)} {format_interval(*interval)}"


def rankings(numbers: LeaderboardNumbers) -> Iterator[Panel]:
    """The rank of every row at its default setting, a panel for each set."""
    names = ("method", "rank", "accuracy %", "FLOPs per item", "passes", "full answer ms", "training FLOPs")
    for scope in numbers.contest.scopes:
        lines = []
        for place in numbers.places(scope):
            row, m = place.row, numbers.default(place.row, scope)
            accuracy = format_accuracy(m.accuracy, numbers.contest.group.at_floor(row, scope))
            training = (training_budgets.flops_text(row), training_budgets.closeness(row))
            ends = (*_costs(m), *training, format_amount(m.ttft), "-" if row.untrained else str(len(row.parts)))
            lines.append((row.label, place.text, accuracy, *ends))
        caption = f"Ranking at the default settings, {_set(scope)}: ranks that overlap are ties"
        yield Panel(caption, (*names, "budget met", "TTFT ms", "seeds"), tuple(lines))


def equal_costs(numbers: LeaderboardNumbers) -> Iterator[Panel]:
    """For each kind of cost: accuracy of every curve at every default cost, and the paired differences there."""
    scopes = numbers.contest.scopes
    several = ("questions",) if len(scopes) > 1 else ()
    for kind in COSTS:
        for scope in scopes:
            field = numbers.fields.get((kind, scope.name))
            if field is None or not (costs := default_costs(field.tracks)):
                continue
            lines = []
            for track in field.tracks:
                matched = [track.at(c.value) for c in costs]
                cells = ["" if r is None else _with_interval(r.value, field.interval(r)) for r in matched]
                lines.append((track.curve.label, *cells))
            heads = [f"{cost_text(kind, c.value)} ({', '.join(r.label for r in c.rows)})" for c in costs]
            caption = f"Accuracy % at equal {COST_NAMES[kind]}, {_set(scope)}: columns are the default costs; "
            yield Panel(caption + "empty where a curve does not reach", ("curve", *heads), tuple(lines))
        if numbers.compared[kind]:
            rows = []
            for d in numbers.compared[kind]:
                sides = (*((d.scope.name,) if several else ()), d.first.label, d.second.label)
                tests = (format_p(d.p), format_p(d.holm), format_percent(d.detectable), d.verdict.text())
                value, bounds = format_points(d.value), format_bounds(d.interval)
                rows.append((cost_text(kind, d.cost.value), *sides, value, bounds, *tests))
            names = ("first", "second", "difference", "95 %", "p (questions)", "Holm p")
            columns = (COST_NAMES[kind], *several, *names, "smallest detectable", "verdict")
            caption = f"Paired differences at equal {COST_NAMES[kind]}, points, first minus second; "
            yield Panel(caption + "Holm over all of them", columns, tuple(rows), False)


def settings(numbers: LeaderboardNumbers) -> Iterator[Panel]:
    """For each set: every setting measured, what an accuracy costs at least, and areas under the curves."""
    names = ("setting", "on the front", "accuracy %", "FLOPs per item", "passes", "full answer ms", "TTFT ms")
    front = "no other has at least its accuracy at no more cost; point estimates, descriptive"
    for scope in numbers.contest.scopes:
        rows = []
        for m in numbers.measured[scope.name]:
            fronts = ", ".join(_SHORT_NAMES[kind] for kind in m.fronts)
            rows.append((m.label, fronts, format_accuracy(m.accuracy), *_costs(m), format_amount(m.ttft)))
        caption = f"Every setting measured, and the Pareto fronts ({front}), {_set(scope)}"
        yield Panel(caption, names, tuple(rows), False)
        yield Panel(f"Pareto fronts ({front}), {_set(scope)}", names, tuple(r for r in rows if r[1]), True)
        if by_row := numbers.needed(scope):
            lines = []
            for row, needs in by_row:
                least = [None if need is None else need[1] for need in needs]  # without the curve
                cells = ["" if n is None else ("at most " if n.at_most else "") + format_flops(n.cost) for n in least]
                lines.append((row.label, *cells))
            caption = f"Least FLOPs per item for an accuracy, interpolated, {_set(scope)}: "
            columns = ("method", *(f"{100 * t:.0f} %" for t in TARGETS))
            yield Panel(caption + "empty where no curve of the row gets there", columns, tuple(lines))
        yield from _areas(numbers, scope)


def _areas(numbers: LeaderboardNumbers, scope: Subset) -> Iterator[Panel]:
    """Mean accuracy over log cost, a column for each cost that two curves share a range of."""
    spans = {kind: span for kind in COSTS if (span := numbers.span(kind, scope)) is not None}
    if not spans:
        return
    rows = [r.label for r in numbers.contest.group.rows]
    places: dict[str, int] = {}  # of the curve's row, by the curve's label
    by_kind: dict[str, dict[str, str]] = {}
    for kind in spans:
        for track, value, interval in numbers.areas(kind, scope):
            places[track.curve.label] = rows.index(track.curve.row.label)
            by_kind.setdefault(kind, {})[track.curve.label] = _with_interval(value, interval)
    labels = sorted(places, key=lambda label: (places[label], label))
    lines = [(label, *(by_kind.get(kind, {}).get(label, "") for kind in spans)) for label in labels]
    heads = [
        f"{COST_NAMES[kind]}, {cost_text(kind, low)} to {cost_text(kind, high)}" for kind, (low, high) in spans.items()
    ]
    caption = "Area under the curve: mean accuracy % over log cost on the range shared by all curves that have one, "
    yield Panel(caption + _set(scope), ("curve", *heads), tuple(lines))


SECTIONS: tuple[Callable[[LeaderboardNumbers], Iterator[Panel]], ...] = (rankings, equal_costs, settings)
