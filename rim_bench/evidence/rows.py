"""Stored runs as rows that may be compared.

What differs in task, task version, evaluator version, data, split, questions, backbone or the version of the engine's
numerics is never in the same group.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from rim_bench.data.datasets import GUESS
from rim_bench.evidence.floors import Floor, FloorKind, constant_floor, with_shortcuts
from rim_bench.evidence.stats import clustered, intervals
from rim_bench.evidence.stats.intervals import Interval
from rim_bench.storage.records import (
    EvaluationRecord,
    ItemRecord,
    OverlapRecord,
    RunSpec,
    RuntimeRecord,
    TrainingRecord,
)
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record, canonical
from rim_bench.util.table import QUICK
from rim_bench.util.text import format_flops, format_number, leaves, natural_key, short

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ORDER = ("direct", "pause", "cot", "coconut", "rim")
CHANGED = "changed data"
UNSEALED = "unsealed"
OVERLAP = "overlap"
_CURVE_FIELDS = ("id", "correct", "overlong", "passes", "flops_prefill", "flops_decode")  # what a curve's point needs


class ComparisonKey(NamedTuple):
    """What evaluations must agree in to be compared."""

    task: str  # title
    task_version: str
    evaluator_version: str
    data: str  # sha256
    split: str
    backbone: str  # as JSON
    questions: str  # how many, and the first digits of their ids' sha256
    engine: str = "1"  # version of the numerics that trained


@dataclass(frozen=True)
class Evaluation:
    """One stored evaluation of one run, read and verified."""

    run: str
    key: str
    spec: RunSpec
    summary: EvaluationRecord
    training: TrainingRecord
    items: Mapping[str, ItemRecord]  # by item id, in stored order
    commits: tuple[str, ...] = ()  # of rim-bench, that trained it
    sealed: bool = True  # whether a manifest vouches for the run's records

    @property
    def seed(self) -> int:
        """The training seed."""
        return self.spec.seed

    @property
    def quick(self) -> bool:
        """Whether training or evaluation was a plumbing check."""
        return bool(self.spec.quick or self.summary.quick)

    @property
    def curve(self) -> bool:
        """Whether it is a point of an inference curve, and so no row of a comparison."""
        return self.summary.curve

    @property
    def default(self) -> bool:
        """Whether it is the method's default setting."""
        return self.summary.default

    @property
    def settings(self) -> Record:
        """How it was evaluated, as JSON, but for the batch, which changes no answer."""
        return self.summary.generation.without("batch_size")

    @property
    def batch(self) -> str:
        """The batch size it was evaluated with."""
        return str(self.summary.generation.batch_size)

    @property
    def examples(self) -> int | None:
        """Training examples of the run itself, by train.json, else by the specification."""
        budget = self.spec.budget
        return budget.examples if self.training.examples is None else self.training.examples

    @property
    def inherited_examples(self) -> int | None:
        """Those of the run that it started from."""
        budget, own = self.spec.budget, self.training.inherited_examples
        return budget.inherited_examples if own is None else own

    @property
    def runtime(self) -> dict[str, str]:
        """What it was timed on: device, host CPU, threads, dtype, cells beside it; of old ones device and dtype."""
        how = self.summary.generation
        runtime = self.summary.runtime or RuntimeRecord(device=how.device, dtype=how.dtype)
        names = ("device", "host_cpu", "threads", "dtype", "cells_at_a_time")
        return {k: str(value) for k in names if (value := getattr(runtime, k)) is not None}

    @property
    def held_out(self) -> bool:
        """Whether its questions are none that the run was trained on or chosen by, but for a few."""
        shared = self.summary.overlap
        return shared is None or not (shared.trained or (shared.chose and self.spec.selects_on_validation))

    @cached_property
    def facts(self) -> ComparisonKey:
        """What it must share with what it is compared with."""
        names = ("task_title", "task_version", "evaluator_version", "data_sha256", "split")
        stated = [str(getattr(self.summary, name)) for name in names]
        ids = hashlib.sha256(canonical(sorted(self.items)).encode()).hexdigest()[:12]
        questions = f"{len(self.items):,} with ids {ids}"
        return ComparisonKey._make([*stated, canonical(self.spec.backbone), questions, str(self.spec.numerics)])

    def values(self, field: str, ids: Sequence[str] | None = None, *, stored: bool = False) -> NDArray[np.float64]:
        """A field of these items, by default of all, as numbers; NaN where it is None.

        Args:
            stored: NaN also where the file does not have the key, instead of the field's default.
        """
        import numpy as np

        if (column := self._columns.get((field, stored))) is None:
            known = (getattr(i, field) if not stored or i.says(field) else None for i in self.items.values())
            column = np.array([np.nan if v is None else float(v) for v in known])
            self._columns[field, stored] = column
        if ids is None:
            return column
        if (indices := self._indices.get(wanted := tuple(ids))) is None:
            indices = self._indices[wanted] = np.array([self._places[i] for i in wanted], dtype=np.intp)
        return column[indices]

    @cached_property
    def _columns(self) -> dict[tuple[str, bool], NDArray[np.float64]]:
        return {}

    @cached_property
    def _indices(self) -> dict[tuple[str, ...], NDArray[np.intp]]:
        return {}  # of the sets of questions that were asked for

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: k for k, name in enumerate(self.items)}

    @property
    def cut(self) -> int | None:
        """The limit where it left rows out; None without one, and where the full set has no more rows."""
        limit = self.summary.limit
        return None if limit is None or int(limit) > len(self.items) else int(limit)


