"""What interventions on runs show: effects with their intervals, what the segments carry, and whether they are used.

Runs that differ in their training seed alone are one family: their seeds are paired with themselves, with and without
an intervention. With one seed everything is about these weights only. Fractions in [0, 1], log-probabilities in nats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, TypeAlias

from rim_bench.evidence.stats import crossed, tests
from rim_bench.evidence.stats.clustered import sign_flip, source_numbers
from rim_bench.evidence.stats.intervals import Interval, Resampler, clustered
from rim_bench.methods.controls import USED
from rim_bench.storage.interventions import (
    ALL,
    CLEAN,
    DONOR,
    EVERYTHING,
    KEYS_AND_VALUES,
    MEAN,
    OWN,
    PERMUTATION,
    QUESTION,
    RESIDUAL,
    AskedQuestionsRecord,
    InterventionItem,
    InterventionRecord,
)
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError
from rim_bench.util.files import canonical

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DELTA, DELTA_CHANGED = 0.02, 0.10
LEVEL = 0.05  # of every test
WHOLE_DONOR = 0.99  # of the answers must be the donor's where everything is
REORDERED = 0.01  # of the answers may change by rounding where keys and values are only reordered
Word = Literal["used", "not used", "undecided"]
Part: TypeAlias = "tuple[NDArray[np.float64], tuple[int, ...] | None]"
"""[seeds, questions] of a measure, and the source of each question where they share one."""


@dataclass(frozen=True)
class StoredSuite:
    """The stored interventions of one run."""

    run: Run
    key: str
    summary: InterventionRecord
    items: Mapping[str, InterventionItem]

    @property
    def asked(self) -> AskedQuestionsRecord:
        """Its questions."""
        asked = self.items[CLEAN].asked if CLEAN in self.items else None
        if asked is None:
            raise UsageError(f"the interventions {self.key!r} of run {self.run.id} are damaged: they name no questions")
        return asked

    def item(self, operation: str, site: str = KEYS_AND_VALUES, segments: str = ALL) -> InterventionItem | None:
        """One at all layers; None where it was not made."""
        every = self.items.values()
        wanted = (operation, site, None, segments)
        return next((i for i in every if (i.operation, i.site, i.layer, i.segments) == wanted), None)


def read_suite(run: Run, key: str) -> StoredSuite:
    """The stored interventions of a run. Raises UsageError where there are none under this key, or damaged ones."""
    summary = run.interventions.read(key)
    if summary is None:
        raise UsageError(f"run {run.id} has no interventions {key!r}: `rim-bench intervene` makes them")
    return StoredSuite(run, key, summary, {item.id: item for item in run.interventions.items(key)})


def check_controls(suite: StoredSuite) -> None:
    """Refuses to say anything of a run where what must come out does not.

    Raises:
        UsageError: own activations put back change something, other than everything from the donor gives the donor's
            answer, or the order of keys and values matters.
    """
    name, clean = f"run {suite.run.id}", suite.items[CLEAN]
    n = len(suite.asked.ids)
    for site, segments in ((KEYS_AND_VALUES, EVERYTHING), (RESIDUAL, ALL)):
        own = suite.item(OWN, site, segments)
        if own is None:
            raise UsageError(f"{name}: no control puts its own activations back ({site}), so that there is no verdict")
        changed = sum(a != b for a, b in zip(own.logprob, clean.logprob, strict=True))
        if changed or "1" in own.changed:
            raise UsageError(
                f"{name}: its own activations put back ({site}) change {own.changed.count('1')} of {n} answers and "
                f"{changed} log-probabilities, where they must change none: these interventions are broken, so that "
                "there is no verdict"
            )
    whole = suite.item(DONOR, segments=EVERYTHING)
    if whole is None or not whole.to_donor:
        raise UsageError(
            f"{name}: none of its {n} questions has a donor (another question of the same length with another answer), "
            "so that there is no verdict: give more questions"
        )
    if (share := whole.to_donor.count("1") / len(whole.to_donor)) < WHOLE_DONOR:
        raise UsageError(
            f"{name}: with everything from the donor {100 * share:.1f} % of the answers are the donor's, where "
            f"{100 * WHOLE_DONOR:g} % must be: these interventions are broken, so that there is no verdict"
        )
    order = suite.item(PERMUTATION)
    if order is not None and order.changed.count("1") > REORDERED * len(order.changed):
        raise UsageError(
            f"{name}: keys and values in another order change {order.changed.count('1')} of {len(order.changed)} "
            "answers, where their order means nothing: these interventions are broken, so that there is no verdict"
        )


@dataclass(frozen=True)
class EffectSize:
    """A mean with its 95 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Effect:
    """What one intervention does. Losses and falls are clean minus intervened.

    Attributes:
        n: questions that took part, of every seed.
        clean, accuracy: mean accuracies of these, without and with it.
        to_donor: share of answers that are the donor's; None where there is none.
        logprob: fall of the log-probability of the model's own answer.
        lead: fall of its lead over the donor's answer; None where no question has one.
        p: of no loss of accuracy, two-sided; `p_holm` is Holm's, over the suite without its controls.
    """

    item: InterventionItem
    n: int
    clean: float
    accuracy: float
    loss: EffectSize
    changed: EffectSize
    to_donor: float | None
    logprob: EffectSize
    lead: EffectSize | None
    p: float
    p_holm: float | None


