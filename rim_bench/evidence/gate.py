"""The accuracy gate: has a run become worse than its stored baseline by a margin or more?

One-sided and paired. With d = baseline − run over the same items:
    regressed     d ≥ margin, and the exact one-sided McNemar p < 0.05;
                  or the same of the items of one level, or of one source;
    holds         not so, and d ≤ 0 or the one-sided 95 % upper bound of d < margin;
    underpowered  neither, or fewer items than the minimum.
The bound is Tango's score bound (`tests.upper_bound`): its test has its size where gates are used, with few
discordant items, too. Wald's bound has no width there, and a bootstrap is no better and moves with its seed.

All p values of one check are adjusted together, by Holm's method with weights: the whole sets of all runs have half of
the error rate, their levels and their sources the other half; without levels and sources the whole sets have all. So an
unchanged evaluation comes out as regressed in less than 5 % of checks, whatever is in them: a loss at one level that
another makes up for is found, and forty levels are no forty chances of a false alarm.

`operating` gives the exact probability of every verdict on a whole set. Evaluating anew without a change comes out as
regressed in far less than 5 % where the margin is wide for n. A true loss of exactly the margin comes out as regressed
in about half of the cases, for d ≥ margin asks for that, and as holding in about 5 % (at most 5.5 % where the bound
decides; more where n is so small that d ≤ 0 happens by chance, which the reason then says). A gate that retrains has
another null: see `Check.same_weights`.

Where items share sources (templates, seed questions), p is the larger of McNemar's and the exact sign-flip test over
sources, and the bound the larger of Tango's and t's over sources: nothing is concluded of a set or a level that
independent items alone would allow.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rim_bench.data.answers import EVALUATOR_VERSION
from rim_bench.evidence.baseline import (
    Baseline,
    BaselineEntry,
    Questions,
    SystemSetting,
    difference,
    measured,
    questions_of,
    read_baseline,
    recipe_of,
    rescored,
    setting_of,
)
from rim_bench.evidence.stats import clustered, tests
from rim_bench.evidence.stats.clustered import source_numbers
from rim_bench.evidence.stats.intervals import Interval, normal_quantile
from rim_bench.storage.records import EvaluationRecord, ItemRecord
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import OneSentence, UsageError
from rim_bench.util.files import Record
from rim_bench.util.progress import phase

GateVerdict = Literal["holds", "regressed", "bad input", "not comparable", "underpowered"]
CODES: Mapping[GateVerdict, int] = {"holds": 0, "regressed": 1, "bad input": 2, "not comparable": 3, "underpowered": 4}
WORST_FIRST: tuple[GateVerdict, ...] = ("bad input", "not comparable", "regressed", "underpowered", "holds")
ALPHA = 0.05
POWER = 0.8
MIN_N = 500
LEAST = 5  # items of a source, with fewer of which no loss of all of them is significant
Evaluate = Callable[[Run, str, Mapping[str, Any]], tuple[EvaluationRecord, list[ItemRecord]]]
"""Asks a run the questions of a task with the present code: `rim_bench.evaluate.stored_runs.evaluate_now`."""


class NotComparable(OneSentence):
    """The run answered other questions, or is another kind of system, than what the baseline holds."""


@dataclass(frozen=True)
class Decision:
    """The verdict on n paired items, and what it rests on. Fractions; `difference` and `upper` are baseline − run."""

    verdict: GateVerdict
    reason: str
    n: int
    baseline: float
    run: float
    lost: int  # items that only the baseline solved
    won: int  # items that only the run solved
    difference: float
    upper: float  # one-sided 95 % bound
    p: float  # exact one-sided McNemar, adjusted for all that the check tests
    smallest_margin: float | None  # that this n holds or breaks with 80 % power; None where nothing differs
    sources: int | None = None  # that the items share; None where they share none

    def why(self, margin: float, min_n: int, effect: float) -> str:
        """The verdict's reason in a sentence; `effect` is the design effect."""
        n, d, verdict = self.n, self.difference, self.verdict
        size, most, limit = (f"{100 * v:.2f}".rstrip("0").rstrip(".") for v in (abs(d), self.upper, margin))
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"
        if n < min_n:
            return f"{n:,} items are too few: the minimum is {min_n:,}"
        if verdict == "regressed":
            return f"{size} points lower than the baseline ({p}): the margin is {limit}"
        if verdict == "holds" and d <= 0:
            text = "as accurate as the baseline on these items" if d == 0 else f"{size} points higher than the baseline"
            return text + (f"; a loss of up to {most} is not excluded (95 %)" if self.upper >= margin else "")
        if verdict == "holds":
            return f"{size} points lower, and with 95 % confidence by less than {most}: under the margin of {limit}"
        discordance = (self.lost + self.won) / n
        if d >= margin - 1e-12:
            needed = math.ceil(effect * tests.items_needed(discordance, d, POWER, 2 * ALPHA))
            lower = f"{size} points lower, which is the margin of {limit} or more, but {p}"
            return f"{lower}: about {needed:,} items confirm such a loss with 80 % power"
        far = normal_quantile(1 - ALPHA) * math.sqrt(max(discordance, margin) - margin**2)
        near = normal_quantile(POWER) * math.sqrt(discordance - d**2)
        needed = math.ceil(effect * ((far + near) / (margin - d)) ** 2)
        left = f"a loss of up to {most} is not excluded (95 %), where the margin is {limit}"
        return (
            f"{size} points lower, and {left}: if that is the true loss, about {needed:,} items show with 80 % power "
            "that it is under the margin"
        )


