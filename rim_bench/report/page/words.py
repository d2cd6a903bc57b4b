"""What a comparison says, in sentences: who is higher, who is equivalent, what is undecided, what to distrust."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rim_bench.evidence import degenerate
from rim_bench.evidence.claims import findings
from rim_bench.evidence.pairs import EQUIVALENCE, Pair
from rim_bench.evidence.rows import Group, Subset
from rim_bench.report import notes
from rim_bench.report.page.records import SetVerdicts, VerdictLine
from rim_bench.report.sections import format_bounds
from rim_bench.util.table import QUICK
from rim_bench.util.text import format_p, format_points

_FEW = 12  # sentences on single pairs; what is beyond them is counted and stands in the pairs' own table


def kind_of(pair: Pair) -> str:
    """What a pair's verdict is, as the page marks it."""
    verdict = pair.verdict
    if verdict.at_floor:
        return "floor"
    if verdict.one_seed:
        return "one seed"
    return "higher" if verdict.higher is not None else "equivalent" if verdict.equivalent else "undecided"


def set_verdicts(group: Group, pairs: Sequence[Pair]) -> Iterator[SetVerdicts]:
    """The sentences on the headline set and on OOD, of the pairs that differ in the method alone."""
    for number, scope in enumerate(group.scopes):
        if not scope.level:
            yield SetVerdicts(number, tuple(_on_set(group, scope, [p for p in pairs if p.scope == scope])))


def _on_set(group: Group, scope: Subset, pairs: Sequence[Pair]) -> Iterator[VerdictLine]:
    if all(group.at_floor(row, scope) for row in group.rows):
        yield VerdictLine("floor", notes.ALL_AT_FLOOR)
    alike = [p for p in pairs if not p.verdict.differs]
    by_kind: dict[str, list[Pair]] = {}
    for pair in alike:
        by_kind.setdefault(kind_of(pair), []).append(pair)
    higher = by_kind.get("higher", [])
    for row in group.rows:
        if mine := [p for p in higher if p.higher is row]:
            texts = ", ".join(_against(p, p.first is row) for p in mine)
            yield VerdictLine("higher", f"{row.label} is higher than {texts}.")
    if alike and not higher and not by_kind.get("one seed"):
        yield VerdictLine("note", "No method is shown to be higher than another.")
    equivalent = by_kind.get("equivalent", [])
    for p in equivalent[:_FEW]:
        within = f"{format_points(p.difference)} points {format_bounds(p.interval)}"
        text = f"{p.first.label} and {p.second.label} differ by less than {100 * EQUIVALENCE:g} points ({within})."
        yield VerdictLine("equivalent", text)
    if more := len(equivalent[_FEW:]):
        yield VerdictLine("equivalent", f"So do {more} further pairs.")
    yield from _one_seed(by_kind.get("one seed", []))
    if undecided := by_kind.get("undecided", []):
        yield VerdictLine("undecided", _undecided(undecided, len(alike)))
    if floor := by_kind.get("floor", []):
        text = f"{len(floor)} of {len(alike)} pairs are not judged: both rows are at the floor."
        yield VerdictLine("floor", text)
    if apart := len(pairs) - len(alike):
        text = f"{apart} further pairs differ in their start or training budget as well; they stand below."
        yield VerdictLine("note", text)
    if not pairs:
        yield VerdictLine("note", "There is one row, so nothing is compared.")


def _against(pair: Pair, first: bool) -> str:
    """The other row with the difference, of the row that is higher."""
    other, difference = (pair.second, pair.difference) if first else (pair.first, -pair.difference)
    return f"{other.label} ({format_points(difference)}, Holm p {format_p(pair.holm)})"


def _one_seed(pairs: Sequence[Pair]) -> Iterator[VerdictLine]:
    if not pairs:
        return
    better = [p for p in pairs if p.verdict.here is not None]
    text = f"{len(pairs)} pairs have one seed on a side, which gives no verdict on a method."
    if not better:
        yield VerdictLine("one seed", f"{text} Of these weights none is shown to be better.")
        return
    yield VerdictLine("one seed", f"{text} Of these weights alone:")
    for p in better[:_FEW]:
        first = p.verdict.here is not None and p.verdict.here.row is p.first
        winner = p.first if first else p.second
        yield VerdictLine("one seed", f"{winner.label} is higher than {_against(p, first)}.")
    if more := len(better[_FEW:]):
        yield VerdictLine("one seed", f"{more} further pairs differ likewise; they stand below.")


def _undecided(pairs: Sequence[Pair], of: int) -> str:
    """How many pairs are open, and which would be decided first."""
    text = f"{len(pairs)} of {of} pairs are undecided: the data show neither a difference nor that there is none."
    known = [(p.verdict.seeds_needed, k) for k, p in enumerate(pairs) if p.verdict.seeds_needed is not None]
    if not known:
        return f"{text} No number of seeds would decide them on these questions."
    seeds, k = min(known)
    return (
        f"{text} Were the differences and spreads seen the true ones, {pairs[k].first.label} and "
        f"{pairs[k].second.label} would be the first to be decided, with {seeds:,} seeds each."
    )


def trust_lines(group: Group, pairs: Sequence[Pair]) -> Iterator[VerdictLine]:
    """What a reader must know before taking the numbers at their word."""
    if group.quick:
        yield VerdictLine("trust", f"{QUICK}.")
    evaluations = [p for row in group.rows for p in row.parts]
    for text in (
        *notes.trust_notes(group.rows),
        *notes.start_note(group.rows),
        *notes.evaluation_notes(evaluations),
        *notes.transfer_notes(evaluations),
    ):
        yield VerdictLine("trust", text)
    for flag in degenerate.flags(group, pairs):
        yield VerdictLine("trust", f"{flag.row.label}, {flag.scope.name}: {flag.text}.")
    if budget := notes.matched(group.rows):
        yield VerdictLine("note", budget)


def claim_rows(group: Group, pairs: Sequence[Pair]) -> Iterator[tuple[str, ...]]:
    """What each control says: outcome, control, of, the claim tested, set of questions, points, the whole text."""
    for finding in findings(group, pairs):
        for name, verdict in finding.says.items():
            says = finding.control, finding.of, finding.claim, name or "all", verdict.points, verdict.text()
            yield verdict.outcome.value, *says
