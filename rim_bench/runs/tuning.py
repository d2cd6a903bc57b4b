"""Learning rates: the same trials for every method, each a stored run, chosen between on validation and charged.

A trial is trained as the arm would be, at its rate, with the smallest seed of the request; it is never evaluated on the
test split. The arm of that seed is the winning trial itself where nothing but the rate was tried; other seeds train
anew at the winning rate.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from rim_bench.engine.trainer import Diverged
from rim_bench.runs.checkpoints import link_files
from rim_bench.runs.planned_run import Plan, PlannedRun
from rim_bench.storage.records import RunSpec, TrainingRecord, ValidationRecord
from rim_bench.storage.run_folder import CANDIDATES, Run
from rim_bench.storage.selection import SPLITS, LearningRateGrid
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record, canonical, complete_folder, write_bytes_atomic
from rim_bench.util.progress import Reporter

TIES = "the smallest"  # of rates with the same validation accuracy


@dataclass(frozen=True)
class Trial:
    """One stored training run at one rate."""

    run: str
    lr: float
    accuracy: float | None  # on validation; None where training diverged
    n: int | None
    flops: int  # of training, without what is inherited
    seconds: float


@dataclass(frozen=True)
class Choice:
    """The rate of one method, and the trials it was chosen from."""

    method: str
    trials: tuple[Trial, ...]
    grid: LearningRateGrid
    seed: int

    @property
    def winner(self) -> Trial:
        """The highest validation accuracy, of equal ones the smallest rate.

        Raises:
            UsageError: every trial diverged.
        """
        sound = [t for t in self.trials if t.accuracy is not None]
        if not sound:
            rates = ", ".join(f"{t.lr:g}" for t in self.trials)
            raise UsageError(
                f"all learning rates tried for {self.method} diverged ({rates}): give lower ones (--tune lr=LOW..HIGH)"
            )
        return max(sound, key=lambda t: (t.accuracy, -t.lr))

    @property
    def edge(self) -> bool:
        """Whether the winner lies at an end of the grid, so that a better rate may lie beyond."""
        return self.winner.lr in (self.grid.rates[0], self.grid.rates[-1])

    def record(self, adopted: str | None) -> Record:
        """For train.json. `flops` are those of all trials, `adopted` is the one whose weights the run has."""
        return {
            **self.grid.record(self.seed),
            "chosen": self.winner.lr,
            "ties": TIES,
            "edge": self.edge,
            "adopted": adopted,
            "flops": sum(t.flops for t in self.trials),
            "seconds": round(sum(t.seconds for t in self.trials), 3),
            "trials": [asdict(t) for t in self.trials],
        }

    def note(self) -> str:
        """What was tried and what won, in a line or two."""
        tried = ", ".join(
            f"{t.lr:g}: {'diverged' if t.accuracy is None else f'{100 * t.accuracy:.1f} %'}" for t in self.trials
        )
        text = (
            f"{self.method}: learning rate {self.winner.lr:g} of {len(self.trials)} trials (validation accuracy "
            f"{tried})"
        )
        if self.edge:
            side = "above" if self.winner.lr == self.grid.rates[-1] else "below"
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
        return Trial(planned.id, planned.plan.lr, None, None, sum(m["flops"] for m in steps), seconds)
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
        planned, grid = pairs[-1][0], pairs[-1][0].study.options.grid
        assert grid is not None, "a trial is planned by a request that tunes"
        choices[name] = Choice(name, tuple(trial for _, trial in pairs), grid, planned.plan.seed)
    return choices


def _stored_trial(planned: PlannedRun) -> Trial:
    training = planned.run.training() or TrainingRecord()
    validation = training.validation or ValidationRecord()
    flops, seconds = training.flops or 0, training.seconds or 0.0
    return Trial(planned.id, planned.plan.lr, validation.accuracy, validation.n, flops, seconds)


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