@dataclass(frozen=True)
class Mediation:
    """How much of the effect of another question goes through the segments.

    Attributes:
        outcome: `accuracy`, or `lead` of the model's own answer over the donor's.
        total: the donor's question and segments.
        through: the own question, the donor's segments.
        direct: the donor's question, the own segments.
        share: through / total; None where the total is not above 0.
    """

    outcome: str
    n: int
    total: EffectSize
    through: EffectSize
    direct: EffectSize
    share: EffectSize | None


@dataclass(frozen=True)
class Cell:
    """The donor's activations at one layer of one segment, with bounds that hold for all cells of a map together."""

    site: str
    layer: int
    segment: str
    loss: EffectSize
    lead: EffectSize


@dataclass(frozen=True)
class RoleVerdict:
    """Whether answers go through the segments.

    Attributes:
        delta, delta_changed: what counts as nothing: of accuracy, and of changed answers.
        p_not_used: p of "the loss is delta or more, either way" and of "so many answers change or more", with the
            donor's and with mean activations: all must be small.
        p_used: p of "the loss with the donor's is delta or less".
    """

    word: Word
    seeds: int
    n: int
    delta: float
    delta_changed: float
    p_not_used: Mapping[str, float]
    p_used: float

    @property
    def these_weights_only(self) -> bool:
        """Whether there is one seed: then nothing is said of the method."""
        return self.seeds == 1


