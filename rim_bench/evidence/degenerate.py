"""Rows whose outputs are degenerate, or whose accuracy looks like a fault of the data: what a reader must know before
comparing them.

A flag changes no number and no verdict. Each seed is looked at by itself, for a mean over seeds hides one that
collapsed; questions that are too long for a model are told elsewhere and do not count here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rim_bench.evidence.pairs import Pair
from rim_bench.evidence.rows import Evaluation, Group, Row, Subset
from rim_bench.evidence.stats.intervals import mean
from rim_bench.util.text import format_percent

FAILING = 0.02
"""Share of empty, unparseable or capped outputs above which a row is flagged. They count as wrong, so a share r moves
accuracy by up to r;
2.4 points is what GSM8K's 1,319 questions resolve at 10 % discordance, so above 2 % they alone can make a difference
that a table calls real."""
ONE_ANSWER = 0.8
"""Share of one and the same answer above which a row is flagged, or halfway from the most frequent reference's share to
1 where that is
more: 80 % where ten answers are equally frequent, 95 % where nine of ten references are the same (a good model then
    gives it to 90 %)."""
COT_GAP = 0.05
"""A trained cot this far under direct is flagged as a likely data-format fault: text that is trained shows the chain to
the answer, and in
the published rows cot is never below direct in distribution (GPT-2: GSM8K 42.9 against 16.5, ProsQA 77.5 against 76.7).
Users of public code who fed the wrong step format report a cot of 8 % where 40 % is usual and direct has 15 to 16, a
gap of 7 to 8 points. 5 points lie between that and the 4.2 that 1,319 questions resolve at 30 % discordance; the
difference must also be significant over the questions."""
COT_FAILING = 0.25
"""Share of unparseable or capped chains at which the same is said whatever cot's accuracy: a quarter of the chains
never reach an answer
that can be read, which is the stop token or the answer mark, not reasoning."""
KINDS = ("empty", "unparseable", "capped")


class Flag(NamedTuple):
    """One finding about a row on a set of questions."""

    row: Row
    scope: Subset
    finding: str
    bound: str = ""  # what it is held against: "above 2 %"

    @property
    def text(self) -> str:
        """The finding with its bound."""
        return self.finding + (f" ({self.bound})" if self.bound else "")


def flags(group: Group, found: Sequence[Pair]) -> list[Flag]:
    """All flags of the rows on the headline set and on OOD, in the order of the rows. `found`: the group's pairs."""
    out = []
    for row in group.rows:
        for scope in (s for s in group.scopes if not s.level):
            out += [*_failures(row, scope), *_one_answer(group, row, scope)]
        if row.method == "cot":
            out += _collapse(group, row, found)
    return out


def _asked(part: Evaluation, scope: Subset) -> list[str]:
    return [i for i in scope.ids if not part.items[i].get("overlong")]


def _rates(row: Row, scope: Subset, kind: str) -> list[float]:
    """Share of such outputs for each seed, of the questions that were asked; 0 where none was."""
    out = []
    for part in row.parts:
        ids = _asked(part, scope)
        out.append(sum(bool(part.items[i].get(kind)) for i in ids) / len(ids) if ids else 0.0)
    return out


def unreadable(row: Row, scope: Subset) -> float:
    """Share of answers that are empty, unparseable or capped and wrong, mean over the seeds:
    what a row could gain at most without them.
    """
    shares = []
    for part in row.parts:
        ids = _asked(part, scope)
        shares.append(
            sum(not part.items[i]["correct"] and any(part.items[i].get(k) for k in KINDS) for i in ids)
            / max(1, len(scope.ids))
        )
    return mean(shares)


def _seeds(row: Row, hit: int) -> str:
    return f", in {hit} of {len(row.parts)} seeds" if len(row.parts) > 1 else ""


def _failures(row: Row, scope: Subset) -> Iterator[Flag]:
    for kind in KINDS:
        rates = _rates(row, scope, kind)
        if hit := sum(r > FAILING for r in rates):
            yield Flag(
                row,
                scope,
                f"{format_percent(max(rates))} % {kind} outputs{_seeds(row, hit)}",
                f"above {100 * FAILING:g} %",
            )


def _one_answer(group: Group, row: Row, scope: Subset) -> Iterator[Flag]:
    bar = max(ONE_ANSWER, (1 + group.floor(scope)[1]) / 2)
    worst: tuple[float, str] = (0.0, "")
    hit = 0
    for part in row.parts:
        given = [part.items[i] for i in _asked(part, scope)]
        told = Counter(str(i["answer"]) for i in given if i.get("answer") not in (None, ""))
        if len({str(i.get("reference")) for i in given}) < 2 or not told:
            continue  # one answer to one question, or to many with the same reference, is no finding
        answer, count = min(told.items(), key=lambda a: (-a[1], a[0]))
        share = count / len(given)
        if share >= bar:
            hit += 1
            worst = max(worst, (share, answer))
    if hit:
        finding = f"one answer, {worst[1]!r}, to {format_percent(worst[0])} % of the questions{_seeds(row, hit)}"
        yield Flag(row, scope, finding, f"at or above {format_percent(bar)} %")


def _collapse(group: Group, row: Row, found: Sequence[Pair]) -> Iterator[Flag]:
    head = group.scopes[0]
    if head.ood or not row.first.default:
        return
    directs = [r for r in group.rows if r.method == "direct" and r.first.default and not group.at_floor(r, head)]
    directs = [r for r in directs if _start(r) == _start(row)] or directs
    if not directs:
        return
    told = "likely a data-format fault (step format, answer mark or stop token), not what a chain of thought is worth: "
    for direct in directs:
        for pair in (p for p in found if p.scope == head and {id(p.first), id(p.second)} == {id(row), id(direct)}):
            gap = pair.difference if pair.first is direct else -pair.difference
            if gap >= COT_GAP and pair.p < 0.05:
                yield Flag(row, head, f"{told}{format_percent(gap)} points under {direct.label} in distribution")
                return
    for kind in ("unparseable", "capped"):
        rates = _rates(row, head, kind)
        if hit := sum(r >= COT_FAILING for r in rates):
            finding = (
                f"{format_percent(max(rates))} % {kind} chains{_seeds(row, hit)}, while {directs[0].label} is "
                "above the floor"
            )
            yield Flag(row, head, told + finding)
            return


def _start(row: Row) -> object:
    return row.first.spec.get("start")


def degenerate_text(found: Sequence[Flag], row: Row, scope: Subset) -> str:
    """The flags of a row on a set of questions, for a CSV cell; empty without any."""
    return "; ".join(f.text for f in found if f.row is row and f.scope == scope)
