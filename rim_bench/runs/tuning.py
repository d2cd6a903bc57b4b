"""Trials: as many for every method, each a stored run, chosen between on validation and charged.

A trial is trained as the arm would be, at its learning rate or at its point of the method's search space, with the
smallest seeds of the request; it is never evaluated on the test split. The arm of such a seed is the winning trial
itself where its budget is the same; other seeds train anew with what won.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from rim_bench.engine.trainer import Diverged
from rim_bench.methods.search import inner_ranges
from rim_bench.runs.checkpoints import link_files
from rim_bench.runs.planned_run import Plan, PlannedRun
from rim_bench.storage.records import RunSpec, TrainingRecord, ValidationRecord
from rim_bench.storage.run_folder import CANDIDATES, Run
from rim_bench.storage.selection import SPLITS, LearningRateGrid, Search, SpaceSearch
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record, canonical, complete_folder, write_bytes_atomic
from rim_bench.util.progress import Reporter


@dataclass(frozen=True)
class Trial:
    """One stored training run at one learning rate, or at one point of a search space."""

    run: str
    lr: float
    values: Mapping[str, float]  # by setting, `lr` among them
    seed: int
    accuracy: float | None  # on validation; None where training diverged
    n: int | None
    flops: int  # of training, without what is inherited
    seconds: float


@dataclass(frozen=True)
class Tried:
    """All trials of one point."""

    values: Mapping[str, float]
    trials: tuple[Trial, ...]

    @property
    def accuracies(self) -> list[float]:
        """On validation, by seed; without those that diverged."""
        return [t.accuracy for t in self.trials if t.accuracy is not None]

    @property
    def accuracy(self) -> float | None:
        """The mean over seeds; None where one of them diverged."""
        return statistics.mean(self.accuracies) if len(self.accuracies) == len(self.trials) else None

    def describe(self) -> str:
        """Values and accuracy in a few words."""
        values = " ".join(
            f"{v:g}" if k == "lr" and len(self.values) == 1 else f"{k}={v:g}" for k, v in self.values.items()
        )
        if self.accuracy is None:
            return f"{values}: diverged"
        by_seed = "" if len(self.trials) == 1 else f" ({', '.join(f'{100 * a:.1f}' for a in self.accuracies)})"
        return f"{values}: {100 * self.accuracy:.1f} %{by_seed}"


@dataclass(frozen=True)
class Choice:
    """What trials chose for one method, and those trials."""

    method: str
    trials: tuple[Trial, ...]
    search: Search
    seeds: tuple[int, ...]
    inner: Mapping[
        str, tuple[float, float]
    ]  # by setting: a value that is not between these lies at an end of its range

    @property
    def tried(self) -> tuple[Tried, ...]:
        """Every point with its trials, in the order in which they were planned."""
        points: dict[str, list[Trial]] = {}
        for trial in self.trials:
            points.setdefault(canonical(dict(trial.values)), []).append(trial)
        return tuple(Tried(of_point[0].values, tuple(of_point)) for of_point in points.values())

    @property
    def winner(self) -> Tried:
        """The highest mean validation accuracy, of equal ones the first: the smallest rate, or the recipe.

        Raises:
            UsageError: of every point a trial diverged.
        """
        sound = [(t.accuracy, t) for t in self.tried if t.accuracy is not None]
        if not sound:
            rates = ", ".join(f"{t.values['lr']:g}" for t in self.tried)
            way = (
                "give lower ones (--tune lr=LOW..HIGH)"
                if isinstance(self.search, LearningRateGrid)
                else "tune lr first"
            )
            raise UsageError(f"all learning rates tried for {self.method} diverged ({rates}): {way}")
        return max(sound, key=lambda scored: scored[0])[1]

    def winner_of(self, seed: int) -> Trial | None:
        """The winning trial of a training seed, if there is one."""
        return next((t for t in self.winner.trials if t.seed == seed), None)

    @property
    def edges(self) -> tuple[str, ...]:
        """The settings at which the winner lies at an end of the range, so that a better value may lie beyond."""
        won = self.winner.values
        return tuple(name for name, (low, high) in self.inner.items() if not low < won[name] < high)

    @property
    def standard_error(self) -> float | None:
        """Of a difference of two points' means, from the spread over seeds of all points; None with one seed."""
        sound = [t for t in self.tried if t.accuracy is not None and len(t.trials) > 1]
        if not sound:
            return None
        within = sum((a - statistics.mean(t.accuracies)) ** 2 for t in sound for a in t.accuracies)
        freedom = sum(len(t.trials) - 1 for t in sound)
        return math.sqrt(2 * within / freedom / len(sound[0].trials))

    @property
    def rivals(self) -> int | None:
        """How many other points lie within two standard errors of the winner; None with one seed."""
        if (error := self.standard_error) is None:
            return None
        least = (self.winner.accuracy or 0.0) - 2 * error
        return sum(t.accuracy is not None and t.accuracy >= least for t in self.tried) - 1  # itself

    def record(self, adopted: str | None) -> Record:
        """For train.json. `flops` are those of all trials, `adopted` is the one whose weights the run has."""
        won, grid = self.winner, isinstance(self.search, LearningRateGrid)
        space: Record = {} if grid else {"values": dict(won.values), "edges": list(self.edges)}
        if self.standard_error is not None:
            space |= {"accuracy": won.accuracy, "standard_error": self.standard_error, "rivals": self.rivals}
        return {
            **self.search.record(self.seeds),
            "chosen": won.values["lr"],
            **space,
            "ties": "the smallest" if grid else "the first, which is the recipe's",
            "edge": bool(self.edges),
            "adopted": adopted,
            "flops": sum(t.flops for t in self.trials),
            "seconds": round(sum(t.seconds for t in self.trials), 3),
            "trials": [self._trial_record(t) for t in self.trials],
        }

    def _trial_record(self, trial: Trial) -> Record:
        record = asdict(trial) | {"values": dict(trial.values)}
        if isinstance(self.search, LearningRateGrid):
            del record["values"]
        if len(self.seeds) == 1:
            del record["seed"]
        return record

    def note(self) -> str:
        """What was tried, what won, and how sure that is."""
        won, tried = self.winner, self.tried
        listed = ", ".join(t.describe() for t in tried)
        if isinstance(self.search, LearningRateGrid):
            text = f"{self.method}: learning rate {won.values['lr']:g} of {len(tried)} trials"
        else:
            chosen = "the recipe as it is" if won == tried[0] else " ".join(f"{k}={v:g}" for k, v in won.values.items())
            text = f"{self.method}: {chosen}, of {len(tried)} points"
        text += f" (validation accuracy {listed})"
        if self.rivals is not None:
            text += f"; {self.rivals} other points lie within two standard errors of it"
        if isinstance(self.search, SpaceSearch):
            at_ends = [f"{k}={won.values[k]:g}" for k in self.edges]
            return text + (f"; at an end of its range: {', '.join(at_ends)}" if at_ends else "")
        if self.edges:
            side = "above" if won.values["lr"] == self.search.rates[-1] else "below"
            text += f"; it lies at the edge of the grid: a better one may lie {side} it"
        return text


