"""Which stored runs are ranked against each other, and their ranks.

A contest is one set of comparable runs (task, data, split, evaluator, backbone), one division and one training budget. In the closed
division the rows share training data, training FLOPs (each met within one step) and the declared number of tuning trials; the open
division holds whatever is declared, against rows of the same kind of budget and the same amount. Rows of different budgets are never in
one contest, no score is blended over tasks, and oracle numbers do not appear. Runs stored before training FLOPs were counted have a
budget by examples and stand in the open division with their FLOPs blank.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rim_bench import matching
from rim_bench.compare import Evaluated, Group, Row, Scope, facts_of, grouped, headings, read, short
from rim_bench.curves import Curve, curves_of
from rim_bench.errors import UsageError
from rim_bench.files import canonical
from rim_bench.pairing import Pair
from rim_bench.store import Run


@dataclass(frozen=True)
class Contest:
    """Rows that are ranked against each other, with their inference curves."""

    group: Group  # only the rows of this contest
    heading: str  # of the comparable group
    closed: bool
    kind: str  # of the training budget
    asked: float | None
    missed: bool  # the budget was not met within one step: then the row stands alone
    others: bool  # other budgets of the same group stand in other sections
    curves: tuple[Curve, ...]

    @property
    def division(self) -> str:
        """Its name."""
        return "closed" if self.closed else "open"

    @property
    def title(self) -> str:
        """The group, the division and the budget."""
        unit = "training FLOPs" if self.kind == matching.FLOPS else f"training {self.kind}"
        budget = f"{matching.amount_text(self.kind, self.asked)} {unit}" if self.asked is not None else "no training budget stated"
        missed = f", missed by more than one step ({matching.closeness(self.group.rows[0])})" if self.missed else ""
        return f"{self.heading}: {self.division} division, {budget}{missed}"

    @property
    def ending(self) -> str:
        """What stands in brackets behind every row's label, " (from cot)": said once, it need not be repeated. Empty where they differ."""
        ends = {found[0] if (found := re.search(r" \([^()]*\)$", r.label)) else "" for r in self.group.rows}
        return ends.pop() if len(ends) == 1 else ""

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """The headline set, and OOD where there is one."""
        return tuple(s for s in self.group.scopes if not s.level)


@dataclass(frozen=True)
class Place:
    """A row's rank as an interval: 1 + the rows clearly better, to n − the rows clearly worse."""

    row: Row
    low: int
    high: int

    @property
    def text(self) -> str:
        """ "2", or "1-3" where it is tied with others."""
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


def ranking(contest: Contest, scope: Scope, found: Sequence[Pair]) -> list[Place]:
    """The rows of a contest on one set of questions, best first; tied rows keep their fixed order. `found` are the contest's pairs."""
    rows = contest.group.rows
    here = [p for p in found if p.scope.name == scope.name]
    places = []
    for row in rows:
        mine = [p.higher for p in here if p.higher is not None and (p.first is row or p.second is row)]
        worse = sum(higher is row for higher in mine)
        places.append(Place(row, 1 + len(mine) - worse, len(rows) - worse))
    return sorted(places, key=lambda p: (p.low, p.high))


# From runs to contests ---------------------------------------------------------------------------------------------------------------


def contests(runs: Iterable[Run], split: str | None = None) -> tuple[list[Contest], list[str]]:
    """The contests of stored runs, and a line for each run, evaluation or setting left out. `split` keeps one split.

    Raises:
        UsageError: no evaluation at all, or the runs mix evaluators, task versions, splits, data or item sets of one task.
    """
    runs = list(runs)
    everything, left_out = read(runs, split)
    found = [e for e in everything if _default(e)]
    left_out += [f"{e.run}: its evaluation {e.key!r} is not at the method's default setting" for e in everything if not _default(e)]
    if not found:
        where = f" on {split}" if split else ""
        raise UsageError(f"there is nothing to rank: no run is evaluated{where}; `rim-bench run` makes some. " + "; ".join(left_out))
    check_same(found)
    points, lines = read(runs, split, curve=True)
    left_out += [line for line in lines if line not in left_out and "not evaluated yet" not in line]
    known = {(e.run, facts_of(e)) for e in found}
    strangers = [e for e in points if (e.run, facts_of(e)) not in known]
    left_out += [f"{e.run}: {e.key!r} is no point of a curve: the run has no default evaluation like it" for e in strangers]
    groups = grouped(found)
    out: list[Contest] = []
    for group, heading in zip(groups, headings(groups), strict=True):
        curves, missing = curves_of(group, points)
        left_out += missing
        out += _divide(group, heading, curves)
    return out, left_out


