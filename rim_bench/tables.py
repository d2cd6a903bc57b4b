"""Comparison tables: a pure function of stored runs. The same runs give the same bytes.

What differs in task, task version, evaluator version, data, split or backbone is never in the same section. Rows keep a fixed
order, nobody is bolded, and a difference smaller than the number of questions can show is called "tied".
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rim_bench import stats
from rim_bench.errors import UsageError
from rim_bench.stats import Interval
from rim_bench.store import Damaged, Record, Run, canonical

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

ORDER = ("direct", "pause", "cot", "coconut", "rim")
QUICK = "quick: not a result"
_FAILURES = ("unparseable", "empty", "capped", "overlong")
_MOST_LEVELS = 12  # more level columns than this are left to the CSV


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
        """Heading of the section."""
        return f"{self.facts[0]}, {self.facts[4]}, {backbone_label(self.rows[0].first.spec.get('backbone'))}"

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
    rest = [(k, str(v)) for k, v in sorted(_leaves(backbone).items()) if k != "name" and v is not None]
    words = [f"{k}={_short(v)}" for k, v in rest]
    return str(backbone.get("name", "backbone")) + (f" ({', '.join(words)})" if words else "")


def _short(value: Any) -> str:
    """A value as text, hashes cut to 12 digits."""
    return str(value)[:12] if re.fullmatch("[0-9a-f]{40,}", str(value)) else str(value)


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {k: v for name, inner in value.items() for k, v in _leaves(inner, f"{prefix}.{name}" if prefix else str(name)).items()}


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
            views = [_leaves({"spec": r.first.spec, "eval": r.first.summary.get("settings") or {}}) for r in twins]
            mine = views[twins.index(row)]
            own = [k for k in sorted(mine) if any(v.get(k) != mine[k] for v in views) and k not in ("spec.seed", "spec.parent")]
            texts = [f"{k.rsplit('.', 1)[1]}={_short(mine[k])}" for k in own] or [f"{row.first.run[-12:]}/{row.first.key}"]
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
    detectable: float
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
        least = stats.detectable_difference(len(d), min(1.0, stats.mean([v * v for v in d])))
        clear = adjusted < 0.05 and abs(value) >= least and (b - c) * value > 0
        if len(first.parts) + len(second.parts) > 2:  # seeds differ too: the interval that resamples them must agree
            clear = clear and not interval.low <= 0 <= interval.high
        verdict = (f"{first.label} higher" if value > 0 else f"{second.label} higher") if clear else "tied"
        if group.at_floor(first, scope) and group.at_floor(second, scope):
            verdict = "tied (both at the floor)"
        if first.first.spec.get("start") != second.first.spec.get("start"):
            verdict += " (other start)"
        out.append(Pair(scope, first, second, value, b, c, p, adjusted, interval, least, verdict))
    return out


# Cells -------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """Text cells under a caption. `short` grids are for the terminal, the others for files; None = both. First columns matter most."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    short: bool | None = None


@dataclass(frozen=True)
class Section:
    """A group as text: its grids, then the notes beneath them."""

    title: str
    grids: tuple[Grid, ...]
    notes: tuple[str, ...]


def _num(value: float | None, digits: int = 1, scale: float = 1.0) -> str:
    return "-" if value is None or math.isnan(value) else f"{value * scale:,.{digits}f}"


def _pct(value: float | None) -> str:
    return _num(value, 1, 100)


def _flops(value: float | None) -> str:
    if value is None:
        return "-"
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def _points(value: float) -> str:
    return f"{round(100 * value, 1) + 0.0:+.1f}"  # + 0.0: no minus before a zero


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _interval(interval: Interval) -> str:
    return f"[{_pct(interval.low)}, {_pct(interval.high)}]"


def _cell(a: Accuracy, floor: bool = False) -> str:
    sd = "" if math.isnan(a.sd) else f" ± {_pct(a.sd)}"
    return f"{_pct(a.value)}{sd} {_interval(a.interval)}" + (" at the floor" if floor else "")


