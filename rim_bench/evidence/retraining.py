"""The margin of a gate that retrains: what other training seeds move, measured from retrainings of one recipe.

A gate on the very weights of its baseline has the questions' error only. A gate that trains anew has another null: two
sound trainings of the same recipe differ by more. So its margin comes from retrainings: every ordered pair of them is a
baseline and a sound run, and the gate's own rule, on the whole set and on its levels, says which pairs would go red at
which margin. A margin that is chosen and counted on the same seeds looks better than it is, so an allowance is added,
with which margins that are chosen on half of the seeds keep their rate on the other half. Items that share sources
count as independent ones here, which calls more pairs red than the gate would: margins are then too wide, never too
narrow.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from pathlib import Path
from typing import Any

from rim_bench.evidence.baseline import BaselineEntry, Questions, SystemSetting, choose, difference, measured
from rim_bench.evidence.gate import ALPHA, adjust, lost_and_won
from rim_bench.evidence.stats import intervals, tests
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record, read_whole
from rim_bench.util.progress import phase

ENOUGH = 20  # retrainings, without which no margin is given
RATE = 0.05
STEP = 0.5  # points: margins are given on this grid
_STEPS = 200  # of the grid: up to 100 points
_HALVES = 100


@dataclass(frozen=True)
class RetrainingPair:
    """One retraining as the baseline of another: items that only the first solved, and only the second."""

    first: int
    second: int
    lost: int
    won: int
    levels: tuple[tuple[int, int, int], ...] = ()  # of each level: lost, won, items; empty: there is one, or not known

    def loss(self, n: int) -> float:
        """The largest loss in points that the gate's tests confirm, on all n items or on those of a level; else 0."""
        parts = [(self.lost, self.won, n), *self.levels]
        whole, levels = adjust(
            [tests.mcnemar(self.lost, self.won, "greater")], [tests.mcnemar(b, c, "greater") for b, c, _ in self.levels]
        )
        confirmed = [part for part, p in zip(parts, [*whole, *levels], strict=True) if p < ALPHA]
        return max((100 * (b - c) / size for b, c, size in confirmed), default=0.0)


