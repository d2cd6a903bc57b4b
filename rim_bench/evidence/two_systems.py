"""`rim-bench compare`: two systems on the same items, with what a claim about them needs, and what may not be claimed.

A system is one run, or several training seeds of one recipe, at one setting. Its difference to itself with the knob
turned down or the blocks taken out is an ablation: it shows that the trained model depends on them, not that they help.
So it is refused as a headline unless the arm with them beats a separately trained direct (a published difference rose
to z = 2.4 while both arms fell below the base model).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rim_bench.evidence.baseline import choose, measured, setting_of
from rim_bench.evidence.pairs import PairedDifference, Verdict, Whole, contrasts, differing, judged
from rim_bench.evidence.rows import Accuracy, Evaluation, Group, Row, Subset, grouped
from rim_bench.evidence.stats import clustered, intervals, tests
from rim_bench.evidence.stats.intervals import Clustered, Interval
from rim_bench.storage.records import TrainingRecord
from rim_bench.storage.run_folder import Store
from rim_bench.util.errors import UsageError
from rim_bench.util.files import canonical
from rim_bench.util.progress import phase

DIRECT = "direct"


@dataclass(frozen=True)
class Margin:
    """What the data say about "as good as" at a margin; fractions."""

    value: float
    interval: Interval  # 90 %: equivalence at 5 % is that it lies inside the margin
    noninferior: bool  # the first is worse by less than the margin (5 %, one-sided)
    equivalent: bool  # they differ by less than the margin (5 %)
    p_noninferior: float | None  # None where one system has one seed and the other several
    p_equivalent: float | None

    @staticmethod
    def of(contrast: PairedDifference[Whole], margin: float) -> Margin:
        """By Tango's test with one seed each; with several by t over seeds and questions."""
        if len(contrast.first.solved) == len(contrast.second.solved) == 1:
            (b, c), n = contrast.counts, len(contrast.difference)
            worse, differ = tests.noninferiority(b, c, n, margin), tests.equivalence(b, c, n, margin)
            interval = tests.score_interval(b, c, n, 0.9)
            if contrast.clusters is not None:  # Tango's takes items as independent: never more than it would allow
                interval, worse, differ = clustered.as_good(
                    contrast.difference, contrast.clusters, margin, interval, worse, differ
                )
            return Margin(margin, interval, worse < 0.05, differ < 0.05, worse, differ)
        if (error := contrast.error) is None:  # one seed of one system: nothing is known of its retraining
            return Margin(margin, Interval(-1.0, 1.0), False, False, None, None)
        half, worse, differ = error.bound(0.9), error.p_worse(margin), error.p_equivalent(margin)
        interval = Interval(max(-1.0, error.difference - half), min(1.0, error.difference + half))
        return Margin(margin, interval, worse < 0.05, differ < 0.05, worse, differ)


@dataclass(frozen=True)
class SubsetComparison:
    """Two systems on one set of items."""

    scope: Subset
    contrast: PairedDifference[Whole]
    holm: float
    verdict: Verdict[Whole]
    margin: Margin
    clustered: Clustered | None  # of the difference, where items share a source

    @property
    def higher(self) -> Whole | None:
        """The system that is better; None where they are equivalent, undecided, or have one seed."""
        return self.verdict.higher

    @property
    def accuracies(self) -> tuple[Accuracy, Accuracy]:
        """Of both systems."""
        return self.contrast.first.row.accuracy(self.scope.ids), self.contrast.second.row.accuracy(self.scope.ids)

    @cached_property
    def retraining(self) -> float | None:
        """What the difference must exceed to be more than other seeds and questions would make of it, or None."""
        return None if self.contrast.error is None else self.contrast.error.bound()


@dataclass(frozen=True)
class SystemComparison:
    """The whole comparison, first − second; with a baseline also of both against it. Headline set first, then OOD."""

    rows: tuple[Row, ...]  # the first, the second, the baseline
    readings: tuple[SubsetComparison, ...]
    against: tuple[SubsetComparison, ...]  # the baseline: of the first, then of the second
    tests: int  # size of the Holm family
    whole: int | None  # of an ablation, which of the two is the whole model (0 or 1)

    @property
    def first(self) -> str:
        """Label of the first system."""
        return self.rows[0].label

    @property
    def second(self) -> str:
        """Label of the second system."""
        return self.rows[1].label

    @property
    def baseline(self) -> str | None:
        """Label of the separately trained direct, if there is one."""
        return self.rows[2].label if len(self.rows) > 2 else None

    @property
    def ablation(self) -> bool:
        """Whether they are one model at two settings."""
        return self.whole is not None

    @property
    def beside_baseline(self) -> tuple[SubsetComparison, ...]:
        """The first and the second against the baseline, on the headline set; empty without one."""
        return tuple(r for r in self.against if r.scope == self.readings[0].scope)

    @property
    def allowed(self) -> bool:
        """Whether the difference may be a headline: for an ablation, whether the whole model beats the baseline."""
        if self.whole is None:
            return True
        reading = self.beside_baseline[self.whole]
        return reading.verdict.higher is reading.contrast.first