@dataclass(frozen=True)
class Subset:
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

    The interval is Wilson's for the mean number of correct answers on n questions (n, not n times seeds: the seeds
    answer the same questions). It is the question error only; `sd` is the seed error.
    """

    value: float
    n: int
    sd: float
    interval: Interval


@dataclass(frozen=True)
class Row:
    """One method with its settings, start and effort; `parts` are its training seeds, on the same items."""

    name: str  # of the method, with the settings that were changed
    parts: tuple[Evaluation, ...]
    words: str = ""  # what its label has in brackets: start, budget, checkpoint
    setting: str = ""  # what follows them: ", effort 2"
    brief: bool = False  # whether its label leaves the words out, as where all rows of a section have the same

    @staticmethod
    def of(parts: tuple[Evaluation, ...], budget: str) -> Row:
        """The row of these seeds, with the words that its label needs; `budget` are those on its budget."""
        e = parts[0]
        name, start, effort, knob = e.spec.method.title, e.spec.start, e.summary.effort, e.summary.knob
        in_name = "(from" in name  # a stored name may say it
        words = [] if start in (None, "recipe") or in_name else [f"from {start}"]
        words += [budget] if budget else []
        words += ["best checkpoint"] if e.spec.rule == "best" else []
        setting = "" if effort is None else f", effort {effort}"
        if effort is None and knob is not None:
            setting = f", {knob.name} {knob.value}"
        return Row(name, parts, ", ".join(words), setting)

    @property
    def short_label(self) -> str:
        """What it is called without the words in brackets."""
        return self.name + self.setting

    @property
    def full_label(self) -> str:
        """What it is called with them."""
        return self.name + (f" ({self.words})" if self.words else "") + self.setting

    @property
    def label(self) -> str:
        """What it is called where it stands."""
        return self.short_label if self.brief else self.full_label

    @property
    def first(self) -> Evaluation:
        """The part that stands for what all parts have in common."""
        return self.parts[0]

    def of_seed(self, part: Evaluation) -> Row:
        """The same row with one of its seeds alone."""
        return replace(self, parts=(part,))

    @property
    def method(self) -> str:
        """The method's name."""
        return self.first.spec.method.name

    @property
    def quick(self) -> bool:
        """Whether any part is a plumbing check."""
        return any(p.quick for p in self.parts)

    @property
    def untrained(self) -> bool:
        """Whether nothing was trained, so that no training seed could have changed it."""
        return self.first.spec.untrained

    @property
    def seeds_text(self) -> str:
        """Its training seeds in one text; empty where nothing was trained."""
        return "" if self.untrained else " ".join(str(p.seed) for p in self.parts)

    @property
    def runs(self) -> tuple[str, ...]:
        """The ids of its runs."""
        return tuple(p.run for p in self.parts)

    @property
    def runs_text(self) -> str:
        """The same in one text."""
        return " ".join(self.runs)

    def accuracy(self, ids: Sequence[str], good: Callable[[ItemRecord], bool] | None = None) -> Accuracy:
        """Share of `ids` that are `good`, by default correct."""
        if good is None:
            seeds = [intervals.mean(p.tolist()) for p in self.solved(ids)]
        else:
            seeds = [intervals.mean([float(good(p.items[i])) for i in ids]) for p in self.parts]
        value, n = intervals.mean(seeds), len(ids)
        return Accuracy(value, n, intervals.spread(seeds), intervals.wilson(min(n, value * n), n))

    def solved(self, ids: Sequence[str]) -> NDArray[np.float64]:
        """[seeds, items]: 1 where correct."""
        import numpy as np

        return np.array([p.values("correct", ids) for p in self.parts])

    def item_mean(self, field: str, ids: Sequence[str] | None = None) -> float | None:
        """Mean of an item field over items and seeds; None where no item has it."""
        return _mean_of(p.values(field, ids or None, stored=True) for p in self.parts)

    def cost_mean(self, field: str, ids: Sequence[str] | None = None) -> float | None:
        """The same of what an answer costs, without the questions that are too long for the model."""
        return _mean_of(p.values(field, ids or None)[p.values("overlong", ids or None) == 0] for p in self.parts)

    def part_mean(self, pick: Callable[[Evaluation], Any]) -> float | None:
        """Mean over seeds of a number of the run; None where none has it."""
        values = [float(v) for p in self.parts if (v := pick(p)) is not None]
        return intervals.mean(values) if values else None

    def flops(self, ids: Sequence[str] | None = None) -> float | None:
        """Mean prefill and decode FLOPs of a question that was answered; None where they were not stored."""
        prefill, decode = self.cost_mean("flops_prefill", ids), self.cost_mean("flops_decode", ids)
        return None if prefill is None and decode is None else (prefill or 0.0) + (decode or 0.0)


