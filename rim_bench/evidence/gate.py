"""The accuracy gate: has a run become worse than its stored baseline by a margin or more?

One-sided and paired. With d = baseline − run over the same items:
    regressed     d ≥ margin, and the exact one-sided McNemar p < 0.05;
    holds         d ≤ 0, or the one-sided 95 % upper bound of d < margin;
    underpowered  neither, or fewer items than the minimum.
The bound is Tango's score bound (`tests.upper_bound`): its test has its size where gates are used, with few
discordant items, too. Wald's bound has no width there, and a bootstrap is no better and moves with its seed.

`operating` gives the exact probability of every verdict. Evaluating anew without a change comes out as regressed in
less than 5 %, far less where the margin is wide for n. A true loss of exactly the margin comes out as regressed in
about half of the cases, for d ≥ margin asks for that, and as holding in about 5 % (at most 5.5 % where the bound
decides; more where n is so small that d ≤ 0 happens by chance, which the reason then says). A gate that retrains has
another null: see `Check.same_weights`.

Where items share sources (templates, seed questions), p is the larger of McNemar's and the exact sign-flip test over
sources, and the bound the larger of Tango's and t's over sources: nothing is concluded that independent items alone
would allow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rim_bench.evidence.baseline import (
    BaselineEntry,
    Questions,
    SystemSetting,
    difference,
    measured,
    questions_of,
    read_baseline,
    setting_of,
)
from rim_bench.evidence.stats import clustered, tests
from rim_bench.evidence.stats.intervals import Interval
from rim_bench.storage.records import EvaluationRecord
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record
from rim_bench.util.progress import phase

GateVerdict = Literal["holds", "regressed", "bad input", "not comparable", "underpowered"]
CODES: Mapping[GateVerdict, int] = {"holds": 0, "regressed": 1, "bad input": 2, "not comparable": 3, "underpowered": 4}
WORST_FIRST: tuple[GateVerdict, ...] = ("bad input", "not comparable", "regressed", "underpowered", "holds")
ALPHA = 0.05
POWER = 0.8
MIN_N = 500


class NotComparable(Exception):
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
    p: float  # exact one-sided McNemar
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
        discordance = max((self.lost + self.won) / n, margin)
        needed = math.ceil(effect * tests.items_needed(discordance, margin, POWER, 2 * ALPHA))
        more = f"at this discordance a margin of {limit} needs about {needed:,} items for 80 % power"
        if d >= margin - 1e-12:
            return f"{size} points lower, which is the margin of {limit} or more, but {p}: {more}"
        left = f"a loss of up to {most} is not excluded (95 %), where the margin is {limit}"
        return f"{size} points lower, and {left}: {more}"


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
    notes: tuple[str, ...] = ()
    noise: tuple[Noise, ...] = ()

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

    @property
    def same_evaluation(self) -> bool:
        """Whether the baseline was written from this very evaluation, so that nothing was measured anew."""
        items = self.run.get("items_sha256")
        return items is not None and items == self.baseline.get("items_sha256")


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


def decide(
    baseline: Sequence[bool],
    run: Sequence[bool],
    margin: float,
    min_n: int = MIN_N,
    clusters: Sequence[int] | None = None,
) -> Decision:
    """The rule on answers to the same items in the same order.

    Args:
        baseline: right or wrong, by item.
        run: the same of the run.
        margin: a fraction.
        min_n: with fewer items nothing is decided.
        clusters: the number of each item's source.

    Raises:
        ValueError: no items, or not equally many.
    """
    n = len(baseline)
    if n == 0 or len(run) != n:
        raise ValueError(f"{n} and {len(run)} answers are not pairs")
    lost, won = lost_and_won(baseline, run)
    p, upper = tests.mcnemar(lost, won, "greater"), tests.upper_bound(lost, won, n, 1 - ALPHA)
    discordance, d, effective, sources = (lost + won) / n, (lost - won) / n, n, None
    if clusters is not None:  # never less than those of independent items
        import numpy as np

        difference = np.asarray(baseline, dtype=np.float64) - np.asarray(run, dtype=np.float64)
        p = max(p, clustered.sign_flip(difference, clusters, "greater"))
        upper = clustered.as_good(difference, clusters, 0.0, Interval(-1.0, upper), 1.0, 1.0)[0].high
        effective, sources = clustered.effective_items(difference, clusters) or 1, len(set(clusters))
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
    key: str | None = None

    def __post_init__(self) -> None:
        check_margin(self.margin, self.min_n)


@phase("comparing with the baseline")
def check_all(
    names: Sequence[str], store: Store, against: Path, gate: Gate, repeats: Sequence[str] = ()
) -> list[Check]:
    """Every named run against the file; that it cannot be read or compared is a verdict, too."""
    checks: list[Check] = []
    seen: set[Path] = set()
    for name in names:
        try:
            run = store.find(name)
            if (path := run.path.resolve()) in seen:
                raise UsageError(f"run {run.id!r} is given more than once")
            seen.add(path)
            entries = read_baseline(against)
            checks.append(check(run, name, entries, gate, [store.find(r) for r in repeats]))
        except UsageError as error:
            checks.append(Check(name, "bad input", str(error)))
        except NotComparable as error:
            checks.append(Check(name, "not comparable", str(error)))
    return checks


def check(run: Run, name: str, entries: Sequence[BaselineEntry], gate: Gate, repeats: Sequence[Run] = ()) -> Check:
    """One run against the entry that is about the same kind of system.

    Raises:
        UsageError: the run or a repeat cannot be read, or is a plumbing check.
        NotComparable: no entry, or several, fit.
    """
    key, summary, fitting = _match(run, entries, gate.key)
    if summary.quick or run.spec.quick:
        raise UsageError(f"run {run.id!r} is a plumbing check (--quick), not a result")
    mine = measured(run, key, summary)
    same_items = [e for e in fitting if difference(mine.questions, e.questions) is None]
    if not same_items:
        raise NotComparable(
            f"run {run.id!r} and the baseline do not fit: {difference(mine.questions, fitting[0].questions)}"
        )
    base = _closest(mine, same_items)
    levels = tuple(gate.levels)
    decision = decide(base.flat(levels), mine.flat(levels), gate.margin / 100, gate.min_n, mine.clusters(levels))
    of_repeats = [n for other in repeats for n in noise_of(mine, other, levels)]
    noise = (*noise_of(mine, run, levels, repeats_only=True), *of_repeats)
    if repeats and not of_repeats:
        raise UsageError(
            f"no repeat holds the weights of run {run.id!r} evaluated on the same items at the same setting"
        )
    about = (mine.setting, mine.questions, decision, mine.origin, base.origin)
    return Check(name, decision.verdict, decision.reason, *about, tuple(_differences(mine, base, decision)), noise)


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
            if setting.label != entry.setting.label:
                labels = ", ".join(dict.fromkeys(e.setting.label for e in entries))
                misfits.append((0, f"the baseline holds {labels}, not {setting.label}"))
            elif (other := difference(questions, entry.questions)) is not None:
                misfits.append((2 if questions.task == entry.questions.task else 1, other))
            elif setting != entry.setting:
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


def _closest(mine: BaselineEntry, entries: Sequence[BaselineEntry]) -> BaselineEntry:
    """The entry of the same run, else of the same seed, else the only one."""
    for name in ("run", "seed"):
        same = [e for e in entries if e.origin.get(name) == mine.origin.get(name)]
        if len(same) == 1:
            return same[0]
    if len(entries) > 1:
        seeds = ", ".join(str(e.origin.get("seed")) for e in entries)
        raise NotComparable(
            f"the baseline holds {mine.setting} with seeds {seeds}, and the run has seed {mine.origin.get('seed')}"
        )
    return entries[0]


def _differences(mine: BaselineEntry, base: BaselineEntry, decision: Decision) -> Iterator[str]:
    """What else differs, which is no reason not to compare, and what is done where items share sources."""
    words = {
        "weights_sha256": "other weights than the baseline's: the margin must come from retrainings "
        "(`rim-bench margin`)",
        "recipe_sha256": "the recipe (specification without seed) is not the baseline's",
    }
    for name in (*words, "seed", "dtype", "device", "batch_size", "order"):
        own, stored = mine.origin.get(name), base.origin.get(name)
        if own != stored:
            yield words.get(name) or f"{name.replace('_', ' ')} {own}, baseline {stored}"
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