def _examples(row: Row) -> str:
    def pick(name: str) -> float | None:
        return row.part_mean(lambda e: e.training.get(name, e.spec.get("budget", {}).get(name)))

    own, inherited = pick("examples"), pick("inherited_examples")
    return _num(own, 0) + (f" + {_num(inherited, 0)} inherited" if inherited else "")


def lm_eval_score(row: Row, kind: str, ids: Sequence[str] | None = None) -> float | None:
    """lm-eval's own strict or flexible accuracy: from the items' `lm_eval_<kind>`, else the summary's `lm_eval`."""
    from_items = row.item_mean(f"lm_eval_{kind}", ids)
    return row.part_mean(lambda e: (e.summary.get("lm_eval") or {}).get(kind)) if from_items is None and ids is None else from_items


def _latency(kind: str) -> Callable[[Evaluated], Any]:
    return lambda e: ((e.summary.get("latency") or {}).get(kind) or {}).get("median")


_COSTS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("generated tokens", lambda r: _num(r.item_mean("generated_tokens"))),
    ("passes", lambda r: _num(r.item_mean("passes"))),
    ("TTFT ms", lambda r: _num(r.part_mean(_latency("ttft_ms")))),
    ("full answer ms", lambda r: _num(r.part_mean(_latency("full_ms")))),
    ("eval ex/s", lambda r: _num(r.part_mean(lambda e: e.summary.get("examples_per_s")))),
    ("train ex/s", lambda r: _num(r.part_mean(lambda e: e.training.get("examples_per_s")))),
    ("train min", lambda r: _num(r.part_mean(lambda e: e.training.get("seconds")), 1, 1 / 60)),
    ("passes to answer", lambda r: _num(r.item_mean("passes_to_answer"))),
    ("latent positions", lambda r: _num(r.item_mean("latent_positions"))),
    ("FLOPs per item", lambda r: _flops(flops_per_item(r))),
    ("training examples", _examples),
)


def flops_per_item(row: Row) -> float | None:
    """Mean prefill and decode FLOPs of an item; None where they were not stored."""
    prefill, decode = row.item_mean("flops_prefill"), row.item_mean("flops_decode")
    return None if prefill is None and decode is None else (prefill or 0.0) + (decode or 0.0)


def _accuracy_grids(group: Group) -> list[Grid]:
    head, *others = group.scopes
    if sum(s.level for s in others) > _MOST_LEVELS:
        others = [s for s in others if not s.level]
    others.sort(key=lambda s: not s.level)  # levels, then OOD as a whole
    long, short, second = [], [], []
    for row in group.rows:
        accuracies = [row.accuracy(s.ids) for s in others]
        main = _cell(row.accuracy(head.ids), group.at_floor(row, head))
        size = (str(len(row.parts)), f"{len(head.ids):,}")
        long.append((row.label, *size, main, *(_cell(a) for a in accuracies)))
        short.append((row.label, main, *(_pct(a.value) for a in accuracies), *size))
        flexible = _cell(row.accuracy(head.ids, lambda item: bool(item.get("flexible"))))
        rates = [_pct(lm_eval_score(row, k)) for k in ("strict", "flexible")] + [_pct(row.item_mean(k)) for k in _FAILURES]
        second.append((row.label, flexible, *rates))
    names = ("method", "seeds", "n", f"accuracy % ({head.title})", *(f"{s.title} % (n={len(s.ids):,})" for s in others))
    small = ("method", "accuracy %", *(s.name + ("*" if s.ood and s.level else "") for s in others), "seeds", "n")
    scores = ("method", f"flexible % ({head.title})", "lm-eval strict %", "lm-eval flexible %", *(f"{k} %" for k in _FAILURES))
    caption = "Accuracy, % with Wilson 95 % intervals"
    mark = "; * = OOD" if any(s.ood and s.level for s in others) else ""
    size_and_mark = f", n = {len(head.ids):,}" + (f" {head.title}" if others else "") + mark
    grids = [Grid(caption, names, tuple(long), False), Grid(caption + size_and_mark, small, tuple(short), True)]
    return [*grids, Grid("Other scores and failures, % (of all questions where nothing else is said)", scores, tuple(second), False)]