@dataclass(frozen=True)
class Family:
    """Suites of one method that differ in the training seed alone, on the same questions.

    Attributes:
        level_set: `in distribution` or `out of distribution`; "" where the task has one set.
    """

    suites: tuple[StoredSuite, ...]
    level_set: str
    numbers: tuple[tuple[int, ...], ...]  # of each suite the numbers of the shared questions
    delta: float
    delta_changed: float

    @property
    def label(self) -> str:
        """The method and its settings."""
        return self.suites[0].run.spec.method.title

    @property
    def n(self) -> int:
        """Questions."""
        return len(self.numbers[0])

    @cached_property
    def accuracy(self) -> float:
        """Of the model as it is, mean over seeds."""
        rows = [
            [s.items[CLEAN].correct[k] == "1" for k in own] for s, own in zip(self.suites, self.numbers, strict=True)
        ]
        return sum(map(sum, rows)) / (len(rows) * self.n)

    def clusters(self, chosen: Sequence[int]) -> tuple[int, ...] | None:
        """The source of each of some of the shared questions."""
        suite, own = self.suites[0], self.numbers[0]
        return source_numbers([suite.asked.sources[own[q]] for q in chosen])

    def values(self, name: str) -> Values | None:
        """What an intervention does to the questions that take part in every seed; None where there is none."""
        import numpy as np

        rows = []
        for suite, own in zip(self.suites, self.numbers, strict=True):
            if (item := suite.items.get(name)) is None:
                return None
            asked = range(len(suite.asked.ids)) if item.questions is None else item.questions
            at = {number: k for k, number in enumerate(asked)}
            rows.append((item, suite.items[CLEAN], {q: (at[k], k) for q, k in enumerate(own) if k in at}))
        shared = sorted(set.intersection(*(set(places) for *_, places in rows)))
        if not shared:
            return None
        measured: dict[str, list[list[float]]] = {
            k: [] for k in ("loss", "clean", "changed", "logprob", "lead", "donor")
        }
        for item, clean, places in rows:
            pairs = [places[q] for q in shared]
            measured["clean"].append([float(clean.correct[k]) for _, k in pairs])
            measured["loss"].append([float(clean.correct[k]) - float(item.correct[i]) for i, k in pairs])
            measured["changed"].append([float(item.changed[i]) for i, _ in pairs])
            measured["logprob"].append([clean.logprob[k] - item.logprob[i] for i, k in pairs])
            leads = [(clean.lead[k], item.lead[i]) for i, k in pairs]
            measured["lead"].append([math.nan if None in (a, b) else float(a or 0) - float(b or 0) for a, b in leads])
            if item.to_donor is not None:
                measured["donor"].append([float(item.to_donor[i]) for i, _ in pairs])
        arrays = {key: np.array(part, dtype=np.float64) for key, part in measured.items() if part}
        return Values(rows[0][0], tuple(shared), self.clusters(shared), arrays)

    @cached_property
    def effects(self) -> list[Effect]:
        """Every intervention, in the order of the suite."""
        every = [v for name in self.suites[0].items if name != CLEAN and (v := self.values(name)) is not None]
        p = [v.p for v in every]
        counted = [not is_control(v.item) for v in every]
        adjusted = iter(tests.holm([value for value, counts in zip(p, counted, strict=True) if counts]))
        measured = iter(estimates([v.part(key) for v in every for key in ("loss", "changed", "logprob", "lead")]))
        out = []
        for values, value, counts in zip(every, p, counted, strict=True):
            loss, changed, logprob, lead = (next(measured) for _ in range(4))
            assert loss is not None and changed is not None and logprob is not None
            clean, donor = float(values.arrays["clean"].mean()), values.arrays.get("donor")
            to_donor = None if donor is None else float(donor.mean())
            p_holm = next(adjusted) if counts else None
            n, accuracy = len(values.shared), clean - loss.value
            out.append(Effect(values.item, n, clean, accuracy, loss, changed, to_donor, logprob, lead, value, p_holm))
        return out

    def whole(self, operation: str) -> Effect:
        """That of an operation on keys and values of all segments at all layers."""
        name = self._named(operation).item.id
        return next(effect for effect in self.effects if effect.item.id == name)

    @cached_property
    def verdict(self) -> RoleVerdict:
        """Whether the segments are used."""
        donor, mean = (self._named(operation) for operation in (DONOR, MEAN))
        p_not: dict[str, float] = {}
        for name, values in ((DONOR, donor), (MEAN, mean)):
            loss, changed = values.arrays["loss"], values.arrays["changed"]
            p_not[f"{name}: accuracy"] = max(
                p_below(loss, self.delta, values.clusters), p_below(-loss, self.delta, values.clusters)
            )
            p_not[f"{name}: changed answers"] = p_below(changed, self.delta_changed, values.clusters)
        p_used = p_below(-donor.arrays["loss"], -self.delta, donor.clusters)
        word: Word = "undecided"
        if max(p_not.values()) < LEVEL:
            word = "not used"
        elif p_used < LEVEL:
            word = "used"
        return RoleVerdict(word, len(self.suites), len(donor.shared), self.delta, self.delta_changed, p_not, p_used)

    @cached_property
    def mediations(self) -> list[Mediation]:
        """Total effect, effect through the segments, and direct effect, on two outcomes."""
        parts = [self._named(DONOR, segments) for segments in (EVERYTHING, ALL, QUESTION)]
        return [_mediation(name, key, parts) for name, key in (("accuracy", "loss"), ("lead", "lead"))]

    @cached_property
    def cells(self) -> list[Cell]:
        """The heat maps: the donor's activations at one layer of one segment; empty where none were exchanged."""
        return [cell for site in (KEYS_AND_VALUES, RESIDUAL) for cell in self._map(site)]

    def _named(self, operation: str, segments: str = ALL) -> Values:
        item = self.suites[0].item(operation, segments=segments)
        values = None if item is None else self.values(item.id)
        if values is None:
            raise UsageError(
                f"{self.label}: no question takes part in {operation!r} ({segments}) in all {len(self.suites)} runs, "
                "so that there is no verdict: give more questions"
            )
        return values

    def _map(self, site: str) -> list[Cell]:
        own = self.suites[0].summary.segments
        items = [
            item
            for item in self.suites[0].items.values()
            if (item.operation, item.site) == (DONOR, site) and item.layer is not None and item.segments in own
        ]
        known = [(item, values) for item in items if (values := self.values(item.id)) is not None]
        known = [(item, values) for item, values in known if "lead" in values.arrays]
        if not known:
            return []
        bounds = {
            key: simultaneous([(v.shared, v.arrays[key]) for _, v in known], self.n, self.clusters(range(self.n)))
            for key in ("loss", "lead")
        }
        return [
            Cell(site, item.layer or 0, item.segments, loss, lead)
            for (item, _), loss, lead in zip(known, bounds["loss"], bounds["lead"], strict=True)
        ]


