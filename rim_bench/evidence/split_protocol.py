"""RiM's published protocol: checkpoints chosen on a part of the test questions and scored on the rest, 16 times.

A pure function of stored answers. It selects on test items, so what it gives never stands beside an ordinary row: it
has a section of its own. The mean's standard error over splits ("split SE") says how much the split matters; it is no
sampling error, for every split has the same questions.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rim_bench.evidence.rows import LeftOut, Reason
from rim_bench.evidence.stats.intervals import mean, spread
from rim_bench.storage.records import CandidateItem, EvaluationRecord, RuleRecord, TrainingRecord
from rim_bench.storage.run_folder import Run
from rim_bench.storage.selection import SPLIT, best
from rim_bench.util.errors import UsageError
from rim_bench.util.files import canonical
from rim_bench.util.text import format_flops


@dataclass(frozen=True)
class QuestionSplit:
    """One random split: which candidate its held-out questions chose, and what the others say of it."""

    held: tuple[str, ...]
    scored: tuple[str, ...]
    chosen: int
    accuracy: float  # of the chosen candidate on the scored questions
    last: float  # of the last candidate on them: what no choice at all would have given


@dataclass(frozen=True)
class Result:
    """All splits of one set of questions."""

    splits: tuple[QuestionSplit, ...]

    @property
    def accuracy(self) -> float:
        """Mean over splits."""
        return mean([s.accuracy for s in self.splits])

    @property
    def last(self) -> float:
        """The same of the last candidate on the same scored questions."""
        return mean([s.last for s in self.splits])

    @property
    def split_se(self) -> float:
        """Standard deviation over splits, divided by the root of their number."""
        return spread([s.accuracy for s in self.splits]) / math.sqrt(len(self.splits))


def held_out(n: int, share: float = SPLIT["share"]) -> int:
    """How many of n questions choose: 264 of 1,319.

    Raises:
        UsageError: so few questions that none chooses or none is scored.
    """
    if not enough(n, share):
        why = f"a share of {share:g} of them chooses, the rest scores"
        raise UsageError(f"{n} test questions are too few for the 16-split protocol: {why}")
    return round(share * n)


def enough(n: int, share: float = SPLIT["share"]) -> bool:
    """Whether some of n questions choose, and some score."""
    return 1 <= round(share * n) < n


def _marks(items: Sequence[CandidateItem]) -> dict[str, str]:
    """Id -> a 1 or 0 for each candidate. Raises UsageError where the items do not fit together."""
    marks = {i.id: i.correct for i in items}
    readable = all(m and set(m) <= {"0", "1"} for m in marks.values())
    if len(marks) < len(items) or len({len(m) for m in marks.values()}) != 1 or not readable:
        raise UsageError(
            "the candidates' answers do not fit together: every question once, with a 1 or 0 for each candidate"
        )
    return marks


def run_splits(
    items: Sequence[CandidateItem], *, splits: int = 16, share: float = SPLIT["share"], seed: int = 0
) -> Result:
    """The protocol on items whose `correct` is a text with a 1 or 0 for each candidate in the order of training.

    The splits follow from the ids, the share and the seed alone: runs with the same questions have the same splits. Of
    candidates with equal accuracy on the held-out questions the latest is chosen.

    Raises:
        UsageError: too few questions, an id twice, or items with different numbers of candidates.
    """
    marks = _marks(items)

    def accuracy(ids: Sequence[str], candidate: int) -> float:
        return sum(marks[i][candidate] == "1" for i in ids) / len(ids)

    ids, candidates = sorted(marks), len(next(iter(marks.values())))
    out = []
    for k in range(splits):
        held = frozenset(random.Random(f"16-split {seed} {k}").sample(ids, held_out(len(ids), share)))
        choosing, scored = sorted(held), [i for i in ids if i not in held]
        chosen = best([accuracy(choosing, c) for c in range(candidates)])
        scores = accuracy(scored, chosen), accuracy(scored, candidates - 1)
        out.append(QuestionSplit(tuple(choosing), tuple(scored), chosen, *scores))
    return Result(tuple(out))


@dataclass(frozen=True)
class Scored:
    """One run's candidates on one set of test questions."""

    run: Run
    summary: EvaluationRecord
    items: tuple[CandidateItem, ...]

    @property
    def facts(self) -> tuple[str, ...]:
        """What runs must share to stand in one section."""
        s = self.summary
        shared = (s.task_title, s.task_version, s.evaluator_version, s.data_sha256, s.split, s.limit)
        return (*map(str, shared), canonical(self.run.spec.backbone))

    @property
    def quick(self) -> bool:
        """Whether it is a plumbing check."""
        return bool(self.summary.quick or self.run.spec.quick)

    @property
    def label(self) -> str:
        """Method and start."""
        spec = self.run.spec
        text, start = spec.method.title, spec.start
        return f"{text} (from {start})" if start not in (None, "recipe") else text

    @property
    def rule(self) -> RuleRecord:
        """The protocol of its specification."""
        assert self.run.spec.selection is not None, "a run without a rule has no candidates"
        return self.run.spec.selection

    @property
    def training(self) -> TrainingRecord:
        """The training summary."""
        return self.run.training() or TrainingRecord()

    @property
    def tuned(self) -> str | None:
        """The learning rate that trials gave, their number and training FLOPs; None without trials."""
        if (tuning := self.training.tuning) is None:
            return None
        return f"{tuning.chosen:g} ({len(tuning.trials)}, {format_flops(tuning.flops)})"

    def sets(self) -> dict[str, list[CandidateItem]]:
        """The questions by headline set, as in the other tables; without sets that are too small."""
        ood, inside = [i for i in self.items if i.ood], [i for i in self.items if not i.ood]
        sets = {"in distribution": inside, "OOD": ood} if ood and inside else {"all": list(self.items)}
        share = self.rule.share
        return {name: items for name, items in sets.items() if enough(len(items), share)}

    @property
    def too_few(self) -> bool:
        """Whether any of its questions are in a set that is too small to choose on and to score."""
        return sum(map(len, self.sets().values())) < len(self.items)

    def result(self, items: Sequence[CandidateItem]) -> Result:
        """The protocol as this run's specification has it."""
        return run_splits(items, splits=self.rule.splits, share=self.rule.share, seed=self.rule.seed)


def scored_runs(runs: Iterable[Run], split: str | None = None) -> tuple[list[Scored], list[LeftOut]]:
    """The stored answers of the runs that select on test items, and each that has none or damaged ones."""
    scored, left_out = [], []
    for run in sorted(runs, key=lambda r: r.id):
        try:
            if not run.spec.selects_on_test or run.spec.is_trial:
                continue
        except UsageError:
            continue  # a specification that cannot be read: `rows.read` says so
        try:
            stored = run.candidate_evaluations
            summaries = stored.all()
            keys = [k for k, s in summaries.items() if split in (None, s.split)]
            run.training()
            own = [Scored(run, summaries[k], tuple(stored.items(k))) for k in keys]
            for one in own:
                _marks(one.items)
            scored += own
            if not keys:
                detail = "its candidates have not answered the test questions yet"
                left_out.append(LeftOut(run.id, Reason.NOT_EVALUATED, detail))
        except UsageError as error:
            left_out.append(LeftOut(run.id, Reason.DAMAGED, str(error)))
    return scored, left_out