def _block_grid(group: Group) -> Grid | None:
    """Accuracy after every block and of the best block an oracle would pick; never ranked."""
    head = group.scopes[0].ids
    rows = [r for r in group.rows if has_blocks(r, head)]
    if not rows:
        return None
    most = max(len(p.items[i].get("blocks") or ()) for r in rows for p in r.parts for i in head)
    lines = []
    for row in rows:
        cells = [_pct(a.value) if (a := block_accuracy(row, head, k)) else "-" for k in range(most)]
        any_block = _cell(row.accuracy(head, any_block_correct))
        lines.append((row.label, _pct(row.accuracy(head).value), any_block, *cells))
    names = ("method", "scored answer %", "any block % (oracle)", *(f"block {k + 1}" for k in range(most)))
    return Grid(f"Upper bound: never ranked. Accuracy after every block, {group.scopes[0].title} (%)", names, tuple(lines))


def any_block_correct(item: Record) -> bool:
    """Whether an oracle could pick a block with the right answer."""
    return any(b["correct"] for b in item.get("blocks") or ())


def has_blocks(row: Row, ids: Sequence[str]) -> bool:
    """Whether every seed answered after blocks. A question that it could not be asked (overlong) has none and counts as wrong."""
    return all(any(p.items[i].get("blocks") for i in ids) for p in row.parts)


def block_accuracy(row: Row, ids: Sequence[str], block: int) -> Accuracy | None:
    """Accuracy of the answer after block `block` (from 0); None where some question that has blocks has fewer."""
    counts = [len(p.items[i].get("blocks") or ()) for p in row.parts for i in ids]
    if any(0 < count <= block for count in counts) or not any(counts):
        return None
    return row.accuracy(ids, lambda item: bool(item.get("blocks") and item["blocks"][block]["correct"]))


def _pair_grids(group: Group) -> list[Grid]:
    found = pairs(group)
    if not found:
        return []
    several = len({p.scope.name for p in found}) > 1
    long: list[tuple[str, ...]] = []
    short: list[tuple[str, ...]] = []
    for p in found:
        scope, bounds, least = p.scope.name, f"[{_points(p.interval.low)}, {_points(p.interval.high)}]", _pct(p.detectable)
        difference = _points(p.difference)
        long.append((p.first.label, p.second.label, scope, difference, f"{p.b} / {p.c}", _p(p.p), _p(p.holm), bounds, least, p.verdict))
        if p.first is group.rows[0]:
            verdict = p.verdict
            for label, word in ((p.first.label, "lower"), (p.second.label, "higher")):
                if verdict.startswith(f"{label} higher"):
                    verdict = word + verdict.removeprefix(f"{label} higher")
            short.append((p.second.label, _points(-p.difference), verdict, *((scope,) if several else ()), _p(p.holm), least))
    caption = "Paired comparisons: difference in points, first minus second; Holm over all of them"
    names = ("first", "second", "questions", "difference", "only first / only second", "McNemar p", "Holm p")
    names_end = ("bootstrap 95 %", "smallest detectable", "verdict")
    small = ("method", "points", "verdict", *(("questions",) if several else ()), "Holm p", "detectable")
    against = f"Paired with {group.rows[0].label}: method minus it, in points (every pair: table.md)"
    return [Grid(caption, (*names, *names_end), tuple(long), False), Grid(against, small, tuple(short), True)]


