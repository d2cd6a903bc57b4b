"""Stored runs as rows that may be compared, and every pair of them on the same questions.

What differs in task, task version, evaluator version, data, split or backbone is never in the same group. A difference smaller than
the number of questions can show is called "tied".
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rim_bench import stats
from rim_bench.errors import UsageError
from rim_bench.files import Record, canonical
from rim_bench.stats import Interval
from rim_bench.store import Run

ORDER = ("direct", "pause", "cot", "coconut", "rim")
QUICK = "quick: not a result"


# From runs to rows -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluated:
    """One stored evaluation of one run, read and verified."""

    run: str
    key: str
    spec: Record
    summary: Record
    training: Record
    items: Mapping[str, Record]  # by item id, in stored order

    @property
    def seed(self) -> int:
        """The training seed."""
        return int(self.spec.get("seed", 0))

    @property
    def quick(self) -> bool:
        """Whether training or evaluation was a plumbing check."""
        return bool(self.spec.get("quick") or self.summary.get("quick"))

    @property
    def cut(self) -> int | None:
        """The limit where it left rows out; None without one, and where more rows were allowed than the full set has."""
        limit = self.summary.get("limit")
        return None if limit is None or int(limit) > len(self.items) else int(limit)


@dataclass(frozen=True)
class Scope:
    """A set of questions that an accuracy is stated for: `all`, `in distribution`, `OOD`, or one level."""

    name: str
    ood: bool
    ids: tuple[str, ...]
    level: bool

    @property
    def title(self) -> str:
        """The column's name."""
        return f"{self.name} (OOD)" if self.level and self.ood else self.name


@dataclass(frozen=True)
class Accuracy:
    """Mean accuracy on n questions; with several seeds also its spread over them.

    The interval is Wilson's for the mean number of correct answers on n questions (n, not n times seeds: the seeds answer the same
    questions). It is the question error only; `sd` is the seed error.
    """

    value: float
    n: int
    sd: float
    interval: Interval


@dataclass(frozen=True)
class Row:
    """One method with its settings, start and effort; `parts` are its training seeds, on the same items."""

    label: str
    parts: tuple[Evaluated, ...]

    @property
    def first(self) -> Evaluated:
        """The part that stands for what all parts have in common."""
        return self.parts[0]

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.first.spec["method"]["name"])

    @property
    def quick(self) -> bool:
        """Whether any part is a plumbing check."""
        return any(p.quick for p in self.parts)

    def accuracy(self, ids: Sequence[str], good: Callable[[Record], bool] = lambda item: bool(item["correct"])) -> Accuracy:
        """Share of `ids` that are `good`."""
        seeds = [stats.mean([float(good(p.items[i])) for i in ids]) for p in self.parts]
        value = stats.mean(seeds)
        return Accuracy(value, len(ids), stats.spread(seeds), stats.wilson(min(len(ids), value * len(ids)), len(ids)))

    def vector(self, ids: Sequence[str]) -> list[list[float]]:
        """[seeds, items]: 1 where correct."""
        return [[float(p.items[i]["correct"]) for i in ids] for p in self.parts]

    def item_mean(self, field: str, ids: Sequence[str] | None = None) -> float | None:
        """Mean of an item field over items and seeds; None where no item has it."""
        values = [float(v) for p in self.parts for i in (ids or p.items) if (v := p.items[i].get(field)) is not None]
        return stats.mean(values) if values else None

    def part_mean(self, pick: Callable[[Evaluated], Any]) -> float | None:
        """Mean over seeds of a number of the run; None where none has it."""
        values = [float(v) for p in self.parts if (v := pick(p)) is not None]
        return stats.mean(values) if values else None