@phase("comparing two systems")
def versus(
    store: Store,
    first: str,
    second: str,
    baseline: str | None = None,
    *,
    margin: float = 1.0,
    split: str = "test",
    task: str | None = None,
) -> SystemComparison:
    """The comparison of two systems, each `RUN[@SETTING][,RUN...]`: SETTING is K=2 or the key of an evaluation.

    Args:
        store: where the runs are.
        first: the difference is first − second.
        second: the same.
        baseline: the separately trained direct that an ablation must beat.
        margin: points within which two systems count as equivalent.
        split: the questions that both answered.
        task: where a run is evaluated on several tasks.

    Raises:
        UsageError: other items, evaluator, split, data or task; runs that are not seeds of one recipe; an ablation
            without a baseline, or a baseline that is not a separately trained direct.
    """
    if not (math.isfinite(margin) and 0 < margin < 100):
        raise UsageError(f"--margin {margin} is not a number of points above 0 and below 100, as in --margin 1")
    names = {"first": first, "second": second} | ({} if baseline is None else {"--baseline": baseline})
    rows = {role: _system(store, name, split, task) for role, name in names.items()}
    a, b = rows["first"], rows["second"]
    for role, row in list(rows.items())[1:]:
        _check_same_questions(a, row, first, names[role])
    shared = set(a.runs) & set(b.runs)
    if shared and set(a.runs) != set(b.runs):
        raise UsageError(
            f"{first!r} and {second!r} share {len(shared)} runs but not all: give the same seeds at both settings"
        )
    replicates = bool(shared) and replicated(a, b)
    if shared and a.first.key == b.first.key and not replicates:
        raise UsageError(
            f"{first!r} and {second!r} are the same evaluation of {a.first.run!r}: there is nothing to compare"
        )
    recipes = [canonical(r.first.spec.recipe) for r in (a, b)]
    knobs = [canonical([r.first.summary.effort, r.first.summary.knob]) for r in (a, b)]
    one_recipe = recipes[0] == recipes[1] and knobs[0] != knobs[1]  # whichever seeds the two sides have
    ablation = (bool(shared) and not replicates) or one_recipe
    if baseline is not None:
        _check_direct(rows["--baseline"], (a, b), ablation)
    elif ablation:
        raise UsageError(
            f"{first!r} and {second!r} are one model at two settings; their difference shows that it depends on what "
            "was taken out, not that this helps; it is refused unless --baseline RUN names a separately trained direct "
            "that the arm with it beats"
        )
    return _compared(list(rows.values()), margin / 100, ablation)


def replicated(first: Row, second: Row) -> bool:
    """Whether they are the same runs, trained twice: one specification, other weights."""
    weights = [[p.summary.weights_sha256 for p in row.parts] for row in (first, second)]
    return first.runs == second.runs and first.first.key == second.first.key and weights[0] != weights[1]


def _system(store: Store, names: str, split: str, task: str | None) -> Row:
    """The seeds of one system, `RUN[@SETTING]` with commas between them."""
    parts = [_evaluation(store, name.strip(), split, task) for name in names.split(",") if name.strip()]
    if not parts:
        raise UsageError(f"{names!r} names no run")
    if len({p.run for p in parts}) < len(parts):
        raise UsageError(f"{names!r} names a run twice")
    rows = [row for group in grouped(parts) for row in group.rows]
    if len(rows) > 1:
        a, b = rows[0].first, rows[1].first
        why = f"both have seed {a.seed}" if a.seed == b.seed else "recipe, setting or questions differ"
        raise UsageError(f"{names!r}: {a.run!r} and {b.run!r} are not training seeds of one system: {why}")
    return rows[0]


def _evaluation(store: Store, name: str, split: str, task: str | None) -> Evaluation:
    """The evaluation that `RUN[@SETTING]` names: by its key, or by the knob's value on this split."""
    run_name, mark, wanted = name.rpartition("@")
    run = store.find(run_name if mark else name)
    stored = run.evaluations()
    if mark and wanted in stored:
        key, summary = wanted, stored[wanted]
    elif mark:
        knobs: dict[str, list[str]] = {}
        for key, summary in stored.items():
            if summary.split == split and task in (None, summary.task):
                knobs.setdefault(setting_of(run.spec, summary).knob, []).append(key)
        fitting = knobs.get(wanted, [])
        if len(fitting) != 1:
            known = ", ".join([*filter(None, knobs), *stored])
            raise UsageError(
                f"run {run.id!r} has {len(fitting) or 'no'} evaluations {wanted!r} on {split}: it has {known or 'none'}"
            )
        key, summary = fitting[0], stored[fitting[0]]
    else:
        key, summary = choose(run, split, task)
    measured(run, key, summary)  # refuses what is damaged, twice there or neither right nor wrong
    items = {i.id: i for i in run.read_items(key)}
    return Evaluation(
        run.id, key, run.spec, summary, run.training() or TrainingRecord(), items, run.commits(), run.sealed
    )