def _notes(group: Group) -> tuple[str, ...]:
    title, version, evaluator, digest, split, _ = group.facts
    parts = [p for r in group.rows for p in r.parts]
    head = group.scopes[0]

    def told(values: Iterable[Any]) -> str:
        return ", ".join(dict.fromkeys(str(v) for v in values))

    data = f"{title}, version {version}; split {split}; n = {len(parts[0].items):,} questions; data sha256 {digest[:12]}; "
    data += f"source {told(p.summary.get('data_source') for p in parts)}; evaluator version {evaluator}."
    model = f"Backbone {backbone_label(parts[0].spec.get('backbone'))}; training dtype {told(p.spec.get('dtype') for p in parts)}; "
    model += f"starts: {told(p.spec.get('start') for p in parts)}; seeds: {told(sorted({p.seed for p in parts}))}."
    notes = [data, model]
    settings: dict[str, set[str]] = {}
    for p in parts:
        for key, value in _leaves(p.summary.get("settings") or {}).items():
            settings.setdefault(key, set()).add(str(value))
    if settings:
        notes.append("Evaluation: " + "; ".join(f"{k} {', '.join(sorted(v))}" for k, v in sorted(settings.items())) + ".")
    answer, share = group.floor(head)
    notes.append(f"Floor: the best constant answer ({answer!r}) scores {_pct(share)} % ({head.title}).")
    if all(group.at_floor(r, head) for r in group.rows):
        notes.append("All accuracies are at the floor and cannot be ranked.")
    if any(len(r.parts) > 1 for r in group.rows):
        notes.append("± is the standard deviation over training seeds; the interval is the question error of their mean on n questions.")
    if len({p.spec.get("start") for p in parts}) > 1:
        notes.append("Rows differ in their starting weights: a difference between them may be the start's.")
    if len({_examples(r) for r in group.rows}) > 1:
        notes.append("Rows differ in their training examples.")
    if any(r.first.items.keys() != group.rows[0].first.items.keys() for r in group.rows):
        notes.append("Rows with other item ids than the first row's are not paired.")
    limits = sorted({int(p.summary["limit"]) for p in parts if p.summary.get("limit") is not None})
    notes += [f"First {limit:,} rows only: not the full set." for limit in limits]
    notes += [f"{r.label}: {r.first.summary['prompt_note']}." for r in group.rows if r.first.summary.get("prompt_note")]
    if group.quick:
        notes.append(f"{QUICK}.")
    return tuple(notes)


# The table ---------------------------------------------------------------------------------------------------------------------------

_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$",
}  # fmt: skip


def latex_escape(text: str) -> str:
    """`text` with every character that LaTeX reads as a command spelled out."""
    return "".join(_LATEX.get(c, c) for c in text)