def _mean_of(columns: Iterable[NDArray[np.float64]]) -> float | None:
    """Mean of all numbers that are not NaN; None without any."""
    numbers = [v for column in columns for v in column[column == column].tolist()]
    return intervals.mean(numbers) if numbers else None


@dataclass(frozen=True)
class Group:
    """The rows that may be compared: same task, versions, data, split, questions, backbone and engine."""

    facts: ComparisonKey
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """Task, split and the backbone in short."""
        return f"{self.facts.task}, {self.facts.split}, {self.rows[0].first.spec.backbone.short}"

    @property
    def quick(self) -> bool:
        """Whether any row is a plumbing check."""
        return any(r.quick for r in self.rows)

    @cached_property
    def scopes(self) -> tuple[Subset, ...]:
        """The headline set first, then OOD where it is mixed with in-distribution items, then the levels in order."""
        items = self.rows[0].first.items
        ood = tuple(i for i, item in items.items() if item.ood)
        inside = tuple(i for i, item in items.items() if not item.ood)
        if ood and inside:
            out = [Subset("in distribution", False, inside, False), Subset("OOD", True, ood, False)]
        else:
            out = [Subset("all", bool(ood), tuple(items), False)]
        levels: dict[tuple[bool, str], list[str]] = {}
        for i, item in items.items():
            levels.setdefault((item.ood, str(item.level or "")), []).append(i)
        if len(levels) > 1:
            for is_ood, level in sorted(levels, key=lambda k: (k[0], natural_key(k[1]))):
                out.append(Subset(level or "no level", is_ood, tuple(levels[is_ood, level]), True))
        return tuple(out)

    def floor(self, scope: Subset) -> Floor:
        """What an answer to the scope's questions gets without reasoning."""
        if scope not in self._floors:
            items = self.rows[0].first.items
            measured = [p.summary.shortcuts for r in self.rows for p in r.parts]
            levels = {(item.ood, str(item.level or "")) for item in (items[i] for i in scope.ids)}
            self._floors[scope] = with_shortcuts(self.constant_floor(scope), measured, levels)
        return self._floors[scope]

    @cached_property
    def _floors(self) -> dict[Subset, Floor]:
        return {}

    def constant_floor(self, scope: Subset) -> Floor:
        """The same of an answer that looks at nothing."""
        first, n = self.rows[0].first, len(scope.ids)
        stored = first.summary.floor
        if stored is not None and n == len(first.items):
            kind = FloorKind.GUESS if stored.answer == GUESS else FloorKind.CONSTANT
            return Floor(kind, str(stored.answer), float(stored.accuracy), n)
        items = [first.items[i] for i in scope.ids]
        return constant_floor([str(item.reference) for item in items], [float(item.chance or 0.0) for item in items])

    def clusters(self, scope: Subset) -> tuple[int, ...] | None:
        """The number of each question's source (template, seed question), from 0; None where no two share one."""
        items = self.rows[0].first.items
        return clustered.source_numbers([str(items[i].cluster or "") for i in scope.ids])

    def left_chance(self, row: Row, scope: Subset) -> tuple[Evaluation, ...]:
        """The seeds of a row that are shown above an answer that looks at nothing: the others learned nothing."""
        constant = self.constant_floor(scope)
        return tuple(p for p in row.parts if not self.at_floor(row.of_seed(p), scope, constant))

    def at_floor(self, row: Row, scope: Subset, floor: Floor | None = None) -> bool:
        """Whether the row is not shown above the floor, by default the best one: its interval reaches it."""
        floor = floor or self.floor(scope)
        return clustered.lowest(row.solved(scope.ids), self.clusters(scope)) <= floor.value + 1e-9