@dataclass(frozen=True)
class TestedPart:
    """The items of one level or of one source. Fractions; `difference` is baseline − run."""

    kind: Literal["level", "source"]
    name: str
    n: int
    lost: int
    won: int
    difference: float
    p: float  # exact and one-sided, adjusted for all that the check tests
    regressed: bool

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Noise:
    """The same weights evaluated again: how many answers changed between right and wrong."""

    run: str
    how: str
    changed: int
    n: int
    difference: float  # first − repeat


@dataclass(frozen=True)
class Check:
    """One run against the baseline."""

    name: str  # the run as given
    verdict: GateVerdict
    reason: str  # one sentence
    setting: SystemSetting | None = None
    questions: Questions | None = None
    decision: Decision | None = None
    run: Record = field(default_factory=dict)  # where both come from
    baseline: Record = field(default_factory=dict)
    parts: tuple[TestedPart, ...] = ()  # worst first: by p, then by difference
    notes: tuple[str, ...] = ()
    noise: tuple[Noise, ...] = ()
    note: str = ""  # of the baseline's writer
    stored: bool = False  # a stored evaluation was compared; else the run was evaluated for it

    @property
    def code(self) -> int:
        """Exit code of this verdict."""
        return CODES[self.verdict]

    @property
    def same_weights(self) -> bool | None:
        """Whether the baseline's very weights were evaluated again; None where that is not known.

        With other weights the margin must come from retrainings, for other training seeds move accuracy by more than
        the questions' error.
        """
        run, baseline = self.run.get("weights_sha256"), self.baseline.get("weights_sha256")
        return None if run is None or baseline is None else run == baseline


def exit_code(checks: Sequence[Check]) -> int:
    """The worst verdict's: 2, then 3, then 1, then 4, then 0. Nothing checked is bad input."""
    verdicts = {c.verdict for c in checks}
    return CODES[next((v for v in WORST_FIRST if v in verdicts), "bad input")]


def check_margin(margin: float, min_n: int) -> None:
    """Raises UsageError for a margin (in points) or a minimum that no gate can have."""
    if not (math.isfinite(margin) and 0 < margin < 100):
        raise UsageError(f"--margin {margin} is not a number of points above 0 and below 100, as in --margin 2")
    if min_n < 1:
        raise UsageError(f"--min-n {min_n} must be at least 1")


def lost_and_won(baseline: Sequence[bool], run: Sequence[bool]) -> tuple[int, int]:
    """How many items only the baseline solved, and how many only the run."""
    pairs = list(zip(baseline, run, strict=True))
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


def one_sided(lost: int, won: int, difference: Sequence[int], clusters: Sequence[int] | None) -> float:
    """Exact p of "the run is no worse": McNemar's, or that over sources where it is larger.

    Args:
        difference: baseline − run, by item.
        clusters: the number of each item's source.
    """
    p = tests.mcnemar(lost, won, "greater")
    if clusters is None:
        return p
    import numpy as np

    return max(p, clustered.sign_flip(np.asarray(difference, dtype=np.float64), clusters, "greater"))


