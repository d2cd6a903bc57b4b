"""`rim-bench compare`: two systems on the same items, with everything that a claim about them needs, and what may not
be claimed.

A system is one run, or several training seeds of one recipe, at one setting. Its difference to itself with the knob
turned down or the blocks taken out is an ablation: it shows that the trained model depends on them, not that they help.
So it is refused as a headline unless the arm with them beats a separately trained direct (a published difference rose
to z = 2.4 while both arms fell below the base model).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from rim_bench.evidence.baseline import choose, measured, setting_of
from rim_bench.evidence.pairs import ALONE, PairedDifference, Verdict, adjusted, contrasts, differing
from rim_bench.evidence.rows import Accuracy, Evaluation, Group, Row, Subset, changed_notes, grouped
from rim_bench.evidence.stats import clustered as clustered_module
from rim_bench.evidence.stats import intervals
from rim_bench.evidence.stats import tests as tests_module
from rim_bench.evidence.stats.intervals import Clustered, Interval
from rim_bench.storage.records import EvaluationRecord, TrainingRecord
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import UsageError
from rim_bench.util.files import canonical

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DIRECT = "direct"
QUICK_NOTE = "quick: not a result"


@dataclass(frozen=True)
class Side:
    """One system on one set of items."""

    row: Row
    label: str
    solved: NDArray[np.float64]  # [seeds, items]
    measured: bool = True


@dataclass(frozen=True)
class Margin:
    """What the data say about "as good as" at a margin; fractions. One seed each: Tango's test. Several:
    t over seeds and items.
    """

    value: float
    interval: Interval  # 90 %: equivalence at 5 % is that it lies inside the margin
    noninferior: bool  # the first is worse by less than the margin (5 %, one-sided)
    equivalent: bool  # they differ by less than the margin (5 %)
    p_noninferior: float | None  # None with several seeds
    p_equivalent: float | None


@dataclass(frozen=True)
class SubsetComparison:
    """Two systems on one set of items."""

    scope: Subset
    contrast: PairedDifference[Side]
    holm: float
    verdict: Verdict[Side]
    margin: Margin
    clustered: Clustered | None  # of the difference, where items share a source

    @property
    def higher(self) -> Side | None:
        """The system that is clearly better, this pair taken by itself; None where they are tied."""
        return self.verdict.higher

    @property
    def accuracies(self) -> tuple[Accuracy, Accuracy]:
        """Of both systems."""
        return self.contrast.first.row.accuracy(self.scope.ids), self.contrast.second.row.accuracy(self.scope.ids)

    @cached_property
    def retraining(self) -> float | None:
        """What the difference must exceed to be more than other training seeds would make of it; None with one seed
        each.
        """
        return self.contrast.retraining()


@dataclass(frozen=True)
class SystemComparison:
    """The whole comparison: `readings` of first − second; with a baseline also of both against it.

    Headline set first, then OOD.
    """

    first: str
    second: str
    baseline: str | None
    readings: tuple[SubsetComparison, ...]
    against: tuple[SubsetComparison, ...]
    ablation: bool
    allowed: bool  # whether the difference may be a headline
    headline: str
    notes: tuple[str, ...]


# Reading what is stored
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
    """Compares two systems, each `RUN[@SETTING][,RUN...]`: SETTING is K=2 or the key of an evaluation. `margin` in
    points.

    Raises:
        UsageError: other items, evaluator, split, data or task; runs that are not seeds of one recipe; an ablation
            without a baseline, or a baseline that is not a separately trained direct.
    """
    if not (math.isfinite(margin) and 0 < margin < 100):
        raise UsageError(f"--margin {margin} is not a number of points above 0 and below 100, as in --margin 1")
    given = {"first": first, "second": second} | ({} if baseline is None else {"--baseline": baseline})
    rows = {name: _row(store, text, split, task) for name, text in given.items()}
    one, two = rows["first"], rows["second"]
    for name, row in list(rows.items())[1:]:
        _same_questions(one, row, given["first"], given[name])
    shared = set(one.runs) & set(two.runs)
    if shared and set(one.runs) != set(two.runs):
        raise UsageError(
            f"{first!r} and {second!r} share {len(shared)} runs but not all: give the same seeds at both settings"
        )
    if shared and one.first.key == two.first.key:
        raise UsageError(
            f"{first!r} and {second!r} are the same evaluation of {one.first.run!r}: there is nothing to compare"
        )
    direct, ablation = rows.get("--baseline"), bool(shared) or _same_model(one, two)
    if direct is not None:
        _check_direct(direct, (one, two), ablation)
    elif ablation:
        raise UsageError(
            f"{first!r} and {second!r} are one model at two settings; their difference shows that it depends on what "
            "was taken "
            "out, not that this helps; it is refused unless --baseline RUN names a separately trained direct that the "
            "arm with it beats"
        )
    return _compared(_labels(list(rows.values())), margin / 100, ablation)


def _same_model(one: Row, two: Row) -> bool:
    """Whether they are trainings of one recipe, at two settings:
    an ablation, whichever seeds are given on the two sides.
    """
    first, second = ({k: v for k, v in r.first.spec.items() if k not in ("seed", "parent")} for r in (one, two))
    knobs = [canonical([r.first.summary.get("effort"), r.first.summary.get("knob")]) for r in (one, two)]
    return canonical(first) == canonical(second) and knobs[0] != knobs[1]


def _row(store: Store, text: str, split: str, task: str | None) -> Row:
    """The seeds of one system."""
    parts = [_evaluated(store, one.strip(), split, task) for one in text.split(",") if one.strip()]
    if not parts:
        raise UsageError(f"{text!r} names no run")
    if len({p.run for p in parts}) < len(parts):
        raise UsageError(f"{text!r} names a run twice")
    found = [row for group in grouped(parts) for row in group.rows]
    if len(found) > 1:
        a, b = found[0].first, found[1].first
        why = f"both have seed {a.seed}" if a.seed == b.seed else "recipe, setting or questions differ"
        raise UsageError(f"{text!r}: {a.run!r} and {b.run!r} are not training seeds of one system: {why}")
    return found[0]


def _evaluated(store: Store, text: str, split: str, task: str | None) -> Evaluation:
    name, at, wanted = text.rpartition("@")
    run = store.find(name if at else text)
    key, summary = _chosen(run, wanted, split, task) if at else choose(run, split, task)
    measured(run, key, summary)  # refuses what is damaged, twice there or neither right nor wrong
    items = {i.id: i for i in run.read_items(key)}
    return Evaluation(run.id, key, run.spec, summary, run.training() or TrainingRecord(), items)


def _chosen(run: Run, wanted: str, split: str, task: str | None) -> tuple[str, EvaluationRecord]:
    """The evaluation that `wanted` names by its key, or by the knob's value on this split."""
    stored = run.evaluations()
    if wanted in stored:
        return wanted, stored[wanted]
    knobs: dict[str, list[str]] = {}
    for key, summary in stored.items():
        if summary.get("split") == split and task in (None, summary.get("task")):
            knobs.setdefault(setting_of(run.spec, summary).knob, []).append(key)
    fitting = knobs.get(wanted, [])
    if len(fitting) != 1:
        known = ", ".join([*filter(None, knobs), *stored])
        raise UsageError(
            f"run {run.id!r} has {len(fitting) or 'no'} evaluations {wanted!r} on {split}: it has {known or 'none'}"
        )
    return fitting[0], stored[fitting[0]]