@dataclass(frozen=True)
class Values:
    """What an intervention does, [seeds, questions] each, of the questions that take part in every seed."""

    item: InterventionItem
    shared: tuple[int, ...]
    clusters: tuple[int, ...] | None
    arrays: Mapping[str, NDArray[np.float64]]

    @property
    def p(self) -> float:
        """Two-sided p of no loss of accuracy: McNemar's or the sign flip's of one seed, t's over several."""
        loss = self.arrays["loss"]
        if len(loss) > 1:
            return crossed.paired(loss, self.clusters).p
        if self.clusters is not None:
            return sign_flip(loss[0], self.clusters)
        return tests.mcnemar(int((loss > 0).sum()), int((loss < 0).sum()))

    def part(self, key: str) -> Part | None:
        """A measure of the questions that have it; None where none does."""
        import numpy as np

        values, clusters = self.arrays[key], self.clusters
        kept = np.asarray(~np.isnan(values).any(0))
        if not kept.any():
            return None
        if not kept.all():
            values = values[:, kept]
            if clusters is not None:
                clusters = _renumbered([c for c, k in zip(clusters, kept.tolist(), strict=True) if k])
        return values, clusters


def is_control(item: InterventionItem) -> bool:
    """Whether it is to come out as it does: own activations, another order of keys, everything from the donor."""
    reordered = item.operation == PERMUTATION and item.site == KEYS_AND_VALUES
    return item.operation == OWN or reordered or item.segments == EVERYTHING


def _renumbered(clusters: Sequence[int]) -> tuple[int, ...]:
    numbers = {c: k for k, c in enumerate(dict.fromkeys(clusters))}
    return tuple(numbers[c] for c in clusters)