def run_trials(trials: Plan, train: Callable[[PlannedRun], Run], reporter: Reporter) -> dict[str, Choice]:
    """Method -> choice, after `train` has trained every trial that is not trained yet.

    Raises:
        UsageError: every trial of a method diverged.
    """
    return choose(trials, {planned.id: run_trial(planned, train, reporter) for planned in trials}, reporter)


def run_trial(planned: PlannedRun, train: Callable[[PlannedRun], Run], reporter: Reporter) -> Trial:
    """A trial's result, after `train` has trained it where it is not trained."""
    try:
        train(planned)
    except Diverged as error:  # an answer too: that rate is too high. What it cost is charged like the others
        reporter.note(f"{planned.label}: {error}")
        steps = planned.run.metrics()
        seconds = round(sum(m["seconds"] for m in steps), 3)
        return _trial(planned, None, None, sum(m["flops"] for m in steps), seconds)
    return _stored_trial(planned)


def choose(trials: Plan, results: Mapping[str, Trial], reporter: Reporter) -> dict[str, Choice]:
    """Method -> choice from the trials' results, which are given by run id.

    Raises:
        UsageError: every trial of a method diverged.
    """
    choices = _choices((planned, results[planned.id]) for planned in trials)
    for choice in choices.values():
        reporter.note(choice.note())
    return choices


def stored_choices(trials: Plan) -> dict[str, Choice]:
    """Method -> choice, of the methods whose trials are all trained; reads what is stored, and trains nothing."""
    missing = {planned.method.name for planned in trials if not planned.run.trained}
    return _choices((p, _stored_trial(p)) for p in trials if p.method.name not in missing)


def _choices(results: Iterable[tuple[PlannedRun, Trial]]) -> dict[str, Choice]:
    by_method: dict[str, list[tuple[PlannedRun, Trial]]] = {}
    for planned, trial in results:
        by_method.setdefault(planned.method.name, []).append((planned, trial))
    choices: dict[str, Choice] = {}
    for name, pairs in by_method.items():
        options, planned = pairs[0][0].study.options, pairs[0][0]
        assert options.search is not None, "a trial is planned by a request that tunes"
        trials = tuple(trial for _, trial in pairs)
        if isinstance(options.search, LearningRateGrid):
            inner = {"lr": (options.search.rates[0], options.search.rates[-1])}
        else:
            inner = inner_ranges(planned.study.method(planned.method_given), planned.study.common_lr)
        choices[name] = Choice(name, trials, options.search, options.trial_seeds, inner)
    return choices


def _stored_trial(planned: PlannedRun) -> Trial:
    training = planned.run.training() or TrainingRecord()
    validation = training.validation or ValidationRecord()
    flops, seconds = training.flops or 0, training.seconds or 0.0
    return _trial(planned, validation.accuracy, validation.n, flops, seconds)


def _trial(planned: PlannedRun, accuracy: float | None, n: int | None, flops: int, seconds: float) -> Trial:
    plan, values = planned.plan, planned.values
    return Trial(planned.id, plan.lr, values, plan.seed, accuracy, n, flops, seconds)


def same_training(arm: RunSpec, trial: RunSpec) -> bool:
    """Whether two specifications train the same weights: they differ in nothing but what the run is for."""
    return canonical(arm.without("role", "tuned")) == canonical(trial.without("role", "tuned"))


def adopt(run: Run, trial: Run, choice: Mapping[str, Any]) -> None:
    """Makes the arm of the winning trial: the same weights and records, and beside them what the arm says of them.

    Raises:
        UsageError: the trial is damaged.
    """
    source = trial.model_path()
    write_bytes_atomic(
        run.path / "train.jsonl", b"".join((json.dumps(m, ensure_ascii=False) + "\n").encode() for m in trial.metrics())
    )
    if trial.spec.rule == SPLITS:
        for folder in sorted((trial.path / CANDIDATES).glob("step-*")):
            with complete_folder(run.path / CANDIDATES / folder.name) as candidate:
                link_files(folder, candidate)
    run.finish(lambda folder: link_files(source, folder), replace(trial.training() or TrainingRecord(), **choice))