def _same_questions(one: Row, two: Row, first: str, second: str) -> None:
    """Raises UsageError that names what differs."""
    a, b = one.first.facts, two.first.facts
    words = {
        "task": "task",
        "split": "split",
        "evaluator_version": "evaluator version",
        "task_version": "task version",
        "data": "data",
    }
    for field, word in (words | {"questions": "items"}).items():
        if getattr(a, field) != getattr(b, field):
            raise UsageError(
                f"{first!r} and {second!r} cannot be compared: other {word}, {_cut(getattr(a, field))} and "
                f"{_cut(getattr(b, field))}"
            )


def _cut(value: str) -> str:
    return repr(value[:12] if len(value) == 64 else value)


def _check_direct(direct: Row, arms: Sequence[Row], ablation: bool) -> None:
    name = direct.first.run
    if not direct.method.startswith(DIRECT):
        raise UsageError(f"--baseline {name!r} is {direct.method!r}: it must be a separately trained {DIRECT}")
    if any(set(direct.runs) & set(arm.runs) for arm in arms):
        raise UsageError(f"--baseline {name!r} is one of the compared runs: it must be a separately trained one")
    if not direct.first.default:
        raise UsageError(f"--baseline {name!r} is not at its default setting: give its default evaluation")
    one, two = direct.first.spec, arms[0].first.spec
    same = canonical(one.get("backbone")) == canonical(two.get("backbone"))
    apart = [*([] if same else ["other backbone"]), *(d.value for d in differing(direct, arms[0]))]
    if ablation and apart:
        raise UsageError(
            f"--baseline {name!r} does not tell what the ablated model gained ({', '.join(apart)}): train {DIRECT} "
            "alike"
        )