@dataclass(frozen=True)
class Table:
    """A comparison as text; `records` are its numbers, one per row and level (fractions, not per cent)."""

    title: str
    quick: bool
    sections: tuple[Section, ...]
    records: tuple[Record, ...]
    left_out: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """The title, with the stamp where one is due."""
        return f"{self.title} ({QUICK})" if self.quick else self.title

    def to_markdown(self) -> str:
        """GitHub Markdown."""
        out = [f"# {self.heading}", ""]
        if self.quick:
            out += [f"> {QUICK}", ""]

        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

        for section in self.sections:
            out += [f"## {section.title}", ""]
            for grid in (g for g in section.grids if not g.short):
                rule = "|---|" + "---:|" * (len(grid.columns) - 1)
                out += [grid.caption, "", line(grid.columns), rule, *map(line, grid.rows), ""]
            out += [*(f"- {note}" for note in section.notes), ""]
        if self.left_out:
            out += ["Left out:", "", *(f"- {text}" for text in self.left_out), ""]
        return "\n".join(out)

    def frame(self) -> pd.DataFrame:
        """The records as a pandas frame."""
        import pandas as pd

        return pd.DataFrame(list(self.records), columns=list(CSV_COLUMNS))

    def to_csv(self) -> str:
        """Tidy CSV: one line per row and set of questions, fractions, bounds, hashes, run ids."""
        return str(self.frame().to_csv(index=False, lineterminator="\n"))

    def to_latex(self) -> str:
        """One booktabs table per grid (needs \\usepackage{booktabs})."""
        out = [f"% {self.heading}"]
        for section in self.sections:
            for grid in (g for g in section.grids if not g.short):
                caption = f"{section.title}. {grid.caption}." + (f" {QUICK}." if self.quick else "")
                body = [" & ".join(map(latex_escape, row)) + r" \\" for row in (grid.columns, *grid.rows)]
                out += [r"\begin{table}", r"\centering", rf"\caption{{{latex_escape(caption)}}}"]
                out += [rf"\begin{{tabular}}{{l{'r' * (len(grid.columns) - 1)}}}", r"\toprule", body[0], r"\midrule", *body[1:]]
                out += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
            out += [*(f"% {note}" for note in section.notes), ""]
        return "\n".join(out)

    def to_rich(self, width: int = 100) -> RenderableType:
        """For the terminal: fewer columns, the last ones dropped until `width` holds them."""
        from rich.console import Group as Stack
        from rich.table import Table as RichTable
        from rich.text import Text

        parts: list[RenderableType] = [Text(self.heading, style="bold")]
        for section in self.sections:
            parts.append(Text(f"\n{section.title}"))
            for grid in (g for g in section.grids if g.short is not False):
                keep = _fitting(grid, width)
                more = len(grid.columns) - keep
                table = RichTable(title=Text(grid.caption + (f" (+{more} in table.md)" if more else "")), title_justify="left")
                for k, name in enumerate(grid.columns[:keep]):
                    header = textwrap.fill(name, _width(grid, k), break_long_words=False)
                    table.add_column(Text(header), justify="left" if k == 0 else "right", no_wrap=True)
                for row in grid.rows:
                    table.add_row(*map(Text, row[:keep]))
                parts.append(table)
            parts += [Text(f"- {note}") for note in section.notes]
        parts += [Text(f"left out: {text}") for text in self.left_out]
        return Stack(*parts)


def _width(grid: Grid, column: int) -> int:
    """Characters that a column needs: cells are not broken, the header may break at spaces."""
    return max([*map(len, grid.columns[column].split()), *(len(row[column]) for row in grid.rows)])


def _fitting(grid: Grid, width: int) -> int:
    """How many leading columns fit into `width` with their borders; at least two stay."""
    ends = itertools.accumulate((3 + _width(grid, k) for k in range(len(grid.columns))), initial=1)
    return max(2, sum(end <= width for end in ends) - 1)


CSV_COLUMNS = (
    "stamp", "task", "task_version", "evaluator_version", "data_sha256", "split", "backbone", "method", "label", "start", "effort",
    "seeds", "run_ids", "set", "ood", "n", "accuracy", "ci_low", "ci_high", "seed_sd", "floor", "at_floor", "flexible",
    "lm_eval_strict", "lm_eval_flexible", "unparseable", "empty", "capped", "overlong", "generated_tokens", "latent_positions", "passes",
    "passes_to_answer", "flops_prefill", "flops_decode", "ttft_ms", "full_ms", "eval_examples_per_s", "train_examples",
    "inherited_examples", "train_examples_per_s", "train_seconds", "limit",
)  # fmt: skip


