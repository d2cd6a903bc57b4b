"""Every pair of rows on the same questions. A difference smaller than the number of questions can show is called "tied"."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from rim_bench import stats
from rim_bench.compare import Group, Row, Scope, budget_of
from rim_bench.stats import Interval


@dataclass(frozen=True)
class Pair:
    """Two rows on the same questions. With several seeds b and c count the questions that one solves in a larger share of its seeds
    than the other, and the exact test is the sign test over them, which is McNemar's where there is one seed each."""

    scope: Scope
    first: Row
    second: Row
    difference: float  # accuracy of first − second
    b: int  # questions only (or more often) the first solves
    c: int
    p: float
    holm: float
    interval: Interval
    detectable: float | None  # smallest, at the discordance observed; None where no question is discordant
    verdict: str
    higher: Row | None  # the row that is clearly better; None where they are tied


def pairs(group: Group) -> list[Pair]:
    """Every pair of rows on the headline set and on the OOD set; Holm over all of them."""
    drafts = []
    for scope in (s for s in group.scopes if not s.level):
        for first, second in itertools.combinations(group.rows, 2):
            if any(p.items.keys() != group.rows[0].first.items.keys() for p in (*first.parts, *second.parts)):
                continue  # other questions: named in the notes
            x, y = first.vector(scope.ids), second.vector(scope.ids)
            difference = [stats.mean(a) - stats.mean(b) for a, b in zip(zip(*x, strict=True), zip(*y, strict=True), strict=True)]
            drafts.append((scope, first, second, difference, stats.paired_bootstrap(x, y)))
    counts = [(sum(v > 1e-9 for v in d), sum(v < -1e-9 for v in d)) for _, _, _, d, _ in drafts]
    p_values = [stats.mcnemar(b, c) for b, c in counts]
    out = []
    for (scope, first, second, d, interval), (b, c), p, adjusted in zip(drafts, counts, p_values, stats.holm(p_values), strict=True):
        value = stats.mean(d)
        # None at discordance 0: its upper bound is no way out, for no n is a difference within that bound detectable
        least = stats.detectable_difference(len(d), min(1.0, stats.mean([v * v for v in d]))) if b + c else None
        clear = adjusted < 0.05 and least is not None and abs(value) >= least and (b - c) * value > 0
        if len(first.parts) + len(second.parts) > 2:  # seeds differ too: the interval that resamples them must agree
            clear = clear and not interval.low <= 0 <= interval.high
        higher = (first if value > 0 else second) if clear else None
        verdict = f"{higher.label} higher" if higher is not None else "tied"
        if group.at_floor(first, scope) and group.at_floor(second, scope):
            higher, verdict = None, "tied (both at the floor)"
        verdict += "".join(f" ({text})" for text in differing(first, second))
        out.append(Pair(scope, first, second, value, b, c, p, adjusted, interval, least, verdict, higher))
    return out


def differing(first: Row, second: Row) -> list[str]:
    """What else than the method may explain a difference between two rows: another start, another training budget."""
    one, two = first.first.spec, second.first.spec
    texts = ["other start"] if one.get("start") != two.get("start") else []
    return texts + (["other budget"] if budget_of(one) != budget_of(two) else [])