def headings(groups: Sequence[Group]) -> list[str]:
    """A title for each group; equal ones get what the groups differ in added to it."""
    views = []
    for group in groups:
        facts = {k.replace("_", " "): v for k, v in group.facts._asdict().items() if k != "backbone"}
        views.append(facts | leaves(group.rows[0].first.spec.backbone.to_json(), "backbone"))
    out = []
    for group, mine in zip(groups, views, strict=True):
        twins = [view for other, view in zip(groups, views, strict=True) if other.title == group.title]
        own = [k for k in mine if any(view.get(k) != mine[k] for view in twins)]
        texts = [f"{k.rpartition('.')[2]} {short(mine[k])}" for k in own]
        out.append(f"{group.title} [{', '.join(texts)}]" if texts else group.title)
    return out


class Reason(Enum):
    """Why something stored is left out of the rows, ranks or curves."""

    TRIAL = auto()  # of a learning rate
    ON_TEST = auto()  # its checkpoint is chosen on test items
    NO_ITEMS = auto()  # an evaluation without answers
    NOT_EVALUATED = auto()
    DAMAGED = auto()
    TWICE = auto()  # beside another one that counts
    OVERLAP = auto()  # its questions were trained on, or chose
    OTHER_SETTING = auto()  # not the method's default, where only that is ranked
    OTHER_QUESTIONS = auto()  # or another split, evaluator or version than all runs have
    NO_POINT = auto()  # of any curve


@dataclass(frozen=True)
class LeftOut:
    """Something stored that is left out."""

    run: str  # the run's id; of a setting of a curve the row's label
    reason: Reason
    detail: str  # the reason in words

    def text(self) -> str:
        """A line for a list of what is left out."""
        return f"{self.run}: {self.detail}"