@dataclass(frozen=True)
class Retrainings:
    """Trainings of one recipe with other seeds, evaluated on the same items. Accuracies are counts of `n`."""

    setting: SystemSetting
    questions: Questions
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    correct: tuple[int, ...]
    pairs: tuple[RetrainingPair, ...]  # ordered, every two of them

    @staticmethod
    def of(setting: SystemSetting, entries: Sequence[BaselineEntry], enough: int) -> Retrainings:
        """Every ordered pair of the retrainings of one recipe. Raises UsageError: see `retrainings`."""
        entries = sorted(entries, key=lambda e: int(e.origin["seed"]))
        seeds = [int(e.origin["seed"]) for e in entries]
        if twice := {s for s in seeds if seeds.count(s) > 1}:
            raise UsageError(f"{setting}: seed {min(twice)} is there twice: retrainings have a seed each")
        if len(entries) < enough:
            raise UsageError(
                f"{setting}: {len(entries)} retrainings are too few for a margin: give at least {enough}, each with "
                "another seed"
            )
        for entry in entries:
            if (other := difference(entry.questions, entries[0].questions)) is not None:
                raise UsageError(
                    f"run {entry.origin['run']!r} answered other questions than {entries[0].origin['run']!r}: {other}"
                )
        names = tuple(entries[0].answers) if len(entries[0].answers) > 1 else ()

        def pair(a: int, b: int) -> RetrainingPair:
            one, two = entries[a], entries[b]
            levels = tuple(
                (*lost_and_won(one.answers[name], two.answers[name]), len(one.answers[name])) for name in names
            )
            return RetrainingPair(a, b, *lost_and_won(one.flat(), two.flat()), levels)

        pairs = [pair(a, b) for a, b in permutations(range(len(entries)), 2)]
        runs, correct = tuple(str(e.origin["run"]) for e in entries), tuple(e.correct for e in entries)
        return Retrainings(setting, entries[0].questions, tuple(seeds), runs, correct, tuple(pairs))

    @property
    def n(self) -> int:
        """Items."""
        return self.questions.n

    @cached_property
    def _losses(self) -> dict[tuple[int, int], float]:
        """First and second of every pair: the loss in points that the tests confirm."""
        return {(p.first, p.second): p.loss(self.n) for p in self.pairs}

    @cached_property
    def _halves(self) -> tuple[tuple[list[float], list[float]], ...]:
        """Over random halves of the seeds: the confirmed losses among them and among the others, largest first."""
        rng, everyone = random.Random(0), range(len(self.seeds))

        def losses(part: frozenset[int]) -> list[float]:
            return sorted((loss for pair, loss in self._losses.items() if part.issuperset(pair)), reverse=True)

        halves = [frozenset(rng.sample(everyone, len(everyone) // 2)) for _ in range(_HALVES)]
        return tuple((losses(half), losses(frozenset(everyone) - half)) for half in halves)

    def red(self, margin: float, shift: float = 0.0) -> float:
        """Share of the ordered pairs that go red at a margin, where every retraining had lost `shift` more; in points.

        With a shift the test is taken to confirm what the margin finds on the whole set, as it does at the losses in
        question.
        """
        losses = list(self._losses.values())
        if shift:
            losses = [max(d, 100 * (p.lost - p.won) / self.n + shift) for d, p in zip(losses, self.pairs, strict=True)]
        return _red(losses, margin)

    def allowance(self, rate: float = RATE) -> float:
        """The least addition, in points, with which margins of half of the seeds keep the rate on the other half."""
        return next(STEP * k for k in range(_STEPS + 1) if self.held_out(rate, STEP * k) <= rate)

    def margin(self, rate: float = RATE) -> float:
        """The smallest margin of the grid at which at most `rate` of the pairs go red, and the allowance; in points."""
        return _smallest(sorted(self._losses.values(), reverse=True), rate) + self.allowance(rate)

    def held_out(self, rate: float = RATE, allowance: float | None = None) -> float:
        """Mean share of red pairs among the seeds that a margin was not chosen on, over random halves of the seeds.

        With half of the retrainings it is also the harder task. `allowance`: None is that of `margin`.
        """
        more = self.allowance(rate) if allowance is None else allowance
        return intervals.mean([_red(others, _smallest(half, rate) + more) for half, others in self._halves])

    def worst(self, margin: float) -> float:
        """The largest share of sound retrainings that go red beside one baseline, which chance made the best.

        `red` is the rate over baselines as they come; storing the best of several seeds as the baseline has this one.
        """
        red = Counter(first for (first, _), loss in self._losses.items() if loss >= margin - 1e-9)
        return max(red.values(), default=0) / (len(self.seeds) - 1)

    def by_spread(self, rate: float = RATE) -> float:
        """The same from the spread alone, were accuracies normal: t · s · √2, in points."""
        from scipy.stats import t

        accuracies = [100 * c / self.n for c in self.correct]
        return float(t.ppf(1 - rate, len(accuracies) - 1)) * intervals.spread(accuracies) * math.sqrt(2)

    def detected(self, margin: float, power: float = 0.8) -> float:
        """The smallest loss of the mean, in points, that at this margin turns so many of the retrainings red."""
        return next(STEP * k for k in range(1, 2 * _STEPS + 1) if self.red(margin, shift=STEP * k) >= power)

    def data(self, rate: float = RATE) -> Record:
        """Everything, for JSON."""
        margin = self.margin(rate)
        return {
            "setting": self.setting._asdict(),
            "questions": self.questions._asdict(),
            "retrainings": [
                {"seed": s, "run": r, "correct": c} for s, r, c in zip(self.seeds, self.runs, self.correct, strict=True)
            ],
            "rate": rate,
            "margin_points": margin,
            "allowance_points": self.allowance(rate),
            "red_share": self.red(margin),
            "held_out_red_share": self.held_out(rate),
            "worst_baseline_red_share": self.worst(margin),
            "margin_by_spread_points": round(self.by_spread(rate), 4),
            "found_points": self.detected(margin),
            "lost": [
                [p.first, p.second, p.lost, p.won, *([list(map(list, p.levels))] if p.levels else [])]
                for p in self.pairs
                if p.first < p.second
            ],
        }


def _red(losses: Sequence[float], margin: float) -> float:
    """Share of confirmed losses of at least the margin."""
    return sum(loss >= margin - 1e-9 for loss in losses) / len(losses)


def _smallest(losses: Sequence[float], rate: float) -> float:
    """The smallest margin of the grid at which at most `rate` of the losses, largest first, are red."""
    allowed = math.floor(rate * len(losses) + 1e-9)
    return STEP * max(1, math.floor((losses[allowed] + 1e-9) / STEP) + 1)


def of_data(data: Mapping[str, Any]) -> Retrainings:
    """What `Retrainings.data` wrote, read back.

    Raises:
        UsageError: it is something else.
    """
    try:
        runs = data["retrainings"]
        half = [
            RetrainingPair(int(a), int(b), int(lost), int(won), tuple((int(x), int(y), int(z)) for x, y, z in levels))
            for a, b, lost, won, levels in ((*row, ())[:5] for row in data["lost"])
        ]
        pairs = [
            *half,
            *(RetrainingPair(p.second, p.first, p.won, p.lost, tuple((c, b, n) for b, c, n in p.levels)) for p in half),
        ]
        read_back = Retrainings(
            SystemSetting(**data["setting"]),
            Questions(**data["questions"]),
            tuple(int(r["seed"]) for r in runs),
            tuple(str(r["run"]) for r in runs),
            tuple(int(r["correct"]) for r in runs),
            tuple(sorted(pairs, key=lambda p: (p.first, p.second))),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"this is not what `rim-bench margin` writes ({type(error).__name__}: {error})") from None
    if any(p.lost - p.won != read_back.correct[p.first] - read_back.correct[p.second] for p in read_back.pairs):
        raise UsageError("the pairs do not fit the accuracies: the file was edited")
    return read_back


@phase("comparing the retrainings")
def retrainings(
    runs: Sequence[Run], *, split: str | None = None, task: str | None = None, enough: int = ENOUGH
) -> list[Retrainings]:
    """The retrainings among these runs, by recipe (everything but the seed).

    Raises:
        UsageError: too few of a recipe, a seed twice, other items, or evaluations that cannot be read.
    """
    recipes: dict[tuple[SystemSetting, Any], list[BaselineEntry]] = {}
    for run in runs:
        key, summary = choose(run, split, task)
        if summary.quick or run.spec.quick:
            raise UsageError(f"run {run.id!r} is a plumbing check (--quick), not a result")
        entry = measured(run, key, summary)
        recipes.setdefault((entry.setting, entry.origin["recipe_sha256"]), []).append(entry)
    if not recipes:
        raise UsageError("no run was given: a margin comes from retrainings of one recipe with other seeds")
    return [Retrainings.of(setting, entries, enough) for (setting, _), entries in recipes.items()]


def read(path: Path) -> list[Retrainings]:
    """What `rim-bench margin --json` wrote.

    Raises:
        UsageError: no such file, or another one.
    """
    try:
        data = json.loads(read_whole(path))
    except (OSError, ValueError) as error:
        raise UsageError(f"{str(path)!r} cannot be read as what `rim-bench margin` writes: {error}") from None
    if not isinstance(data, dict) or not isinstance(data.get("systems"), list):
        raise UsageError(f"{str(path)!r} is not what `rim-bench margin` writes")
    return [of_data(system) for system in data["systems"]]
