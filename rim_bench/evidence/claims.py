"""What the controls in a table say: for each of them the method it controls, the claim it tests, and the verdict on
that claim.

The verdict is that of the table's own paired comparison. A claim is supported only where the method is called higher
than its control (significant after Holm, at least the smallest detectable difference, and more than other seeds would
make of it, Holm over the claims included), nothing but the control differs between the two, and the control would be
behind even had all its unreadable outputs been right. Tied is "not shown"; where the control is higher the claim is
contradicted. A method's difference to itself with its blocks taken away is an
ablation: it shows what the trained model depends on, and its size is withheld unless the whole model beats a separately
    trained direct.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from rim_bench.evidence import degenerate
from rim_bench.evidence.pairs import Pair, PairedDifference, Whole, adjusted, contrasts
from rim_bench.evidence.rows import Group, Row, Subset, budget_of
from rim_bench.evidence.stats import tests
from rim_bench.methods.controls import ANY, CONTROLS, OWN_STARTS, Control, warm_controls
from rim_bench.util.text import format_p, format_percent, format_points

DIRECT = "direct"


class Outcome(Enum):
    """What becomes of a claim; the value says it in words."""

    SUPPORTED = "supported"
    NOT_SHOWN = "not shown"
    CONTRADICTED = "contradicted"
    NO_ROW = "no row"


class ClaimVerdict(NamedTuple):
    """What a control says of a claim on one set of questions."""

    outcome: Outcome
    reason: str = ""
    difference: float | None = None  # accuracy of method − control; None where no number is due
    refused: str = ""  # why an ablation is no headline, so that its size is withheld

    @property
    def points(self) -> str:
        """The difference as a cell."""
        if self.refused:
            return "withheld"
        return "-" if self.difference is None else format_points(self.difference)

    def text(self) -> str:
        """The outcome with its reason."""
        said = self.outcome.value + (f": {self.reason}" if self.reason else "")
        return said + (f"; an ablation, refused as a headline: {self.refused}" if self.refused else "")


class Finding(NamedTuple):
    """One control of one method."""

    control: str
    of: str
    claim: str
    says: Mapping[str, ClaimVerdict]  # by name of the set of questions; under "" what holds for all of them


_SPECIFIC = {c.method for c in CONTROLS if c.method != c.of}
_GENERAL = {c.method for c in ANY}


class _Link(NamedTuple):
    """A compared row and a control of it: the row of that control and the pairs by set of questions, or why there is
    none.
    """

    row: Row
    control: Control
    other: Row | None
    pairs: Mapping[str, Pair]
    missing: str = ""


def findings(group: Group, found: Sequence[Pair]) -> list[Finding]:
    """Every control of the methods that this table compares, in order. `found`: the group's pairs.

    The claims are a family of their own, smaller than that of all pairs: the seeds' p values are adjusted (Holm) over
    them.
    """
    index = {(p.scope.name, id(p.first), id(p.second)): p for p in found}
    links = [k for row in group.rows if row.first.default for c in _controls(row) for k in _links(group, row, c, index)]
    tested = {id(p): p.p_seeds for link in links for p in link.pairs.values() if p.p_seeds is not None}
    holm = dict(zip(tested, tests.holm(list(tested.values())), strict=True))
    out = []
    for link in links:
        if link.other is None:
            start = link.control.start or link.row.first.spec.get("start")
            name = link.control.method if start == "recipe" else f"{link.control.method} (from {start})"
            out.append(
                Finding(name, link.row.label, link.control.claim, {"": ClaimVerdict(Outcome.NO_ROW, link.missing)})
            )
        else:
            says = {
                scope: _verdict(p, link.row, link.other, link.control, holm.get(id(p)))
                for scope, p in link.pairs.items()
            }
            out.append(Finding(link.other.label, link.row.label, link.control.claim, says))
    ablations = [(c, row, one) for c in CONTROLS if c.evaluation for row, one in evaluated_controls(group, c)]
    return out + _ablated(group, ablations, index, holm)


def _controls(row: Row) -> list[Control]:
    """The controls that train, of one compared row."""
    if row.method == DIRECT or row.method in _SPECIFIC:
        return []
    general = [c for c in ANY if c.method != row.method]
    start, settings = row.first.spec.get("start"), row.first.spec["method"].get("settings") or {}
    own = [warm for field, warm in OWN_STARTS.items() if start == "recipe" and (settings.get(field) or 0) > 0]
    warm = [c for name in own for c in warm_controls(name, row.method)]
    return [*general, *warm, *(c for c in CONTROLS if c.of == row.method and not c.evaluation)]


def _links(group: Group, row: Row, control: Control, index: Mapping[tuple[str, int, int], Pair]) -> Iterator[_Link]:
    start = control.start or row.first.spec.get("start")
    rows = [
        r for r in group.rows if r.method == control.method and r.first.default and r.first.spec.get("start") == start
    ]
    alike = [r for r in rows if budget_of(r.first.spec) == budget_of(row.first.spec)]
    for other in alike or rows:
        pairs = {}
        for scope in (s for s in group.scopes if not s.level):
            pair = index.get((scope.name, id(row), id(other))) or index.get((scope.name, id(other), id(row)))
            if pair is not None:
                pairs[scope.name] = pair
        if pairs:
            yield _Link(row, control, other, pairs)
    if not rows and control.method in _GENERAL:
        yield _Link(row, control, None, {}, "not tested" if start == "recipe" else "the gain may be the start's")


def _verdict(pair: Pair, row: Row, other: Row, control: Control, holm_seeds: float | None) -> ClaimVerdict:
    difference = pair.difference if pair.first is row else -pair.difference
    apart = _apart(row, other, control)
    beside = f" ({', '.join(apart)})" if apart else ""
    if pair.higher is None:
        floor = " (both at the floor)" if pair.verdict.at_floor else ""
        return ClaimVerdict(Outcome.NOT_SHOWN, f"tied{floor}{beside}", difference)
    if holm_seeds is not None and pair.p_seeds is not None and holm_seeds >= 0.05:  # of many claims some pass by chance
        word = "higher" if pair.higher is row else "lower"
        told = (
            f"by itself (seeds p = {format_p(pair.p_seeds)}), not after Holm over the claims ({format_p(holm_seeds)})"
        )
        return ClaimVerdict(Outcome.NOT_SHOWN, f"{word} {told}", difference)
    if pair.higher is other:
        return ClaimVerdict(Outcome.CONTRADICTED, f"the control is higher{beside}", difference)
    failed = degenerate.unreadable(other, pair.scope)
    if not apart and abs(pair.difference) <= failed:  # had they been right, the control would be as good
        apart = [f"{format_percent(failed)} % of the control's outputs are empty, unparseable or capped"]
    if apart:
        return ClaimVerdict(Outcome.NOT_SHOWN, f"higher, but {', '.join(apart)}", difference)
    return ClaimVerdict(Outcome.SUPPORTED, difference=difference)


def _apart(row: Row, other: Row, control: Control) -> list[str]:
    """What else than the control differs between the two rows."""
    texts = [] if budget_of(row.first.spec) == budget_of(other.first.spec) else ["another training budget"]
    settings, theirs = (r.first.spec["method"].get("settings") or {} for r in (row, other))
    return texts + _differing(control, settings, theirs)


def _differing(control: Control, settings: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    try:
        shared = {} if control.matched is None else control.matched(settings)
    except KeyError:  # an older run did not record the setting
        return []
    return [f"{k} {theirs[k]} instead of {v}" for k, v in shared.items() if k in theirs and theirs[k] != v]


# Evaluations that are controls
def evaluated_controls(group: Group, control: Control) -> Iterator[tuple[Row, Row]]:
    """Pairs of the default evaluation of some runs and the one that is this control."""
    for one in (r for r in group.rows if r.method == control.method and not r.first.default):
        knob = one.first.summary.get("knob") or {}
        split = knob.get("name") == "passes" and knob.get("value") == "split"
        effort = one.first.summary.get("effort")
        if (control.split_passes and split) or (
            control.effort is not None and effort == control.effort and knob.get("name") != "votes"
        ):
            yield from ((r, one) for r in group.rows if r.first.default and r.runs == one.runs)


def _ablated(
    group: Group,
    asked: Sequence[tuple[Control, Row, Row]],
    index: Mapping[tuple[str, int, int], Pair],
    claims: Mapping[int, float],
) -> list[Finding]:
    """Findings of evaluations: Holm over the ablations of this group, which are in no other family. `claims`:
    see `beaten_direct`.
    """
    scopes = [s for s in group.scopes if not s.level]
    drafts: list[tuple[int, Subset, PairedDifference[Whole]]] = []
    for k, (control, row, one) in enumerate(asked):
        if not control.split_passes:
            for scope in scopes:
                sides = [Whole(r, r.solved(scope.ids)) for r in (row, one)]
                drafts += [(k, scope, c) for c in contrasts(sides, group.clusters(scope), ablations=True)]
    says: list[dict[str, ClaimVerdict]] = [
        {"": _same_answers(row, one)} if c.split_passes else {} for c, row, one in asked
    ]
    for (k, scope, c), family in zip(drafts, adjusted([c for _, _, c in drafts]), strict=True):
        says[k][scope.name] = _dependence(
            c, family, group.floor(scope)[1], beaten_direct(group, scope, c.first.row, index, claims)
        )
    out = []
    for (control, row, one), told in zip(asked, says, strict=True):
        of = control.of if control.of != row.method else row.label
        out.append(Finding(one.label if one.label != row.label else control.label, of, control.claim, told))
    return out


def _dependence(
    c: PairedDifference[Whole], family: tuple[float, float | None], floor: float, reason: str | None
) -> ClaimVerdict:
    """`reason`: why the size is withheld."""
    winner = c.judged(family[0], floor, family[1]).winner
    outcome = Outcome.NOT_SHOWN if winner is None else Outcome.SUPPORTED if winner is c.first else Outcome.CONTRADICTED
    return ClaimVerdict(outcome, difference=c.value, refused=reason or "")


def beaten_direct(
    group: Group, scope: Subset, row: Row, index: Mapping[tuple[str, int, int], Pair], claims: Mapping[int, float]
) -> str | None:
    """None where the row is called higher than every separately trained direct of its start and budget; else why an
    ablation of it is no
    headline. `claims`: the seeds' p of pairs (by id), adjusted over the claims of this grid, which it must pass as the
        claim itself must.
    """
    wanted = (row.first.spec.get("start"), budget_of(row.first.spec))
    directs = [r for r in group.rows if r.method == DIRECT and r.first.default]
    directs = [r for r in directs if (r.first.spec.get("start"), budget_of(r.first.spec)) == wanted]
    if not directs:
        return "there is no separately trained direct of its start and budget"
    for direct in directs:
        pair = index.get((scope.name, id(row), id(direct))) or index.get((scope.name, id(direct), id(row)))
        alone = pair is not None and (claims[id(pair)] >= 0.05 if id(pair) in claims else pair.verdict.only_alone)
        if pair is None or pair.higher is not row or alone:
            return f"{row.label} is not shown to beat {direct.label}"
    return None


def _same_answers(row: Row, one: Row) -> ClaimVerdict:
    total = apart = answered = 0
    for first, second in zip(row.parts, one.parts, strict=True):
        for i, item in first.items.items():
            other = second.items[i]
            field = "output" if "output" in item and "output" in other else "answer"
            total, apart = total + 1, apart + (item.get(field) != other.get(field))
            answered += item.get(field) not in (None, "")
    if not answered:
        return ClaimVerdict(Outcome.NOT_SHOWN, "every output is empty")
    if apart:
        return ClaimVerdict(Outcome.CONTRADICTED, f"other answers to {apart:,} of {total:,} questions")
    return ClaimVerdict(Outcome.SUPPORTED, f"the same answers to all {total:,} questions; only times may differ")