def read(
    runs: Iterable[Run], split: str | None = None, *, curve: bool = False
) -> tuple[list[Evaluation], list[LeftOut]]:
    """The stored evaluations, and each run or evaluation left out. `split` keeps one split.

    `curve=False` gives those that are rows of a comparison, whole; `curve=True` the points of inference curves, of
    which there may be many: their items are cut down to whether they are correct and what they cost.
    """
    evaluations: list[Evaluation] = []
    left_out: list[LeftOut] = []
    for run in sorted(runs, key=lambda r: r.id):
        try:
            whole, parts = _read_run(run, split, curve)
        except UsageError as error:
            whole, parts = [], [LeftOut(run.id, Reason.DAMAGED, str(error))]
        evaluations += whole
        left_out += parts
    return evaluations, left_out


def _read_run(run: Run, split: str | None, curve: bool) -> tuple[list[Evaluation], list[LeftOut]]:
    """`read` of one run. Raises UsageError where it is damaged."""
    evaluations: list[Evaluation] = []
    left_out: list[LeftOut] = []
    if (apart := run.spec.kept_apart) is not None:
        return [], [LeftOut(run.id, Reason[apart.name], apart.value)]
    summaries, training = run.evaluations(), run.training() or TrainingRecord()
    run.not_evaluated()
    run.lm_eval_evaluations.all()
    for key, summary in summaries.items():
        if summary.repeat or summary.curve != curve or split not in (None, summary.split):
            continue
        items = {i.id: i.only(_CURVE_FIELDS) if curve else i for i in run.read_items(key)}
        if items:
            evaluations.append(Evaluation(run.id, key, run.spec, summary, training, items, run.commits(), run.sealed))
        else:
            left_out.append(LeftOut(run.id, Reason.NO_ITEMS, f"its evaluation {key!r} has no items"))
    if all(s.curve for s in summaries.values()):
        detail = "not evaluated yet" + (" but for points of a curve" if summaries else "")
        left_out.append(LeftOut(run.id, Reason.NOT_EVALUATED, detail))
    return evaluations, left_out


def collect(runs: Iterable[Run], split: str | None = None) -> tuple[list[Group], list[LeftOut]]:
    """The evaluations of `runs` in comparable groups, and each run or evaluation left out. `split` keeps one split.

    Points of inference curves are no rows: `rim_bench.evidence.curves` takes them. Of the evaluations of a run that
    differ in nothing that changes an answer one is kept, of the batch that is the most frequent.
    """
    evaluations, left_out = read(runs, split)
    batches = Counter(e.batch for e in evaluations)
    kept: dict[tuple[str, ComparisonKey, str], Evaluation] = {}
    twice = []
    for e in sorted(evaluations, key=lambda e: (-batches[e.batch], e.key)):
        first = kept.setdefault((e.run, e.facts, _recipe(e)), e)
        if first is not e:
            detail = f"its evaluation {e.key!r} differs from {first.key!r} in nothing that changes an answer"
            twice.append(LeftOut(e.run, Reason.TWICE, detail))
    chosen = {id(e) for e in kept.values()}
    return grouped(e for e in evaluations if id(e) in chosen), left_out + sorted(twice, key=LeftOut.text)


def _recipe(e: Evaluation) -> str:
    """Equal for evaluations that may be seeds of one row."""
    s = e.summary
    return canonical([e.spec.recipe, s.effort, s.knob, s.prompt_note, s.quick, e.settings, e.cut])


def grouped(evaluations: Iterable[Evaluation]) -> list[Group]:
    """Evaluations in comparable groups.

    Those that differ in the training seed only (and, with it, in the run they started from) become one row. Rows stand
    by budget: those by examples, then those by FLOPs; in each the known methods in their order, then the others by
    name.
    """

    def place(row: Row) -> tuple[Any, ...]:
        rank = ORDER.index(row.method) if row.method in ORDER else len(ORDER)
        return row.first.spec.total_budget[0] != "examples", rank, row.method, row.label, row.first.run, row.first.key

    groups: dict[ComparisonKey, dict[str, list[Evaluation]]] = {}
    for e in evaluations:
        groups.setdefault(e.facts, {}).setdefault(_recipe(e), []).append(e)
    out = []
    for facts, recipes in sorted(groups.items(), key=lambda g: g[0]):
        rows = []
        budgets = _budget_words([seeds[0] for seeds in recipes.values()])
        for seeds, budget in zip(recipes.values(), budgets, strict=True):
            seeds.sort(key=lambda e: (e.seed, e.run, e.key))
            twice = len({e.seed for e in seeds}) < len(seeds)  # not seeds of one recipe, so nothing is averaged
            rows += [Row.of(parts, budget) for parts in ([(e,) for e in seeds] if twice else [tuple(seeds)])]
        out.append(Group(facts, tuple(_with_own_labels(sorted(rows, key=place)))))
    return out