@dataclass(frozen=True)
class Group:
    """The rows that may be compared: same task, versions, data, split and backbone."""

    facts: tuple[str, ...]  # task title, task version, evaluator version, data sha256, split, backbone as JSON
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """Task, split and the backbone in short."""
        return f"{self.facts[0]}, {self.facts[4]}, {backbone_short(self.rows[0].first.spec.get('backbone'))}"

    @property
    def quick(self) -> bool:
        """Whether any row is a plumbing check."""
        return any(r.quick for r in self.rows)

    @cached_property
    def scopes(self) -> tuple[Scope, ...]:
        """The headline set first, then OOD where it is mixed with in-distribution items, then the levels in order."""
        items = self.rows[0].first.items
        ood = tuple(i for i, item in items.items() if item.get("ood"))
        inside = tuple(i for i, item in items.items() if not item.get("ood"))
        mixed = bool(ood and inside)
        out = [Scope("in distribution" if mixed else "all", bool(ood) and not mixed, inside if mixed else tuple(items), False)]
        if mixed:
            out.append(Scope("OOD", True, ood, False))
        levels = sorted({(bool(item.get("ood")), str(item.get("level") or "")) for item in items.values()}, key=_natural)
        if len(levels) > 1:
            for is_ood, level in levels:
                ids = tuple(i for i, m in items.items() if bool(m.get("ood")) == is_ood and str(m.get("level") or "") == level)
                out.append(Scope(level or "no level", is_ood, ids, True))
        return tuple(out)

    def floor(self, scope: Scope) -> tuple[str, float]:
        """The best constant answer to the scope's questions and its accuracy."""
        first = self.rows[0].first
        stored = first.summary.get("floor")
        if isinstance(stored, Mapping) and len(scope.ids) == len(first.items):
            return str(stored.get("answer")), float(stored["accuracy"])
        answers = Counter(str(first.items[i].get("reference")) for i in scope.ids)
        answer, count = min(answers.items(), key=lambda a: (-a[1], a[0]))
        return answer, count / len(scope.ids)

    def at_floor(self, row: Row, scope: Scope) -> bool:
        """Whether the row's interval includes the best constant answer's accuracy, or lies under it."""
        return row.accuracy(scope.ids).interval.low <= self.floor(scope)[1]


def _natural(key: tuple[bool, str]) -> tuple[bool, list[tuple[int, int, str]]]:
    """In distribution before OOD, T=2 before T=10."""
    parts = re.split(r"(\d+)", key[1])
    return key[0], [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts if p]


def backbone_label(backbone: Any) -> str:
    """A backbone record as words: its name, then what else it says."""
    if not isinstance(backbone, Mapping):
        return str(backbone)
    rest = [(k, str(v)) for k, v in sorted(leaves(backbone).items()) if k != "name" and v is not None]
    words = [f"{k}={short(v)}" for k, v in rest]
    return str(backbone.get("name", "backbone")) + (f" ({', '.join(words)})" if words else "")


def backbone_short(backbone: Any) -> str:
    """Name, family, size and tuning of a backbone record; what else it says is in `backbone_label`."""
    if not isinstance(backbone, Mapping):
        return str(backbone)
    kind, tuning = backbone.get("kind"), backbone.get("tuning")
    layers, width, vocabulary = (backbone.get(k) for k in ("layers", "width", "vocabulary"))
    words = [
        backbone.get("family"),
        backbone.get("hub"),
        layers and f"{layers} layers" + (f" x {width}" if width else ""),
        vocabulary and f"vocabulary {vocabulary}",
        "from scratch" if kind == "scratch" else kind and "pretrained",
    ]
    if kind != "scratch":
        words.append(f"LoRA rank {backbone.get('lora_rank')}" if tuning == "lora" else tuning and f"{tuning} tuning")
    told = ", ".join(str(w) for w in words if w)
    return str(backbone.get("name", "backbone")) + (f": {told}" if told else "")


def headings(groups: Sequence[Group]) -> list[str]:
    """A title for each group; equal ones get what the groups differ in added to it."""
    names = ("task", "task version", "evaluator version", "data", "split")
    views = [dict(zip(names, g.facts, strict=False)) | leaves(g.rows[0].first.spec.get("backbone"), "backbone") for g in groups]
    out = []
    for group, mine in zip(groups, views, strict=True):
        twins = [view for other, view in zip(groups, views, strict=True) if other.title == group.title]
        own = [k for k in mine if any(view.get(k) != mine[k] for view in twins)]
        texts = [f"{k.rpartition('.')[2]} {short(mine[k])}" for k in own]
        out.append(f"{group.title} [{', '.join(texts)}]" if texts else group.title)
    return out


def short(value: Any) -> str:
    """A value as text, hashes cut to 12 digits."""
    return str(value)[:12] if re.fullmatch("[0-9a-f]{40,}", str(value)) else str(value)


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {k: v for name, inner in value.items() for k, v in leaves(inner, f"{prefix}.{name}" if prefix else str(name)).items()}


