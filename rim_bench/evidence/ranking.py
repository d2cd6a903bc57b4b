"""Which stored runs are ranked against each other, and their ranks.

A contest is one set of comparable runs (task, data, split, evaluator, backbone), one division and one training budget.
In the closed division the rows share training data, training FLOPs (each met within one step) and the declared number
of tuning trials; the open division holds whatever is declared, against rows of the same kind of budget and the same
amount. Rows of different budgets are never in one contest, no score is blended over tasks, and oracle numbers do not
appear. Runs stored before training FLOPs were counted have a budget by examples and stand in the open division with
their FLOPs blank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from rim_bench.evidence import training_budgets
from rim_bench.evidence.curves import COSTS, CostCurve, InferenceCurve, curves_of, tracks
from rim_bench.evidence.pairs import Pair
from rim_bench.evidence.rows import (
    ComparisonKey,
    Evaluation,
    Group,
    LeftOut,
    Reason,
    Row,
    Subset,
    grouped,
    headings,
    overlap_text,
    read,
)
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError
from rim_bench.util.files import canonical
from rim_bench.util.text import natural_key, short


@dataclass(frozen=True)
class RankingGroup:
    """Rows that are ranked against each other, with their inference curves."""

    group: Group  # only the rows of this contest; their labels leave out what is `shared`
    heading: str  # of the comparable group
    closed: bool
    kind: str  # of the training budget
    asked: float | None
    missed: bool  # the budget was not met within one step: then the row stands alone
    others: bool  # other budgets of the same group stand in other sections
    curves: tuple[InferenceCurve, ...]
    shared: str = ""  # the words that all rows would have in brackets: "from cot"; empty where they differ

    @property
    def division(self) -> str:
        """ "closed" or "open"."""
        return "closed" if self.closed else "open"

    @property
    def title(self) -> str:
        """The group, the division and the budget."""
        return f"{self.heading}: {self.terms}"

    @property
    def terms(self) -> str:
        """The division and the budget."""
        text = f"{self.division} division, {training_budgets.budget_text(self.kind, self.asked)}"
        if self.missed:
            text += f", missed by more than one step ({training_budgets.closeness(self.group.rows[0])})"
        return text

    @cached_property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Those of all settings of all rows."""
        return tuple({(e.run, e.key): e for c in self.curves for p in c.points for e in p.row.parts}.values())

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The costs that compare: without latency where the settings were timed on different machines."""
        return tuple(k for k in COSTS if k != "latency" or not training_budgets.timed_apart(self.evaluations))

    def tracks(self, kind: str, scope: Subset) -> list[CostCurve]:
        """Every curve over a cost; none where that cost does not compare."""
        return tracks(self.curves, kind, scope.ids) if kind in self.kinds else []

    @property
    def scopes(self) -> tuple[Subset, ...]:
        """The headline set, and OOD where there is one."""
        return tuple(s for s in self.group.scopes if not s.level)


@dataclass(frozen=True)
class Rank:
    """A row's rank as an interval: 1 + the rows clearly better, to n − the rows clearly worse."""

    row: Row
    low: int
    high: int

    @property
    def text(self) -> str:
        """ "2", or "1-3" where it is tied with others."""
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


def ranking(contest: RankingGroup, scope: Subset, pairs: Sequence[Pair]) -> list[Rank]:
    """The rows of a contest on one set of questions, best first; tied rows keep their fixed order.

    `pairs` are those of the contest.
    """
    rows = contest.group.rows
    places = []
    for row in rows:
        mine = [p for p in pairs if p.scope.name == scope.name and (p.first is row or p.second is row)]
        winners = [p.higher for p in mine if p.higher is not None]
        worse = sum(winner is row for winner in winners)
        places.append(Rank(row, 1 + len(winners) - worse, len(rows) - worse))
    return sorted(places, key=lambda p: (p.low, p.high))