def _default(e: Evaluated) -> bool:
    return e.summary.get("effort") is None and e.summary.get("knob") is None


def check_same(found: Sequence[Evaluated]) -> None:
    """Evaluations of one task must agree in evaluator, task version, split, data and questions.

    Raises:
        UsageError: naming the task, what differs, and which run has which.
    """
    for task in sorted({_task(e) for e in found}):
        mine = [e for e in found if _task(e) == task]
        for what, pick in _MUST_AGREE:
            runs: dict[str, list[str]] = {}
            for e in mine:
                runs.setdefault(pick(e), []).append(e.run)
            if len(runs) > 1:
                told = "; ".join(f"{short(value)}: {_few(sorted(set(names)))}" for value, names in sorted(runs.items()))
                hint = " (--split keeps one)" if what == "splits" else ""
                advice = "name runs that agree, or evaluate again those that do not"
                raise UsageError(f"one leaderboard cannot mix {what} of task {task!r}{hint}: {told}; {advice}")


def _task(e: Evaluated) -> str:
    return str(e.summary.get("task") or e.summary.get("task_title") or e.spec["task"]["name"])


def _items(e: Evaluated) -> str:
    return f"{len(e.items):,} items with ids {hashlib.sha256(canonical(sorted(e.items)).encode()).hexdigest()[:12]}"


_MUST_AGREE: tuple[tuple[str, Callable[[Evaluated], str]], ...] = (
    ("splits", lambda e: str(e.summary.get("split"))),
    ("evaluator versions", lambda e: str(e.summary.get("evaluator_version"))),
    ("task versions", lambda e: str(e.summary.get("task_version"))),
    ("data sets", lambda e: str(e.summary.get("data_sha256"))),
    ("item sets", _items),
)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _divide(group: Group, heading: str, curves: Sequence[Curve]) -> list[Contest]:
    """A group's rows by training budget, and each budget by division.

    A budget's rows are in the closed division where training data, FLOPs and tuning trials allow it. Where not all of its rows are in one
    such class, the open division holds all of them, so that each meets every row of its budget somewhere.
    """
    budgets: dict[tuple[str, float | None, str], list[Row]] = {}
    for row in group.rows:
        first, missed = matching.budgets(row)[0], _missed(row)
        budgets.setdefault((first.kind, first.asked, missed), []).append(row)
    out = []

    def add(rows: Sequence[Row], closed: bool, kind: str, asked: float | None, missed: str) -> None:
        labels = {r.label for r in rows}
        mine = tuple(c for c in curves if c.row.label in labels)
        part = Group(group.facts, tuple(rows))
        out.append(Contest(part, heading, closed, kind, asked, bool(missed), len(budgets) > 1, mine))

    for (kind, asked, missed), rows in sorted(budgets.items(), key=lambda b: (b[0][0], b[0][1] or 0.0, b[0][2])):
        classes: dict[tuple[str, int], list[Row]] = {}
        for row in rows:
            trials = matching.tuning_trials(row)
            if kind == matching.FLOPS and not missed and trials is not None and matching.total_flops(row) is not None:
                classes.setdefault((str(row.first.spec["task"].get("train_sha256")), trials), []).append(row)
        whole = [c for c in classes.values() if len(c) == len(rows)]
        for _, members in sorted(classes.items()):
            if whole or len(members) > 1:
                add(members, True, kind, asked, missed)
        if not whole:
            add(rows, False, kind, asked, missed)
    return sorted(out, key=lambda c: not c.closed)


def _missed(row: Row) -> str:
    """Empty where every seed met its budget within one step; else what tells the row from all others."""
    found = matching.budgets(row)
    if found[0].asked is None:
        return ""
    met = all(b.met and (b.kind, b.asked) == (found[0].kind, found[0].asked) for b in found)
    return "" if met else f"{row.label} {' '.join(f'{b.used}' for b in found)}"
