"""What the controls in a table say: the method each controls, the claim it tests, and the verdict on that claim.

The numbers are those of the table's own paired comparison. A claim is supported only where the method is higher than
its control over training seeds and questions, Holm over the claims of the table, nothing but the control differs
between the two, and the control would be lower even had all its unreadable outputs been right. From one seed nothing is
shown; where the control is higher the claim is contradicted. A method's difference to itself with its blocks taken away
is an ablation: it shows what the trained model depends on, and its size is withheld unless the whole model beats a
separately trained direct.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from rim_bench.evidence import degenerate
from rim_bench.evidence.pairs import LEVEL, Pair, PairedDifference, Whole, contrasts, judged
from rim_bench.evidence.rows import Group, Row, Subset
from rim_bench.evidence.stats import tests
from rim_bench.methods.controls import ANY, CONTROLS, OWN_STARTS, Control, warm_controls
from rim_bench.storage.records import KnobRecord
from rim_bench.util.text import format_p, format_percent, format_points

DIRECT = "direct"
_SPECIFIC = {c.method for c in CONTROLS if c.method != c.of}
_GENERAL = {c.method for c in ANY}


class ClaimOutcome(Enum):
    """What becomes of a claim; the value says it in words."""

    SUPPORTED = "supported"
    NOT_SHOWN = "not shown"
    CONTRADICTED = "contradicted"
    NO_ROW = "no row"


class ClaimVerdict(NamedTuple):
    """What a control says of a claim on one set of questions."""

    outcome: ClaimOutcome
    reason: str = ""
    difference: float | None = None  # accuracy of method − control; None where no number is due
    refused: str = ""  # why an ablation is no headline, so that its size is withheld

    @staticmethod
    def of_pair(pair: Pair, row: Row, other: Row, control: Control, holm: float | None) -> ClaimVerdict:
        """What a trained control says; `holm` is `Pair.p_seeds` adjusted over the claims."""
        difference = pair.difference if pair.first is row else -pair.difference
        apart = [] if row.first.spec.total_budget == other.first.spec.total_budget else ["another training budget"]
        settings, theirs = (r.first.spec.method.settings for r in (row, other))
        try:
            shared = {} if control.matched is None else control.matched(settings)
        except KeyError:  # an older run did not record the setting
            shared = {}
        apart += [f"{k} {theirs[k]} instead of {v}" for k, v in shared.items() if k in theirs and theirs[k] != v]
        beside = f" ({', '.join(apart)})" if apart else ""
        if pair.verdict.at_floor:
            return ClaimVerdict(ClaimOutcome.NOT_SHOWN, f"both at the floor{beside}", difference)
        if holm is None or pair.p_seeds is None:
            return ClaimVerdict(ClaimOutcome.NOT_SHOWN, f"one seed{beside}", difference)
        if holm >= LEVEL:
            alone = f", by itself p = {format_p(pair.p_seeds)}" if pair.p_seeds < LEVEL else ""
            reason = f"p = {format_p(holm)} over seeds and questions, Holm over the claims{alone}{beside}"
            return ClaimVerdict(ClaimOutcome.NOT_SHOWN, reason, difference)
        if difference < 0:
            return ClaimVerdict(ClaimOutcome.CONTRADICTED, f"the control is higher{beside}", difference)
        failed = degenerate.unreadable(other, pair.scope)
        if not apart and abs(pair.difference) <= failed:  # had they been right, the control would be as good
            apart = [f"{format_percent(failed)} % of the control's outputs are empty, unparseable or capped"]
        if apart:
            return ClaimVerdict(ClaimOutcome.NOT_SHOWN, f"higher, but {', '.join(apart)}", difference)
        return ClaimVerdict(ClaimOutcome.SUPPORTED, difference=difference)

    @property
    def points(self) -> str:
        """The difference as a cell."""
        if self.refused:
            return "withheld"
        return "-" if self.difference is None else format_points(self.difference)

    def text(self) -> str:
        """The outcome with its reason."""
        words = self.outcome.value + (f": {self.reason}" if self.reason else "")
        return words + (f"; an ablation, refused as a headline: {self.refused}" if self.refused else "")


class Finding(NamedTuple):
    """One control of one method."""

    control: str
    of: str
    claim: str
    says: Mapping[str, ClaimVerdict]  # by name of the set of questions; under "" what holds for all of them


class _PairIndex:
    """The pairs of a group by rows and set of questions."""

    def __init__(self, group: Group, pairs: Sequence[Pair]) -> None:
        self.group = group
        self._pairs = {(p.scope.name, frozenset((id(p.first), id(p.second)))): p for p in pairs}

    def get(self, scope: Subset, row: Row, other: Row) -> Pair | None:
        """The pair, whichever of the two rows is its first."""
        return self._pairs.get((scope.name, frozenset((id(row), id(other)))))

    def refused(self, scope: Subset, row: Row) -> str:
        """Why an ablation of a row is no headline; empty where it may be one.

        The row must be higher than every separately trained direct of its start and budget.
        """
        start_and_budget = (row.first.spec.start, row.first.spec.total_budget)
        directs = [r for r in self.group.rows if r.method == DIRECT and r.first.default]
        directs = [r for r in directs if (r.first.spec.start, r.first.spec.total_budget) == start_and_budget]
        if not directs:
            return "there is no separately trained direct of its start and budget"
        for direct in directs:
            pair = self.get(scope, row, direct)
            if pair is None or pair.higher is not row:
                return f"{row.label} is not shown to beat {direct.label}"
        return ""


class _Link(NamedTuple):
    """A compared row and a control of it: its row and the pairs by set of questions, or why there is none."""

    row: Row
    control: Control
    other: Row | None
    pairs: Mapping[str, Pair]
    missing: str = ""


def findings(group: Group, pairs: Sequence[Pair]) -> list[Finding]:
    """Every control of the methods that this table compares, in order. `pairs`: those of the group.

    The claims are a family of their own, smaller than that of all pairs: the p values over seeds and questions are
    adjusted (Holm) over them.
    """
    index = _PairIndex(group, pairs)
    links = [link for row in group.rows if row.first.default for link in _links(row, index)]
    tested = {id(p): p.p_seeds for link in links for p in link.pairs.values() if p.p_seeds is not None}
    holm = dict(zip(tested, tests.holm(list(tested.values())), strict=True))
    out = []
    for row, control, other, own_pairs, missing in links:
        if other is None:
            start = control.start or row.first.spec.start
            name = control.method if start == "recipe" else f"{control.method} (from {start})"
            says = {"": ClaimVerdict(ClaimOutcome.NO_ROW, missing)}
        else:
            name = other.label
            says = {
                scope: ClaimVerdict.of_pair(p, row, other, control, holm.get(id(p))) for scope, p in own_pairs.items()
            }
        out.append(Finding(name, row.label, control.claim, says))
    return out + _evaluated_findings(index)


def _links(row: Row, index: _PairIndex) -> Iterator[_Link]:
    """One compared row with each control that trains and each row of that control."""
    if row.method == DIRECT or row.method in _SPECIFIC or row.untrained:
        return
    own_start, settings = row.first.spec.start, row.first.spec.method.settings
    warm = [name for field, name in OWN_STARTS.items() if own_start == "recipe" and (settings.get(field) or 0) > 0]
    controls = [
        *(c for c in ANY if c.method != row.method),
        *(c for name in warm for c in warm_controls(name, row.method)),
        *(c for c in CONTROLS if c.of == row.method and not c.evaluation),
    ]
    scopes = [s for s in index.group.scopes if not s.level]
    for control in controls:
        start = control.start or own_start
        rows = [r for r in index.group.rows if r.method == control.method and r.first.default]
        rows = [r for r in rows if r.first.spec.start == start]
        alike = [r for r in rows if r.first.spec.total_budget == row.first.spec.total_budget]
        for other in alike or rows:
            if pairs := {s.name: pair for s in scopes if (pair := index.get(s, row, other)) is not None}:
                yield _Link(row, control, other, pairs)
        if not rows and control.method in _GENERAL:
            yield _Link(row, control, None, {}, "not tested" if start == "recipe" else "the gain may be the start's")


def evaluated_controls(group: Group, control: Control) -> Iterator[tuple[Row, Row]]:
    """The default evaluation of some runs beside the one that is this control."""
    for turned in (r for r in group.rows if r.method == control.method and not r.first.default):
        knob, effort = turned.first.summary.knob or KnobRecord(), turned.first.summary.effort
        split = control.split_passes and knob.name == "passes" and knob.value == "split"
        if split or (control.effort is not None and effort == control.effort and knob.name != "votes"):
            yield from ((r, turned) for r in group.rows if r.first.default and r.runs == turned.runs)


def _evaluated_findings(index: _PairIndex) -> list[Finding]:
    """Findings of controls that only evaluate: Holm over those of this group, which are in no other family."""
    group = index.group
    asked = [(c, row, turned) for c in CONTROLS if c.evaluation for row, turned in evaluated_controls(group, c)]
    drafts: list[tuple[int, Subset, PairedDifference[Whole]]] = []
    says: list[dict[str, ClaimVerdict]] = []
    for k, (control, row, turned) in enumerate(asked):
        says.append({"": _same_answers(row, turned)} if control.split_passes else {})
        for scope in (s for s in group.scopes if not s.level and not control.split_passes):
            sides = [Whole(r, r.solved(scope.ids)) for r in (row, turned)]
            drafts += [(k, scope, c) for c in contrasts(sides, group.clusters(scope), ablations=True)]
    verdicts = judged([(c, group.floor(scope).value) for _, scope, c in drafts])
    for (k, scope, c), (_, verdict) in zip(drafts, verdicts, strict=True):
        outcome = ClaimOutcome.SUPPORTED if verdict.higher is c.first else ClaimOutcome.CONTRADICTED
        outcome = ClaimOutcome.NOT_SHOWN if verdict.higher is None else outcome
        refused = index.refused(scope, c.first.row)
        says[k][scope.name] = ClaimVerdict(outcome, difference=c.value, refused=refused)
    out = []
    for (control, row, turned), of_sets in zip(asked, says, strict=True):
        of = control.of if control.of != row.method else row.label
        name = turned.label if turned.label != row.label else control.label
        out.append(Finding(name, of, control.claim, of_sets))
    return out


def _same_answers(row: Row, turned: Row) -> ClaimVerdict:
    """Whether two evaluations of the same runs gave the same answers."""
    total = apart = answered = 0
    for first, second in zip(row.parts, turned.parts, strict=True):
        for i, item in first.items.items():
            other = second.items[i]
            outputs = (item.output, other.output)
            mine, theirs = (item.answer, other.answer) if None in outputs else outputs
            total, apart = total + 1, apart + (mine != theirs)
            answered += mine not in (None, "")
    if not answered:
        return ClaimVerdict(ClaimOutcome.NOT_SHOWN, "every output is empty")
    if apart:
        return ClaimVerdict(ClaimOutcome.CONTRADICTED, f"other answers to {apart:,} of {total:,} questions")
    return ClaimVerdict(ClaimOutcome.SUPPORTED, f"the same answers to all {total:,} questions; only times may differ")