def adjust(wholes: Sequence[float], *parts: Sequence[float]) -> list[list[float]]:
    """Holm's adjusted p values of one check: of its whole sets, and of each kind of part.

    The whole sets have half of the error rate, and the kinds of parts that there are share the other half equally.
    """
    present = [group for group in parts if group]
    weights = [(0.5 if present else 1.0) / len(wholes)] * len(wholes)
    weights += [0.5 / len(present) / len(group) for group in present for _ in group]
    values = iter(tests.holm([*wholes, *(p for group in present for p in group)], weights))
    return [[next(values) for _ in group] for group in (wholes, *parts)]


def decide(
    baseline: Sequence[bool],
    run: Sequence[bool],
    margin: float,
    min_n: int = MIN_N,
    clusters: Sequence[int] | None = None,
    adjusted: float | None = None,
) -> Decision:
    """The rule on answers to the same items in the same order.

    Args:
        baseline: right or wrong, by item.
        run: the same of the run.
        margin: a fraction.
        min_n: with fewer items nothing is decided.
        clusters: the number of each item's source.
        adjusted: p as adjusted for all that the check tests; None: nothing else is tested.

    Raises:
        ValueError: no items, or not equally many.
    """
    n = len(baseline)
    if n == 0 or len(run) != n:
        raise ValueError(f"{n} and {len(run)} answers are not pairs")
    lost, won = lost_and_won(baseline, run)
    differences = [a - b for a, b in zip(baseline, run, strict=True)]
    p = one_sided(lost, won, differences, clusters) if adjusted is None else adjusted
    upper = tests.upper_bound(lost, won, n, 1 - ALPHA)
    discordance, d, effective, sources = (lost + won) / n, (lost - won) / n, n, None
    if clusters is not None:  # never less than those of independent items
        import numpy as np

        array = np.asarray(differences, dtype=np.float64)
        upper = clustered.as_good(array, clusters, 0.0, Interval(-1.0, upper), 1.0, 1.0)[0].high
        effective, sources = clustered.effective_items(array, clusters) or 1, len(set(clusters))
    verdict: GateVerdict = "underpowered"
    if n >= min_n and lost - won >= margin * n - 1e-9 and p < ALPHA:
        verdict = "regressed"
    elif n >= min_n and (lost <= won or upper < margin):
        verdict = "holds"
    smallest = tests.detectable_difference(effective, discordance, POWER, 2 * ALPHA) if discordance else None
    shares = (sum(baseline) / n, sum(run) / n)
    decision = Decision(verdict, "", n, *shares, lost, won, d, upper, p, smallest, sources)
    return replace(decision, reason=decision.why(margin, min_n, n / effective))


def operating(n: int, discordance: float, difference: float, margin: float) -> dict[GateVerdict, float]:
    """Probability of every verdict at a true difference baseline − run: exact, the sum over all outcomes on n items.

    All arguments but n are fractions; n is taken to be enough, and no two items to share a source. At difference 0
    "regressed" is the false-positive rate of a gate that evaluates anew; at difference = margin "holds" is the rate at
    which it lets such a loss pass.
    """
    from scipy.stats import binom

    b, c, p = tests.outcomes(n, discordance, difference)
    regressed = (b - c >= margin * n - 1e-9) & (binom.cdf(c, b + c, 0.5) < ALPHA)
    below = tests.score(b, c, n, margin) < -1.6448536269514722  # the bound is under a margin that its test rejects
    holds = ~regressed & ((b <= c) | below)
    shares: dict[GateVerdict, float] = {"holds": float(p[holds].sum()), "regressed": float(p[regressed].sum())}
    shares["underpowered"] = max(0.0, float(p.sum()) - sum(shares.values()))
    return shares


@dataclass(frozen=True)
class Gate:
    """What is asked of every run. `margin` in points."""

    margin: float
    min_n: int = MIN_N
    levels: tuple[str, ...] = ()
    key: str | None = None  # of a stored evaluation
    across: tuple[str, ...] = ()  # fields of the recipe that may differ, or what their names begin with

    def __post_init__(self) -> None:
        check_margin(self.margin, self.min_n)