def _records(group: Group) -> list[Record]:
    out: list[Record] = []
    title, version, evaluator, digest, split, _ = group.facts
    for row in group.rows:
        first = row.first
        base: Record = {
            "stamp": QUICK if row.quick else "", "task": title, "task_version": version, "evaluator_version": evaluator,
            "data_sha256": digest, "split": split, "backbone": backbone_label(first.spec.get("backbone")), "method": row.method,
            "label": row.label, "start": first.spec.get("start"), "effort": first.summary.get("effort"),
            "seeds": " ".join(str(p.seed) for p in row.parts), "run_ids": " ".join(p.run for p in row.parts),
            "ttft_ms": row.part_mean(_latency("ttft_ms")), "full_ms": row.part_mean(_latency("full_ms")),
            "eval_examples_per_s": row.part_mean(lambda e: e.summary.get("examples_per_s")),
            "train_examples": row.part_mean(lambda e: e.training.get("examples", e.spec.get("budget", {}).get("examples"))),
            "inherited_examples": row.part_mean(
                lambda e: e.training.get("inherited_examples", e.spec.get("budget", {}).get("inherited_examples"))
            ),
            "train_examples_per_s": row.part_mean(lambda e: e.training.get("examples_per_s")),
            "train_seconds": row.part_mean(lambda e: e.training.get("seconds")), "limit": first.summary.get("limit"),
        }  # fmt: skip
        for scope in group.scopes:
            record = base | _measures(row.accuracy(scope.ids)) | {"set": scope.name, "ood": scope.ood}
            record |= {"floor": group.floor(scope)[1], "at_floor": group.at_floor(row, scope)}
            record["flexible"] = row.accuracy(scope.ids, lambda item: bool(item.get("flexible"))).value
            whole = len(scope.ids) == len(first.items)
            record |= {f"lm_eval_{k}": lm_eval_score(row, k, None if whole else scope.ids) for k in ("strict", "flexible")}
            record |= {k: row.item_mean(k, scope.ids) for k in _ITEM_FIELDS}
            out.append(record)
        ids = group.scopes[0].ids
        if has_blocks(row, ids):
            for k in itertools.count():
                if (a := block_accuracy(row, ids, k)) is None:
                    break
                out.append(base | _measures(a) | {"set": f"block {k + 1} ({group.scopes[0].name})", "ood": group.scopes[0].ood})
            oracle = _measures(row.accuracy(ids, any_block_correct))
            out.append(base | oracle | {"set": f"any block, oracle, never ranked ({group.scopes[0].name})", "ood": group.scopes[0].ood})
    return out


_ITEM_FIELDS = (
    *_FAILURES, "generated_tokens", "latent_positions", "passes", "passes_to_answer", "flops_prefill", "flops_decode",
)  # fmt: skip


def _measures(a: Accuracy) -> Record:
    return {"n": a.n, "accuracy": a.value, "ci_low": a.interval.low, "ci_high": a.interval.high, "seed_sd": a.sd}


def comparison(
    runs: Iterable[Run], *, title: str = "Comparison of reasoning methods", split: str | None = None, damaged: Iterable[Damaged] = ()
) -> Table:
    """The comparison table of stored runs, a pure function of what lies in their folders.

    `split` keeps the evaluations on one split; `damaged` (from `Store.runs`) are named under the table.

    Raises:
        UsageError: none of the runs has an evaluation that can be read.
    """
    groups, left_out = collect(runs, split)
    left_out += [f"{d.path.name}: {d.reason}" for d in damaged]
    if not groups:
        raise UsageError("there is nothing to compare: " + ("; ".join(left_out) or "no run is stored there; `rim-bench run` makes some"))
    sections = []
    for group in groups:
        names, cells = zip(*_COSTS, strict=True)
        lines = tuple((r.label, *(cell(r) for cell in cells)) for r in group.rows)
        costs = Grid("Cost (means per question; latency at batch 1, median)", ("method", *names), lines)
        blocks = _block_grid(group)
        grids = [*_accuracy_grids(group), costs, *([blocks] if blocks else []), *_pair_grids(group)]
        heading = f"{group.title} ({QUICK})" if group.quick else group.title
        sections.append(Section(heading, tuple(grids), _notes(group)))
    records = [record for group in groups for record in _records(group)]
    return Table(title, any(g.quick for g in groups), tuple(sections), tuple(records), tuple(left_out))