def contests(runs: Iterable[Run], split: str | None = None) -> tuple[list[RankingGroup], list[LeftOut]]:
    """The contests of stored runs, and each run, evaluation or setting left out. `split` keeps one split.

    Raises:
        UsageError: no evaluation at all, or runs of one task that share no evaluator, task version, split, data and
            item set.
    """
    runs = list(runs)
    everything, left_out = read(runs, split)
    seen = [e for e in everything if not e.held_out]
    left_out += [
        LeftOut(e.run, Reason.OVERLAP, f"its evaluation {e.key!r}: {overlap_text(e.summary.overlap)}") for e in seen
    ]
    everything = [e for e in everything if e.held_out]
    defaults = [e for e in everything if e.default]
    why = "is not at the method's default setting"
    left_out += [
        LeftOut(e.run, Reason.OTHER_SETTING, f"its evaluation {e.key!r} {why}") for e in everything if not e.default
    ]
    if not defaults and seen:
        return [], left_out
    if not defaults:
        where = f" on {split}" if split else ""
        beside = "; ".join(map(LeftOut.text, left_out))
        raise UsageError(f"there is nothing to rank: no run is evaluated{where}; `rim-bench run` makes some. {beside}")
    alike, others = shared(defaults)
    chosen, twice = one_each(alike)
    points, no_points = read(runs, split, curve=True)
    left_out += others + twice + [o for o in no_points if o not in left_out and o.reason is not Reason.NOT_EVALUATED]
    known = {(e.run, e.facts) for e in chosen}
    why = "is no point of a curve: no default evaluation like it is ranked"
    left_out += [LeftOut(e.run, Reason.NO_POINT, f"{e.key!r} {why}") for e in points if (e.run, e.facts) not in known]
    groups = grouped(chosen)
    out: list[RankingGroup] = []
    for group, heading in zip(groups, headings(groups), strict=True):
        curves, missing = curves_of(group, points)
        left_out += missing
        out += _divide(group, heading, curves)
    return out, left_out


def shared(evaluations: Sequence[Evaluation]) -> tuple[list[Evaluation], list[LeftOut]]:
    """Of each task the evaluations that all runs have, and the others.

    They share split, evaluator, task version, data set and set of questions. Where every run has several such, they are
    those on the test split, of the newest versions, on the most questions.

    Raises:
        UsageError: no evaluation that all runs of a task have; it names what differs, and which run has which.
    """

    def preference(e: Evaluation) -> tuple[Any, ...]:
        split, evaluator, version, data, items = _variant(e)
        return split == "test", natural_key(evaluator), natural_key(version), len(e.items), data, items

    kept: list[Evaluation] = []
    left_out = []
    for task in sorted({_task(e) for e in evaluations}):
        mine = [e for e in evaluations if _task(e) == task]
        common = set.intersection(*({_variant(e) for e in mine if e.run == run} for run in {e.run for e in mine}))
        if not common:
            raise UsageError(_mixed(task, mine))
        best = _variant(max((e for e in mine if _variant(e) in common), key=preference))
        for e in mine:
            if _variant(e) == best:
                kept.append(e)
                continue
            own = [f"{what} {short(v)}" for what, v, b in zip(_MUST_AGREE, _variant(e), best, strict=True) if v != b]
            detail = f"its evaluation {e.key!r} is beside those that all runs have ({', '.join(own)})"
            left_out.append(LeftOut(e.run, Reason.OTHER_QUESTIONS, detail))
    return kept, left_out


def _mixed(task: str, evaluations: Sequence[Evaluation]) -> str:
    """Why runs that share no evaluation of a task are not ranked: the first thing that differs, and who has which."""
    everyone = {e.run for e in evaluations}

    def by_value(k: int) -> dict[str, set[str]]:
        runs: dict[str, set[str]] = {}
        for e in evaluations:
            runs.setdefault((*_variant(e), " ".join(map(short, _variant(e))))[k], set()).add(e.run)
        return runs

    names_and_runs = ((name, by_value(k)) for k, name in enumerate((*_MUST_AGREE, "evaluations")))
    what, runs = next((name, runs) for name, runs in names_and_runs if everyone not in runs.values())
    texts = []
    for value, names in sorted(runs.items()):
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        texts.append(f"{short(value)}: {', '.join(sorted(names)[:6])}{more}")
    hint = " (--split keeps one)" if what == "splits" else ""
    advice = "name runs that agree, or evaluate again those that do not"
    return f"one leaderboard cannot mix {what} of task {task!r}{hint}: {'; '.join(texts)}; {advice}"