def _check_same_questions(first: Row, second: Row, first_name: str, second_name: str) -> None:
    """Raises UsageError that names what differs."""
    words = {
        "task": "task", "split": "split", "evaluator_version": "evaluator version", "task_version": "task version",
        "data": "data", "questions": "items",
    }  # fmt: skip
    for field, word in words.items():
        values = [getattr(row.first.facts, field) for row in (first, second)]
        if values[0] != values[1]:
            cut = [repr(v[:12] if len(v) == 64 else v) for v in values]
            raise UsageError(
                f"{first_name!r} and {second_name!r} cannot be compared: other {word}, {cut[0]} and {cut[1]}"
            )


def _check_direct(direct: Row, arms: Sequence[Row], ablation: bool) -> None:
    """Raises UsageError for a baseline that is no separately trained direct."""
    name = direct.first.run
    if not direct.method.startswith(DIRECT):
        raise UsageError(f"--baseline {name!r} is {direct.method!r}: it must be a separately trained {DIRECT}")
    if any(set(direct.runs) & set(arm.runs) for arm in arms):
        raise UsageError(f"--baseline {name!r} is one of the compared runs: it must be a separately trained one")
    if not direct.first.default:
        raise UsageError(f"--baseline {name!r} is not at its default setting: give its default evaluation")
    backbones = {canonical(row.first.spec.backbone) for row in (direct, arms[0])}
    apart = ["other backbone"] * (len(backbones) > 1) + [d.value for d in differing(direct, arms[0])]
    if ablation and apart:
        raise UsageError(
            f"--baseline {name!r} does not tell what the ablated model gained ({', '.join(apart)}): train {DIRECT} "
            "alike"
        )


def _compared(rows: Sequence[Row], margin: float, ablation: bool) -> SystemComparison:
    """Every pair of the rows, under labels that differ, on the headline set and on OOD; Holm over all of them."""
    together = grouped([e for r in rows for e in r.parts])
    known = {(p.run, p.key): row.label for group in together for row in group.rows for p in row.parts}
    labels = [known[r.first.run, r.first.key] for r in rows]
    if len({*labels}) < len(labels):  # other seeds of one recipe, or evaluations with the same answers
        names = [", ".join(f"{p.run[-12:]} {p.key}" for p in r.parts) for r in rows]
        labels = [f"{label} [{name}]" for label, name in zip(labels, names, strict=True)]
    rows = [Row(label, row.parts) for label, row in zip(labels, rows, strict=True)]
    ordered = sorted(rows, key=lambda r: r.first.curve)  # the items of a point of a curve do not tell the reference
    group = Group(ordered[0].first.facts, tuple(ordered))
    first = group.rows[0].first
    drafts: list[tuple[Subset, PairedDifference[Whole]]] = []
    for scope in (s for s in group.scopes if not s.level):
        sides = [Whole(r, r.solved(scope.ids)) for r in rows]
        drafts += [(scope, c) for c in contrasts(sides, group.clusters(scope), ablations=True)]

    def floor(scope: Subset) -> float:
        known = next(iter(first.items.values())).reference is not None or len(scope.ids) == len(first.items)
        return group.floor(scope).value if known else 0.0

    readings = []
    for (scope, contrast), (holm, verdict) in zip(drafts, judged([(c, floor(s)) for s, c in drafts]), strict=True):
        sources = contrast.clusters if contrast.clusters and len(set(contrast.clusters)) > 1 else None
        error = None if sources is None else intervals.clustered(contrast.difference.tolist(), sources)
        readings.append(SubsetComparison(scope, contrast, holm, verdict, Margin.of(contrast, margin), error))
    main, *against = (
        [r for r in readings if r.contrast.first.row is a and r.contrast.second.row is b]
        for a, b in ((rows[0], rows[1]), *((row, rows[2]) for row in rows[:2] if len(rows) > 2))
    )
    whole = (0 if _amount(rows[0]) >= _amount(rows[1]) else 1) if ablation else None
    return SystemComparison(tuple(rows), tuple(main), tuple(r for pair in against for r in pair), len(drafts), whole)


def _amount(row: Row) -> tuple[bool, float]:
    """Orders settings of one model by how much of it they leave: the default first, then the values of the knob."""
    part = row.first
    knob = part.summary.knob
    value = part.summary.effort if knob is None else knob.value
    return part.default, float(value) if isinstance(value, int | float) else 0.0