def collect(runs: Iterable[Run], split: str | None = None) -> tuple[list[Group], list[str]]:
    """The evaluations of `runs` in comparable groups, and a line for each run or evaluation left out. `split` keeps one split."""
    found: list[Evaluated] = []
    left_out: list[str] = []
    for run in sorted(runs, key=lambda r: r.id):
        try:
            summaries = run.evaluations()
            for key, summary in summaries.items():
                if split in (None, summary.get("split")):
                    items = {str(i["id"]): i for i in run.read_items(key)}
                    found.append(Evaluated(run.id, key, run.spec, summary, run.training() or {}, items))
            if not summaries:
                left_out.append(f"{run.id}: not evaluated yet")
        except UsageError as error:
            left_out.append(f"{run.id}: {error}")
    groups: dict[tuple[str, ...], list[Evaluated]] = {}
    for e in found:
        if not e.items:
            left_out.append(f"{e.run}: its evaluation {e.key!r} has no items")
            continue
        names = ("task_title", "task_version", "evaluator_version", "data_sha256", "split")
        facts = (*(str(e.summary.get(k, "")) for k in names), canonical(e.spec.get("backbone")))
        groups.setdefault(facts, []).append(e)
    return [Group(facts, _rows(groups[facts])) for facts in sorted(groups)], left_out


def _rows(found: Sequence[Evaluated]) -> tuple[Row, ...]:
    """Evaluations that differ in the training seed only (and, with it, in the run they started from) become one row."""
    same: dict[str, list[Evaluated]] = {}
    for e in found:
        spec = {k: v for k, v in e.spec.items() if k not in ("seed", "parent")}
        ids = hashlib.sha256(canonical(list(e.items)).encode()).hexdigest()
        how = {k: e.summary.get(k) for k in ("effort", "settings", "prompt_note", "limit", "quick")}
        same.setdefault(canonical([spec, how, ids]), []).append(e)
    rows = []
    for parts in same.values():
        parts.sort(key=lambda e: (e.seed, e.run, e.key))
        if len({e.seed for e in parts}) < len(parts):  # a seed twice: not seeds of one recipe, so nothing is averaged
            rows += [Row(_label(e), (e,)) for e in parts]
        else:
            rows.append(Row(_label(parts[0]), tuple(parts)))
    rows.sort(key=lambda r: (ORDER.index(r.method) if r.method in ORDER else len(ORDER), r.method, r.label, r.first.run, r.first.key))
    return tuple(_told_apart(rows))


def _label(e: Evaluated) -> str:
    method, start, effort = e.spec["method"], e.spec.get("start"), e.summary.get("effort")
    label = str(method.get("label") or method["name"])
    if start not in (None, "recipe") and "(from" not in label:
        label += f" (from {start})"
    return label if effort is None else f"{label}, effort {effort}"


def _told_apart(rows: Sequence[Row]) -> list[Row]:
    """Rows with the same label get what they differ in added to it: settings, else the run and evaluation."""
    out = []
    for row in rows:
        twins = [r for r in rows if r.label == row.label]
        if len(twins) > 1:
            views = [leaves({"spec": r.first.spec, "eval": r.first.summary.get("settings") or {}}) for r in twins]
            mine = views[twins.index(row)]
            own = [k for k in sorted(mine) if any(v.get(k) != mine[k] for v in views) and k not in ("spec.seed", "spec.parent")]
            texts = [f"{k.rsplit('.', 1)[1]}={short(mine[k])}" for k in own] or [f"{row.first.run[-12:]}/{row.first.key}"]
            row = Row(f"{row.label} [{', '.join(texts)}]", row.parts)
        out.append(row)
    return out


# Pairs -------------------------------------------------------------------------------------------------------------------------------


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
        verdict = (f"{first.label} higher" if value > 0 else f"{second.label} higher") if clear else "tied"
        if group.at_floor(first, scope) and group.at_floor(second, scope):
            verdict = "tied (both at the floor)"
        if first.first.spec.get("start") != second.first.spec.get("start"):
            verdict += " (other start)"
        out.append(Pair(scope, first, second, value, b, c, p, adjusted, interval, least, verdict))
    return out