def estimates(parts: Sequence[Part | None]) -> list[EffectSize | None]:
    """The mean of each: over several seeds with t's interval (seeds and questions crossed), of one seed with the
    percentile bootstrap over questions (over sources where questions share them).
    """
    import numpy as np

    out: list[EffectSize | None] = [None] * len(parts)
    together: dict[tuple[int, tuple[int, ...] | None], list[int]] = {}  # one draw of the questions for all of a kind
    for k, part in enumerate(parts):
        if part is not None and len(part[0]) > 1:
            center, half = float(part[0].mean()), crossed.paired(*part).bound()
            out[k] = EffectSize(center, Interval(center - half, center + half))
        elif part is not None:
            together.setdefault((part[0].shape[1], part[1]), []).append(k)
    for (n, clusters), members in together.items():
        rows = np.array([part[0][0] for k in members if (part := parts[k]) is not None])
        for k, row, draws in zip(members, rows, Resampler.of(n, clusters).each(rows), strict=True):
            out[k] = EffectSize(float(row.mean()), Resampler.interval(draws))
    return out


def p_below(values: NDArray[np.float64], margin: float, clusters: tuple[int, ...] | None) -> float:
    """One-sided p of "the mean is `margin` or more" of [seeds, questions] with values in [-1, 1].

    The largest of three: Tango's score test over questions, t over clusters where questions share sources, and t over
    seeds (crossed with questions) where there are several: agreement of a few seeds by chance is no evidence.
    """
    mean, n = values.mean(0), values.shape[1]
    gained, lost = float(mean.clip(min=0).sum()), float((-mean).clip(min=0).sum())
    out = [NormalDist().cdf(float(tests.score(gained, lost, n, margin)))]
    if clusters is not None:
        if len(set(clusters)) < 2:
            return 1.0
        from scipy.stats import t as student

        by_source = clustered(mean.tolist(), clusters)
        if by_source.se > 0:
            out.append(float(student.cdf((by_source.mean - margin) / by_source.se, by_source.clusters - 1)))
    if len(values) > 1:
        out.append(crossed.paired(-values, clusters).p_worse(margin))
    return max(out)


def simultaneous(
    parts: Sequence[tuple[Sequence[int], NDArray[np.float64]]], n: int, clusters: tuple[int, ...] | None
) -> list[EffectSize]:
    """Means with 95 % bounds that hold for all of them together: the bootstrap of the largest studentized deviation.

    max-T (Westfall and Young 1993, Resampling-Based Multiple Testing): questions (sources, and seeds where there are
    several) are drawn once for all, m ± c·se with c the 95 % quantile of max |m* − m| / se.

    Args:
        parts: of each mean the questions that take part, and [seeds, these questions].
        n: questions in all.
    """
    import numpy as np

    resampler = Resampler.of(n, clusters)
    means, draws = [], []
    for shared, values in parts:
        whole, there = np.zeros((len(values), n)), np.zeros((len(values), n))
        known = ~np.isnan(values)
        whole[:, list(shared)], there[:, list(shared)] = np.where(known, values, 0.0), known
        means.append(whole.sum() / max(1.0, there.sum()))
        draws.append(resampler.means(whole, "") / np.maximum(resampler.means(there, ""), 1e-12))
    centers, spread = np.array(means), np.array(draws)
    errors = spread.std(1, ddof=1)
    deviations = np.abs(spread - centers[:, None])[errors > 1e-12] / errors[errors > 1e-12, None]
    reach = float(np.quantile(deviations.max(0), 0.95)) if len(deviations) else 0.0
    return [
        EffectSize(float(m), Interval(float(m - reach * e), float(m + reach * e)))
        for m, e in zip(centers, errors, strict=True)
    ]