@dataclass(frozen=True)
class _Pair:
    """A run and what it is compared with."""

    name: str
    mine: BaselineEntry
    base: BaselineEntry
    noise: tuple[Noise, ...]
    notes: tuple[str, ...]
    note: str
    stored: bool
    levels: tuple[str, ...]  # that are asked for; empty: all

    @property
    def clusters(self) -> tuple[int, ...] | None:
        """The number of each item's source."""
        return self.mine.clusters(self.levels)

    @property
    def answers(self) -> tuple[list[bool], list[bool]]:
        """Right and wrong of the baseline and of the run."""
        return self.base.flat(self.levels), self.mine.flat(self.levels)

    def tested(self, kind: Literal["level", "source"]) -> list[TestedPart]:
        """The levels where there are several, or the sources with at least `LEAST` items; p not yet adjusted."""
        levels = self.levels or tuple(self.mine.answers)
        parts: dict[str, list[tuple[bool, bool, str]]] = {}
        for level in levels:
            sources = self.mine.sources.get(level) or ("",) * len(self.mine.answers[level])
            for item in zip(self.base.answers[level], self.mine.answers[level], sources, strict=True):
                name = level if kind == "level" else item[2]
                parts.setdefault(name, []).append(item)
        if kind == "level":
            parts = parts if len(parts) > 1 else {}
        else:
            parts = {name: items for name, items in parts.items() if name and len(items) >= LEAST}
        out = []
        for name, items in parts.items():
            lost, won = lost_and_won([a for a, _, _ in items], [b for _, b, _ in items])
            clusters = source_numbers([s for _, _, s in items]) if kind == "level" else None
            p = one_sided(lost, won, [a - b for a, b, _ in items], clusters)
            out.append(TestedPart(kind, name, len(items), lost, won, (lost - won) / len(items), p, False))
        return out


@phase("comparing with the baseline")
def check_all(
    names: Sequence[str],
    store: Store,
    against: Path,
    gate: Gate,
    repeats: Sequence[str] = (),
    evaluate: Evaluate | None = None,
) -> list[Check]:
    """Every named run against the file; that it cannot be read or compared is a verdict, too.

    Args:
        evaluate: asks the runs now; None: their stored evaluations are compared.
    """
    checks: list[Check | _Pair] = []
    seen: set[Path] = set()
    for name in names:
        try:
            run = store.find(name)
            if (path := run.path.resolve()) in seen:
                raise UsageError(f"run {run.id!r} is given more than once")
            seen.add(path)
            baseline = read_baseline(against)
            checks.append(_pair(run, name, baseline, gate, [store.find(r) for r in repeats], evaluate))
        except UsageError as error:
            checks.append(Check(name, "bad input", str(error)))
        except NotComparable as error:
            checks.append(Check(name, "not comparable", str(error)))
    judged = iter(_judge([c for c in checks if isinstance(c, _Pair)], gate))
    return [next(judged) if isinstance(c, _Pair) else c for c in checks]


def check(
    run: Run, name: str, baseline: Baseline, gate: Gate, repeats: Sequence[Run] = (), evaluate: Evaluate | None = None
) -> Check:
    """One run against the entry that is about the same kind of system, as in `check_all`.

    Raises:
        UsageError: the run or a repeat cannot be read, is a plumbing check, or has marks that its outputs do not
            deserve; `gate` allows a difference in a field that there is not.
        NotComparable: no entry, or several, fit; the stored evaluation is none that was made since.
    """
    return _judge([_pair(run, name, baseline, gate, repeats, evaluate)], gate)[0]