def _budget_words(evaluations: Sequence[Evaluation]) -> list[str]:
    """A few words on each one's budget where not all have the same kind, or twins differ in how much; else nothing."""
    budgets = [e.spec.total_budget for e in evaluations]
    kinds = {e.spec.total_budget[0] for e in evaluations if not e.spec.untrained}
    flops = {amount for kind, amount in budgets if kind == "train-flops"}
    names = [(e.spec.method.title, e.spec.start, canonical([e.summary.effort, e.summary.knob])) for e in evaluations]
    out = []
    for name, (kind, amount) in zip(names, budgets, strict=True):
        twins = {a for other, (k, a) in zip(names, budgets, strict=True) if other == name and k == kind}
        if kind == "train-flops":
            word = f"{format_flops(amount)} FLOPs" if len(flops) > 1 else "equal FLOPs"
            out.append(word if len(kinds) > 1 or len(twins) > 1 else "")
        else:
            out.append(f"{format_number(amount, 0)} examples" if len(twins) > 1 else "")
    return out


def _with_own_labels(rows: Sequence[Row]) -> Iterator[Row]:
    """Rows with the same label get what they differ in added to it: settings, else the run and evaluation."""
    for row in rows:
        twins = [r for r in rows if r.label == row.label]
        if len(twins) > 1:
            views = [leaves({"spec": r.first.spec.to_json(), "eval": r.first.settings}) for r in twins]
            mine = views[twins.index(row)]
            for name in ("spec.seed", "spec.parent"):
                mine.pop(name, None)
            own = [k for k in sorted(mine) if any(v.get(k) != mine[k] for v in views)]
            texts = [f"{k.rsplit('.', 1)[1]}={short(mine[k])}" for k in own]
            bracket = ", ".join(texts) or f"{row.first.run[-12:]}/{row.first.key}"
            row = replace(row, setting=f"{row.setting} [{bracket}]")
        yield row


def changed_questions(rows: Iterable[Row]) -> bool:
    """Whether the questions of an evaluation are not those that their task registers."""
    return any(p.summary.data_registered is False for r in rows for p in r.parts)


def changed_training(rows: Iterable[Row]) -> list[str]:
    """The rows that were trained on data which their task does not register."""
    return sorted({r.label for r in rows for p in r.parts if p.spec.task.registered is False})


def overlap_text(shared: OverlapRecord | None) -> str:
    """How many evaluated questions stand in which rows; empty where none does, or none was looked for."""
    if shared is None or not shared.any:
        return ""
    parts = []
    for rows, exact, masked in (
        ("training", shared.train_exact, shared.train_masked),
        ("validation", shared.validation_exact, shared.validation_masked),
    ):
        if exact or masked:
            more = "" if masked is None else f", {masked:,} but for their numbers"
            parts.append(f"{exact:,} of {shared.n:,} questions stand in the {rows} rows{more}")
    return "; ".join(parts)


def stamp(rows: Sequence[Row]) -> str:
    """One cell of a CSV: what holds for any of these rows, nothing where all is as registered."""
    words = [QUICK] if any(r.quick for r in rows) else []
    if changed_questions(rows) or changed_training(rows):
        words.append(CHANGED)
    words += [] if all(p.held_out for r in rows for p in r.parts) else [OVERLAP]
    words += [] if all(p.sealed for r in rows for p in r.parts) else [UNSEALED]
    return "; ".join(words)