def _mediation(outcome: str, key: str, parts: Sequence[Values]) -> Mediation:
    """On the questions that all three have."""
    import numpy as np

    shared = sorted(set.intersection(*(set(p.shared) for p in parts)))
    rows = []
    for part in parts:
        at = {q: k for k, q in enumerate(part.shared)}
        rows.append(part.arrays[key][:, [at[q] for q in shared]])
    kept = np.asarray(~np.isnan(np.concatenate(rows)).any(0))
    total, through, direct = (row[:, kept] for row in rows)
    at = {q: k for k, q in enumerate(parts[0].shared)}
    own = parts[0].clusters
    chosen = [q for q, k in zip(shared, kept.tolist(), strict=True) if k]
    clusters = None if own is None else _renumbered([own[at[q]] for q in chosen])
    resampler = Resampler.of(total.shape[1], clusters)
    share = None
    if (whole := float(total.mean())) > 0:
        draws = [resampler.means(values, "") for values in (through, total)]
        usable = draws[1] > 0
        ratio = draws[0][usable] / draws[1][usable]
        share = EffectSize(float(through.mean()) / whole, Resampler.interval(ratio))
    whole_effect, mediated, rest = estimates([(values, clusters) for values in (total, through, direct)])
    assert whole_effect is not None and mediated is not None and rest is not None
    return Mediation(outcome, total.shape[1], whole_effect, mediated, rest, share)


def families(suites: Sequence[StoredSuite], delta: float = DELTA, delta_changed: float = DELTA_CHANGED) -> list[Family]:
    """The suites by method, each whose controls hold, first on what the task trains on and then on the rest.

    Args:
        delta: of accuracy, a fraction; `delta_changed`: share of changed answers.

    Raises:
        UsageError: a margin outside (0, 1), a control that does not hold, or methods that are known to answer through
            their segments, none of which comes out "used".
    """
    for name, margin in (("--delta", delta), ("--delta-changed", delta_changed)):
        if not 0 < margin < 1:
            raise UsageError(f"{name} {100 * margin:g} must lie between 0 and 100: it is in points")
    for suite in suites:
        check_controls(suite)
    groups: dict[str, list[StoredSuite]] = {}
    for suite in suites:
        same = (suite.summary.task, suite.summary.data_sha256, suite.summary.suite, suite.summary.effort)
        groups.setdefault(canonical([suite.run.spec.recipe, same]), []).append(suite)
    out = []
    for group in groups.values():
        for level_set in ("in distribution", "out of distribution", ""):
            numbers = _shared(group, level_set)
            if numbers[0]:
                out.append(Family(tuple(group), level_set, numbers, delta, delta_changed))
    known = [f for f in out if is_positive_control(f)]
    if known and all(family.verdict.word != "used" for family in known):
        words = "; ".join(f"{f.label} comes out {f.verdict.word!r}, but {USED[_method(f)]}" for f in known)
        raise UsageError(f"no positive control holds ({words}), so that there is no verdict")
    return out


def is_positive_control(family: Family) -> bool:
    """Whether its method is known to answer through its segments, on questions as it was trained on."""
    quick = any(suite.summary.quick for suite in family.suites)  # it has learned nothing
    return _method(family) in USED and not quick and family.level_set != "out of distribution"


def _method(family: Family) -> str:
    return family.suites[0].run.spec.method.name


def _shared(group: Sequence[StoredSuite], level_set: str) -> tuple[tuple[int, ...], ...]:
    """Numbers of the questions of a set of levels that all suites have, in the order of the first."""
    other = set(group[0].summary.ood_levels)
    wanted = {"in distribution": False, "out of distribution": True}.get(level_set)
    if (wanted is None) == bool(other):
        return ((),) * len(group)
    places = [{i: k for k, i in enumerate(suite.asked.ids)} for suite in group]
    levels = dict(zip(group[0].asked.ids, group[0].asked.levels, strict=True))
    ids = [i for i in places[0] if all(i in p for p in places) and wanted in (None, levels[i] in other)]
    return tuple(tuple(p[i] for i in ids) for p in places)