def _labels(rows: Sequence[Row]) -> list[Row]:
    """Rows with labels that tell them apart."""
    told = {
        p: row.label for group in grouped([e for r in rows for e in r.parts]) for row in group.rows for p in _names(row)
    }
    labels = [told[_names(r)[0]] for r in rows]
    if len({*labels}) < len(
        labels
    ):  # other seeds of one recipe, or an evaluation that differs in nothing that changes an answer
        labels = [
            f"{label} [{', '.join(f'{p.run[-12:]} {p.key}' for p in r.parts)}]"
            for label, r in zip(labels, rows, strict=True)
        ]
    return [Row(label, row.parts) for label, row in zip(labels, rows, strict=True)]


def _names(row: Row) -> list[tuple[str, str]]:
    return [(p.run, p.key) for p in row.parts]


# Comparing
def _compared(rows: Sequence[Row], margin: float, ablation: bool) -> SystemComparison:
    whole = sorted(rows, key=lambda r: r.first.curve)  # the items of a point of a curve do not tell the reference
    group = Group(whole[0].first.facts, tuple(whole))
    pairs = [(0, 1)] + [(0, 2), (1, 2)] * (len(rows) > 2)
    drafts: list[tuple[Subset, tuple[int, int], PairedDifference[Side]]] = []
    for scope in (s for s in group.scopes if not s.level):
        sides = [Side(r, r.label, r.solved(scope.ids)) for r in rows]
        found = contrasts(sides, group.clusters(scope), ablations=True)
        drafts += [(scope, pair, c) for pair, c in zip(pairs, found, strict=True)]
    family = adjusted([c for _, _, c in drafts])
    readings: dict[tuple[int, int], list[SubsetComparison]] = {}
    for (scope, pair, contrast), (holm, holm_seeds) in zip(drafts, family, strict=True):
        verdict = contrast.judged(holm, _floor(group, scope), holm_seeds)
        made = SubsetComparison(scope, contrast, holm, verdict, _as_good(contrast, margin), _clustered(contrast))
        readings.setdefault(pair, []).append(made)
    main = readings[0, 1]
    against = [r for pair in pairs[1:] for r in readings[pair]]
    allowed, headline = _headline(main[0], ablation, {i: readings[i, 2][0] for i in (0, 1) if (i, 2) in readings})
    names = [r.label for r in rows]
    notes = tuple(_notes(rows, main[0], len(drafts)))
    return SystemComparison(
        names[0],
        names[1],
        names[2] if len(names) > 2 else None,
        tuple(main),
        tuple(against),
        ablation,
        allowed,
        headline,
        notes,
    )


def _floor(group: Group, scope: Subset) -> float:
    """Accuracy of the best constant answer; 0 where the items do not tell it."""
    first = group.rows[0].first
    known = "reference" in next(iter(first.items.values())) or len(scope.ids) == len(first.items)
    return group.floor(scope)[1] if known else 0.0


def _as_good(contrast: PairedDifference[Side], margin: float) -> Margin:
    n = len(contrast.difference)
    if len(contrast.first.solved) == len(contrast.second.solved) == 1:
        b, c = contrast.counts
        worse, differ = tests_module.noninferiority(b, c, n, margin), tests_module.equivalence(b, c, n, margin)
        interval = tests_module.score_interval(b, c, n, 0.9)
        if (
            contrast.clusters is not None
        ):  # Tango's test takes items as independent: nothing is concluded that it alone would allow
            interval, worse, differ = clustered_module.as_good(
                contrast.difference, contrast.clusters, margin, interval, worse, differ
            )
        return Margin(margin, interval, worse < 0.05, differ < 0.05, worse, differ)
    bound = contrast.retraining(0.9)
    half = math.inf if bound is None else bound
    interval = Interval(max(-1.0, contrast.value - half), min(1.0, contrast.value + half))
    return Margin(
        margin, interval, interval.low > -margin, -margin < interval.low and interval.high < margin, None, None
    )


