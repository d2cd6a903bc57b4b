"""Rows whose outputs are degenerate, or whose accuracy looks like a fault of the data.

A flag changes no number and no verdict. Each seed is looked at by itself, for a mean over seeds hides one that
collapsed; questions that are too long for a model are counted elsewhere and not here.
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
"""Share of empty, unparseable or capped outputs above which a row is flagged.

They count as wrong, so a share r moves accuracy by up to r; 2.4 points is what GSM8K's 1,319 questions resolve at 10 %
discordance, so above 2 % they alone can make a difference that a table calls real."""
ONE_ANSWER = 0.8
"""Share of one and the same answer above which a row is flagged, or halfway from the most frequent reference's share to
1 where that is more: 80 % where ten answers are equally frequent, 95 % where nine of ten references are the same (a
good model then gives it to 90 %)."""
COT_GAP = 0.05
"""A trained cot this far under direct is flagged as a likely data-format fault.

Text that is trained shows the chain to the answer, and in the published rows cot is never below direct in distribution
(GPT-2: GSM8K 42.9 against 16.5, ProsQA 77.5 against 76.7). Users of public code who fed the wrong step format report a
cot of 8 % where 40 % is usual and direct has 15 to 16, a gap of 7 to 8 points. 5 points lie between that and the 4.2
that 1,319 questions resolve at 30 % discordance; the difference must also be significant over the questions."""
COT_FAILING = 0.25
"""Share of unparseable or capped chains at which the same is said whatever cot's accuracy: a quarter of the chains
never reach an answer that can be read, which is the stop token or the answer mark, not reasoning."""
KINDS = ("empty", "unparseable", "capped")


class OutputFlag(NamedTuple):
    """One finding about a row on a set of questions."""

    row: Row
    scope: Subset
    finding: str
    bound: str = ""  # what it is held against: "above 2 %"

    @property
    def text(self) -> str:
        """The finding with its bound."""
        return self.finding + (f" ({self.bound})" if self.bound else "")


def flags(group: Group, pairs: Sequence[Pair]) -> list[OutputFlag]:
    """All flags of the rows on the headline set and on OOD, in the order of the rows. `pairs`: those of the group."""
    out = []
    for row in group.rows:
        for scope in (s for s in group.scopes if not s.level):
            for kind in KINDS:
                rates = _rates(row, scope, kind)
                if hits := sum(r > FAILING for r in rates):
                    finding = f"{format_percent(max(rates))} % {kind} outputs{_seeds(row, hits)}"
                    out.append(OutputFlag(row, scope, finding, f"above {100 * FAILING:g} %"))
            out += _one_answer(group, row, scope)
        if row.method == "cot":
            out += _collapsed_chains(group, row, pairs)
    return out


def _asked(part: Evaluation, scope: Subset) -> list[str]:
    """Ids of the questions that were not too long."""
    return [i for i in scope.ids if not part.items[i].overlong]


def _rates(row: Row, scope: Subset, kind: str) -> list[float]:
    """Share of such outputs for each seed, of the questions that were asked; 0 where none was."""
    asked = [p.values(kind, scope.ids)[p.values("overlong", scope.ids) == 0] for p in row.parts]
    return [int((failing > 0).sum()) / len(failing) if len(failing) else 0.0 for failing in asked]


def unreadable(row: Row, scope: Subset) -> float:
    """Share of wrong answers that are empty, unparseable or capped, mean over the seeds: a row could gain no more."""
    return mean(
        [
            sum(
                not part.items[i].correct and any(getattr(part.items[i], k) for k in KINDS) for i in _asked(part, scope)
            )
            / max(1, len(scope.ids))
            for part in row.parts
        ]
    )


def _seeds(row: Row, hits: int) -> str:
    return f", in {hits} of {len(row.parts)} seeds" if len(row.parts) > 1 else ""


def _one_answer(group: Group, row: Row, scope: Subset) -> Iterator[OutputFlag]:
    """One and the same answer to nearly all questions."""
    bar = max(ONE_ANSWER, (1 + group.constant_floor(scope).value) / 2)
    over: list[tuple[float, str]] = []  # by seed
    for part in row.parts:
        items = [part.items[i] for i in _asked(part, scope)]
        answers = Counter(str(i.answer) for i in items if i.answer not in (None, ""))
        if len({str(i.reference) for i in items}) < 2 or not answers:
            continue  # one answer to one question, or to many with the same reference, is no finding
        answer, count = min(answers.items(), key=lambda a: (-a[1], a[0]))
        if count / len(items) >= bar:
            over.append((count / len(items), answer))
    if over:
        share, answer = max(over)
        finding = f"one answer, {answer!r}, to {format_percent(share)} % of the questions{_seeds(row, len(over))}"
        yield OutputFlag(row, scope, finding, f"at or above {format_percent(bar)} %")


def _collapsed_chains(group: Group, row: Row, pairs: Sequence[Pair]) -> Iterator[OutputFlag]:
    """A chain of thought that is worse than no chain, or that does not reach an answer."""
    head = group.scopes[0]
    if head.ood or not row.first.default:
        return
    directs = [r for r in group.rows if r.method == "direct" and r.first.default and not group.at_floor(r, head)]
    directs = [r for r in directs if r.first.spec.start == row.first.spec.start] or directs
    if not directs:
        return
    likely = "likely a data-format fault (step format, answer mark or stop token), not what a chain of thought is worth"
    for direct in directs:
        for pair in (p for p in pairs if p.scope == head and {id(p.first), id(p.second)} == {id(row), id(direct)}):
            gap = pair.difference if pair.first is direct else -pair.difference
            if gap >= COT_GAP and pair.p < 0.05:
                points = f"{format_percent(gap)} points under {direct.label} in distribution"
                yield OutputFlag(row, head, f"{likely}: {points}")
                return
    for kind in ("unparseable", "capped"):
        rates = _rates(row, head, kind)
        if hits := sum(r >= COT_FAILING for r in rates):
            chains = f"{format_percent(max(rates))} % {kind} chains{_seeds(row, hits)}"
            yield OutputFlag(row, head, f"{likely}: {chains}, while {directs[0].label} is above the floor")
            return


def degenerate_text(flagged: Sequence[OutputFlag], row: Row, scope: Subset) -> str:
    """The flags of a row on a set of questions, for a CSV cell; empty without any."""
    return "; ".join(f.text for f in flagged if f.row is row and f.scope == scope)
