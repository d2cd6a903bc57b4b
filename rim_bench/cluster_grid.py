"""What a table says of questions that share a source: each row's clustered error beside Wilson's interval."""

from __future__ import annotations

import math

from rim_bench import cells, cluster_stats
from rim_bench.compare import Group, Row, Scope
from rim_bench.evidence_stats import Clustered
from rim_bench.files import Record
from rim_bench.render import Grid

COLUMNS = ("clusters", "clustered_se", "clustered_low", "clustered_high", "design_effect")


def _system(row: Row, scope: Scope, clusters: tuple[int, ...]) -> Clustered | None:
    return cluster_stats.system(row.solved(scope.ids).mean(0).tolist(), clusters)


def record(group: Group, row: Row, scope: Scope) -> Record:
    """The clustered numbers of a row on a set of questions under `COLUMNS`; nothing where no source is shared."""
    clusters = group.clusters(scope)
    if clusters is None:
        return {}
    found = _system(row, scope, clusters)
    if found is None:
        return {"clusters": 1}
    effect = None if math.isnan(found.design_effect) else found.design_effect
    return dict(zip(COLUMNS, (found.clusters, found.se, *found.interval, effect), strict=True))


def grids(group: Group) -> list[Grid]:
    """For the headline set and OOD: accuracy with Wilson's interval, the clustered standard error and interval, the design effect."""
    out = []
    for scope in (s for s in group.scopes if not s.level):
        clusters = group.clusters(scope)
        if clusters is None:
            continue
        lines = []
        for row in group.rows:
            found, plain = _system(row, scope, clusters), cells.accuracy(row.accuracy(scope.ids))
            if found is None:
                lines.append((row.label, plain, "-", "-", "1", "-"))
                continue
            told = (cells.pct(found.se), cells.interval(found.interval), f"{found.clusters:,}", cells.num(found.design_effect))
            lines.append((row.label, plain, *told))
        names = ("method", f"accuracy % ({scope.title}), Wilson 95 %", "clustered SE", "clustered 95 %", "sources", "design effect")
        text = "Clustered errors of the mean over seeds, in points: questions share sources, which Wilson's interval does not know"
        out.append(Grid(text, names, tuple(lines)))
    return out


def notes(group: Group) -> list[str]:
    """One for each of these sets."""
    found = [(s, c) for s in group.scopes if not s.level and (c := group.clusters(s)) is not None]
    return [cluster_stats.note(len(s.ids), len(set(c))) + (f" ({s.name})" if len(group.scopes) > 1 else "") for s, c in found]