def _clustered(contrast: PairedDifference[Side]) -> Clustered | None:
    """Of the difference, where items share a source."""
    if contrast.clusters is None or len(set(contrast.clusters)) < 2:
        return None
    return intervals.clustered(contrast.difference.tolist(), contrast.clusters)


def _headline(main: SubsetComparison, ablation: bool, against: Mapping[int, SubsetComparison]) -> tuple[bool, str]:
    """Whether the difference may be said, and the sentence."""
    first, second = main.contrast.first, main.contrast.second
    if not ablation:
        told = [
            f"{r.contrast.first.label} {100 * r.contrast.value:+.1f} points, {r.verdict.text()}"
            for r in against.values()
        ]
        beside = f" Against {against[0].contrast.second.label}: {'; '.join(told)}." if told else ""
        return True, _sentence(main) + beside
    whole = _whole(first, second)
    with_arm, reading = (first, second)[whole], against[whole]
    direct = reading.contrast.second.label
    gain = f"{100 * reading.contrast.value:+.1f} points, {reading.verdict.text()}"
    if reading.verdict.winner is None or reading.verdict.winner.row is not with_arm.row:
        return False, (
            f"Refused as a headline: an ablation of one trained model, whose arm {with_arm.label} does not beat the "
            "separately trained "
            f"{direct} ({gain}). It shows that the model depends on what was taken away, not that this helps."
        )
    return (
        True,
        f"{_sentence(main)} An ablation of one trained model; {with_arm.label} beats the separately trained {direct} "
        f"({gain}).",
    )


def _whole(first: Side, second: Side) -> int:
    """Which of two settings of one model is the one with more: its default, else the larger value of the knob."""

    def rank(side: Side) -> tuple[bool, float]:
        part = side.row.first
        knob = part.summary.get("knob") or {}
        value = knob.get("value") if isinstance(knob, Mapping) else part.summary.get("effort")
        return part.default, float(value) if isinstance(value, int | float) else 0.0

    return 0 if rank(first) >= rank(second) else 1


def _sentence(reading: SubsetComparison) -> str:
    first, second, m = reading.contrast.first, reading.contrast.second, reading.margin
    size, points = 100 * reading.contrast.value, f"{100 * m.value:g} point" + ("s" if m.value != 0.01 else "")
    where = "" if reading.scope.name == "all" else f" ({reading.scope.name})"
    if reading.higher is not None:
        other = second if reading.higher is first else first
        text = f"{reading.higher.label} is more accurate than {other.label} by {abs(size):.1f} points{where}"
        text += f" ({ALONE}: not after Holm over the seeds' p)" if reading.verdict.only_alone else ""
    else:
        text = f"{first.label} and {second.label} are {reading.verdict.text()}{where}: {size:+.1f} points"
    if m.equivalent:
        return f"{text}; equivalent within {points}."
    if reading.higher is not None:
        return f"{text}."
    if m.noninferior:
        return f"{text}; {first.label} is not inferior by {points} or more."
    return f"{text}; not shown to be as good within {points}."


def _notes(rows: Sequence[Row], main: SubsetComparison, tests: int) -> list[str]:
    notes = [f"{QUICK_NOTE}: {r.label}" for r in rows if r.quick] + changed_notes(rows)
    if len({canonical(r.first.spec.get("backbone")) for r in rows}) > 1:
        notes.append("Other backbones: the difference is not that of the methods alone.")
    if len({r.first.settings.get("dtype") for r in rows} | {None}) > 2:
        notes.append("Evaluated in other number types.")
    seeds = [len(r.parts) for r in rows[:2]]
    if max(seeds) == 1:
        notes.append("One training seed each: it says nothing of retraining, only of these trained models.")
    else:
        notes.append(
            f"Seeds: {seeds[0]} and {seeds[1]}; p is over questions, the retraining bound and the margin over seeds, "
            "too."
        )
    drawn, clusters = "items", main.contrast.clusters
    if clusters is not None:
        drawn = "sources"
        notes.append(clustered_module.cluster_note(len(main.scope.ids), len(set(clusters))))
    notes.append(
        f"Intervals are 95 %; Holm over {tests} tests; the bootstrap resamples seeds and {drawn}; detectable is at 80 "
        "% power."
    )
    if main.contrast.detectable is None:
        notes.append("No item is discordant: nothing can be said of how small a difference would have been found.")
    return notes