def one_each(evaluations: Sequence[Evaluation]) -> tuple[list[Evaluation], list[LeftOut]]:
    """One default evaluation of each run on each task, and the others: a model is not ranked against itself.

    It is the one whose settings most of the runs have, not a plumbing check where there is another.
    """

    def settings(e: Evaluation) -> str:
        return canonical([_task(e), e.settings, e.summary.prompt_note])

    common = Counter(s for _, s in {(e.run, settings(e)) for e in evaluations})
    batches = Counter(e.batch for e in evaluations)

    def rank(e: Evaluation) -> tuple[Any, ...]:
        return e.quick, -common[settings(e)], -batches[e.batch], settings(e), e.key

    kept: dict[tuple[str, ComparisonKey], Evaluation] = {}
    for e in sorted(evaluations, key=rank):
        kept.setdefault((e.run, e.facts), e)
    why = "one evaluation of a run is ranked, with the settings that most runs have"
    left_out = [
        LeftOut(e.run, Reason.TWICE, f"its evaluation {e.key!r} is beside {first.key!r}: {why}")
        for e in evaluations
        if (first := kept[e.run, e.facts]) is not e
    ]
    return [e for e in evaluations if kept[e.run, e.facts] is e], left_out


def _task(e: Evaluation) -> str:
    return str(e.summary.task or e.summary.task_title or e.spec.task.name)


_MUST_AGREE: Mapping[str, Callable[[ComparisonKey], str]] = {
    "splits": lambda f: f.split,
    "evaluator versions": lambda f: f.evaluator_version,
    "task versions": lambda f: f.task_version,
    "data sets": lambda f: f.data,
    "item sets": lambda f: f.questions,
}


def _variant(e: Evaluation) -> tuple[str, ...]:
    return tuple(pick(e.facts) for pick in _MUST_AGREE.values())


def _divide(group: Group, heading: str, curves: Sequence[InferenceCurve]) -> list[RankingGroup]:
    """A group's rows by training budget, and each budget by division.

    A budget's rows are in the closed division where training data, FLOPs and tuning trials allow it. Where not all of
    its rows are in one such class, the open division holds all of them, so that each meets every row of its budget
    somewhere.
    """
    budgets: dict[tuple[str, float | None, str], list[Row]] = {}
    for row in group.rows:
        first, *others = training_budgets.budgets(row)
        missed = ""  # else what tells the row from all others
        if first.asked is not None and not all(
            b.met and (b.kind, b.asked) == (first.kind, first.asked) for b in (first, *others)
        ):
            missed = f"{row.label} {' '.join(f'{b.used}' for b in (first, *others))}"
        budgets.setdefault((first.kind, first.asked, missed), []).append(row)
    out = []

    def add(rows: Sequence[Row], closed: bool, kind: str, asked: float | None, missed: str) -> None:
        labels = {r.label for r in rows}
        mine = [c for c in curves if c.row.label in labels]
        words = {"" if r.setting else r.words for r in rows}
        common = words.pop() if len(words) == 1 else ""
        if common:  # said once for all of them
            rows = [replace(r, brief=True) for r in rows]
            mine = [
                replace(
                    c,
                    row=replace(c.row, brief=True),
                    points=tuple(replace(p, row=replace(p.row, brief=True)) for p in c.points),
                )
                for c in mine
            ]
        part, others = Group(group.facts, tuple(rows)), len(budgets) > 1
        out.append(RankingGroup(part, heading, closed, kind, asked, bool(missed), others, tuple(mine), common))

    for (kind, asked, missed), rows in sorted(budgets.items(), key=lambda b: (b[0][0], b[0][1] or 0.0, b[0][2])):
        classes: dict[tuple[str, int], list[Row]] = {}
        for row in rows:
            trials = training_budgets.tuning_trials(row)
            counted = training_budgets.total_flops(row) is not None
            if kind == training_budgets.FLOPS and not missed and trials is not None and counted:
                classes.setdefault((str(row.first.spec.task.train_sha256), trials), []).append(row)
        whole = [c for c in classes.values() if len(c) == len(rows)]
        for _, members in sorted(classes.items()):
            if whole or len(members) > 1:
                add(members, True, kind, asked, missed)
        if not whole:
            add(rows, False, kind, asked, missed)
    return sorted(out, key=lambda c: not c.closed)