def _judge(pairs: Sequence[_Pair], gate: Gate) -> list[Check]:
    """The verdicts on all pairs of one check, which are one family."""
    if not pairs:
        return []
    margin, parts = gate.margin / 100, {k: [p.tested(k) for p in pairs] for k in ("level", "source")}
    wholes = []
    for pair in pairs:
        base, mine = pair.answers
        difference = [a - b for a, b in zip(base, mine, strict=True)]
        wholes.append(one_sided(*lost_and_won(base, mine), difference, pair.clusters))
    families = [[part.p for of_pair in of_kind for part in of_pair] for of_kind in parts.values()]
    whole_p, *part_p = map(iter, adjust(wholes, *families))
    checks = []
    for k, pair in enumerate(pairs):
        decision = decide(*pair.answers, margin, gate.min_n, pair.clusters, next(whole_p))
        enough, tested = decision.n >= gate.min_n, []
        for of_kind, values in zip(parts.values(), part_p, strict=True):
            for part in of_kind[k]:
                p = next(values)
                red = enough and p < ALPHA and part.difference >= margin - 1e-9
                tested.append(replace(part, p=p, regressed=red))
        tested.sort(key=lambda part: (not part.regressed, part.p, -part.difference))
        verdict, reason = decision.verdict, decision.reason
        if verdict != "regressed" and (red_parts := [part for part in tested if part.regressed]):
            worst = red_parts[0]
            p_text = "p < 0.001" if worst.p < 0.001 else f"p = {worst.p:.3f}"
            verdict, more = "regressed", f", as are {len(red_parts) - 1} more" if len(red_parts) > 1 else ""
            reason = (
                f"{worst} is {100 * worst.difference:.4g} points lower than in the baseline ({p_text}){more}: the "
                f"margin is {gate.margin:g}, and all {decision.n:,} items together would come out as "
                f"{decision.verdict}"
            )
        about = (pair.mine.setting, pair.mine.questions, decision, pair.mine.origin, pair.base.origin, tuple(tested))
        notes = (*pair.notes, *_shared_sources(decision))
        checks.append(Check(pair.name, verdict, reason, *about, notes, pair.noise, pair.note, pair.stored))
    return checks


def _pair(
    run: Run, name: str, baseline: Baseline, gate: Gate, repeats: Sequence[Run], evaluate: Evaluate | None
) -> _Pair:
    """A run and the entry that it is compared with. Raises UsageError and NotComparable as in `check`."""
    if run.spec.quick:
        raise UsageError(f"run {run.id!r} is a plumbing check (--quick), not a result")
    entries, differing = _like(run, baseline, gate.across)
    if evaluate is None:
        key, summary, fitting = _match(run, entries, gate.key)
        if summary.quick:
            raise UsageError(f"run {run.id!r} is a plumbing check (--quick), not a result")
        _check_new(run, key, summary, baseline, fitting)
        mine = rescored(run, key, summary)
    else:
        (version,) = {e.questions.evaluator_version for e in entries}
        if version != EVALUATOR_VERSION:
            raise NotComparable(
                f"the baseline is of evaluator version {version!r}, and the present one is {EVALUATOR_VERSION!r}: "
                "evaluate its runs again with `rim-bench eval`, and write it again"
            )
        fitting = [_closest(run, entries)]
        asked = {"split": fitting[0].questions.split, **vars(fitting[0].asked)}
        summary, items = evaluate(run, fitting[0].questions.task, asked)
        mine = rescored(run, "made now", summary, items)
        if (other := difference(mine.questions, fitting[0].questions)) is not None:
            raise NotComparable(f"run {run.id!r} and the baseline do not fit: {other}")
        if _how(mine.setting) != _how(fitting[0].setting):
            raise NotComparable(f"the run was asked as {mine.setting}, the baseline as {fitting[0].setting}")
    same_items = [e for e in fitting if difference(mine.questions, e.questions) is None]
    if not same_items:
        raise NotComparable(
            f"run {run.id!r} and the baseline do not fit: {difference(mine.questions, fitting[0].questions)}"
        )
    base, levels = _closest(run, same_items), tuple(gate.levels)
    mine.flat(levels)  # refuses levels that there are not
    of_repeats = [n for other in repeats for n in noise_of(mine, other, levels)]
    noise = (*noise_of(mine, run, levels, repeats_only=True), *of_repeats)
    if repeats and not of_repeats:
        raise UsageError(
            f"no repeat holds the weights of run {run.id!r} evaluated on the same items at the same setting"
        )
    notes = [f"{key} {ours}, baseline {theirs}, which --across allows" for key, ours, theirs in differing]
    notes += _differences(mine, base)
    return _Pair(name, mine, base, noise, tuple(notes), baseline.note, evaluate is None, levels)


def _like(
    run: Run, baseline: Baseline, across: Sequence[str]
) -> tuple[list[BaselineEntry], list[tuple[str, Any, Any]]]:
    """The entries of the run's method and recipe, and the differences that are allowed.

    Raises:
        UsageError: a field that is allowed to differ and that no recipe has.
        NotComparable: none is of the same recipe.
    """
    recipe = recipe_of(run.spec)
    keys = {*recipe, *(key for e in baseline.entries for key in e.recipe)} - {"method.name"}
    names = {".".join(key.split(".")[:k]) for key in keys for k in range(1, key.count(".") + 2)}
    for name in across:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            raise UsageError(
                f"--across {name!r} is no field of these recipes: allowed are "
                f"{', '.join(sorted(n for n in names if '.' not in n))}, and what stands under them, as backbone.layers"
                f"{f'; did you mean {near[0]!r}?' if near else ''}"
            )
    of_method = [e for e in baseline.entries if e.method == run.spec.method.name]
    if not of_method:
        labels = ", ".join(dict.fromkeys(e.setting.label for e in baseline.entries))
        raise NotComparable(
            f"run {run.id!r} and the baseline do not fit: the baseline holds {labels}, not {run.spec.method.title}"
        )

    def differing(entry: BaselineEntry, *, allowed: bool) -> list[tuple[str, Any, Any]]:
        out = []
        for key in sorted({*recipe, *entry.recipe}):
            ours, theirs = recipe.get(key, "nothing"), entry.recipe.get(key, "nothing")
            if ours != theirs and any(f"{key}.".startswith(f"{name}.") for name in across) == allowed:
                out.append((key, ours, theirs))
        return out

    fewest = min(len(differing(e, allowed=False)) for e in of_method)
    nearest = [e for e in of_method if len(differing(e, allowed=False)) == fewest]
    if fewest:
        first = differing(nearest[0], allowed=False)
        said = "; ".join(f"{key} is {ours}, in the baseline {theirs}" for key, ours, theirs in first[:4])
        more = f"; and {fewest - 4} more" if fewest > 4 else ""
        raise NotComparable(
            f"run {run.id!r} and the baseline do not fit: {said}{more} (--across {first[0][0]} allows the first)"
        )
    least = min(len(differing(e, allowed=True)) for e in nearest)
    nearest = [e for e in nearest if len(differing(e, allowed=True)) == least]
    return nearest, differing(nearest[0], allowed=True)


def _check_new(
    run: Run, key: str, summary: EvaluationRecord, baseline: Baseline, fitting: Iterable[BaselineEntry]
) -> None:
    """Raises NotComparable for a stored evaluation that shows nothing of the present code."""
    where, advice = f"evaluation {key!r} of run {run.id!r}", "leave out --stored, and the run is evaluated now"
    mine = (run.id, summary.date, summary.stored_items and summary.stored_items.sha256)
    if any(mine == tuple(map(e.origin.get, ("run", "evaluated", "items_sha256"))) for e in fitting):
        raise NotComparable(f"the baseline was written from {where} itself, so that no change can show: {advice}")
    if str(summary.evaluator_version) != EVALUATOR_VERSION:
        raise NotComparable(
            f"{where} is of evaluator version {str(summary.evaluator_version)!r}, and the present one is "
            f"{EVALUATOR_VERSION!r}: {advice}"
        )
    if summary.date is None or summary.date <= baseline.date:
        made = "at a time that it does not say" if summary.date is None else f"at {summary.date}"
        raise NotComparable(f"{where} was made {made}, and the baseline was written at {baseline.date}: {advice}")


def _match(
    run: Run, entries: Sequence[BaselineEntry], key: str | None
) -> tuple[str, EvaluationRecord, list[BaselineEntry]]:
    """The evaluation of the run that some entry is about, and those entries. Ids are not compared yet."""
    stored = run.evaluations()
    if not stored:
        raise UsageError(f"run {run.id!r} is not evaluated: `rim-bench eval` does it")
    if key is not None and key not in stored:
        raise UsageError(f"run {run.id!r} has no evaluation {key!r}: it has {', '.join(stored)}")
    if key is not None and stored[key].repeat:
        raise UsageError(
            f"evaluation {key!r} of run {run.id!r} is a repeat, which gives the noise floor and is not gated: leave "
            "out --key"
        )
    fits: dict[str, list[BaselineEntry]] = {}
    misfits: list[tuple[int, str]] = []
    for name, summary in stored.items():
        if key not in (None, name) or summary.repeat:
            continue
        questions, setting = questions_of(summary), setting_of(run.spec, summary)
        for entry in entries:
            if (other := difference(questions, entry.questions)) is not None:
                misfits.append((2 if questions.task == entry.questions.task else 1, other))
            elif _how(setting) != _how(entry.setting):
                misfits.append((3, f"the run is {setting}, the baseline {entry.setting}"))
            else:
                fits.setdefault(name, []).append(entry)
    if not fits:
        raise NotComparable(f"run {run.id!r} and the baseline do not fit: {max(misfits, key=lambda m: m[0])[1]}")
    names = list(fits)
    if len(names) > 1:  # such as on another kind of device
        names = [n for n in names if _runtime(stored[n].generation.to_json()) in [_runtime(e.origin) for e in fits[n]]]
    if len(names) != 1:
        raise UsageError(
            f"run {run.id!r} has several evaluations that fit the baseline: choose one with --key, {', '.join(fits)}"
        )
    return names[0], stored[names[0]], fits[names[0]]


def _runtime(record: Mapping[str, Any]) -> tuple[str, str]:
    return str(record.get("device")), str(record.get("dtype"))


def _how(setting: SystemSetting) -> SystemSetting:
    """What was asked, without the kind of system, which recipes compare."""
    return setting._replace(label="", start="")


def _closest(run: Run, entries: Sequence[BaselineEntry]) -> BaselineEntry:
    """The entry of the same run, else of the same seed, else the only one."""
    for name, value in (("run", run.id), ("seed", run.spec.seed)):
        same = [e for e in entries if e.origin.get(name) == value]
        if len(same) == 1:
            return same[0]
    if len(entries) > 1:
        seeds = ", ".join(str(e.origin.get("seed")) for e in entries)
        raise NotComparable(
            f"the baseline holds {entries[0].setting} with seeds {seeds}, and the run has seed {run.spec.seed}"
        )
    return entries[0]


def _differences(mine: BaselineEntry, base: BaselineEntry) -> Iterator[str]:
    """What else differs, which is no reason not to compare."""
    words = {
        "weights_sha256": "other weights than the baseline's: the margin must come from retrainings "
        "(`rim-bench margin`)"
    }
    for name in (*words, "numerics", "seed", "dtype", "device", "batch_size", "order"):
        own, stored = mine.origin.get(name), base.origin.get(name)
        if own != stored:
            yield words.get(name) or f"{name.replace('_', ' ')} {own}, baseline {stored}"


def _shared_sources(decision: Decision) -> Iterator[str]:
    """What is done where items share sources."""
    if decision.sources is not None:
        few = f", and with fewer than {clustered.FEW} sources still too small"
        yield (
            f"{decision.n:,} items share {decision.sources:,} sources: p and bound are the larger ones of items and of "
            f"sources{few if decision.sources < clustered.FEW else ''}"
        )


def noise_of(mine: BaselineEntry, other: Run, levels: Sequence[str] = (), *, repeats_only: bool = False) -> list[Noise]:
    """What changes without a change: the evaluations in `other` of the weights, setting and items of `mine`."""
    out = []
    for key, summary in other.evaluations().items():
        same_setting = setting_of(other.spec, summary) == mine.setting
        weights = summary.weights_sha256
        if (repeats_only and not summary.repeat) or weights is None:
            continue
        if not same_setting or weights != mine.origin.get("weights_sha256"):
            continue
        if difference(questions_of(summary), mine.questions) is not None:
            continue
        repeat = measured(other, key, summary)
        if difference(repeat.questions, mine.questions) is not None:
            continue
        first, second = mine.flat(levels), repeat.flat(levels)
        known = [k for k in ("device", "dtype", "batch_size", "order") if k in repeat.origin]
        how = ", ".join(f"{k.replace('_', ' ')} {repeat.origin[k]}" for k in known)
        lost, won = lost_and_won(first, second)
        out.append(Noise(other.id, how, lost + won, len(first), (lost - won) / len(first)))
    return out
