"""Learning rates: the same trials for every method, each a stored run of its own, chosen between on validation and
charged.

A trial is trained as the arm would be, at its rate, with the smallest seed of the request; it is never evaluated on the
test split. The arm of that seed is the winning trial itself where nothing but the rate was tried; other seeds train
anew at the winning rate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rim_bench.engine.trainer import Diverged
from rim_bench.runs.checkpoints import link_files
from rim_bench.storage.records import TrainingRecord, spec_id
from rim_bench.storage.run_folder import CANDIDATES, Run
from rim_bench.storage.selection import SPLITS, LearningRateGrid
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record, canonical, complete_folder, write_bytes_atomic

if TYPE_CHECKING:
    from rim_bench.runs.planned_run import PlannedRun
    from rim_bench.runs.study import Study
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
        """For train.json. `flops` are those of all trials, the winner's included, `adopted` the trial whose weights the
        run has.
        """
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


def run_trials(
    study: Study,
    cells: Sequence[PlannedRun],
    grid: LearningRateGrid,
    reporter: Reporter,
    trials: Mapping[str, Trial] | None = None,
) -> dict[str, Choice]:
    """Train every trial that is not trained yet; method -> choice.

    Args:
        trials: by run id, those that other processes have made; nothing is trained then.
    Raises:
        UsageError: every trial of a method diverged.
    """
    found: dict[str, list[Trial]] = {}
    for cell in cells:
        found.setdefault(cell.method.name, []).append(
            train_trial(study, cell, reporter) if trials is None else trials[spec_id(cell.spec)]
        )
    choices = {name: Choice(name, tuple(made), grid, cells[0].plan.seed) for name, made in found.items()}
    for choice in choices.values():
        reporter.note(choice.note())
    return choices


def train_trial(study: Study, cell: PlannedRun, reporter: Reporter) -> Trial:
    """Train one trial, unless it is trained."""
    try:
        run = study.train(cell, reporter)
    except Diverged as error:  # an answer too: that rate is too high. What it cost is charged like the others
        reporter.note(f"{cell.label}: {error}")
        steps = Run(study.store.folder / spec_id(cell.spec)).metrics()
        seconds = round(sum(m["seconds"] for m in steps), 3)
        return Trial(spec_id(cell.spec), cell.plan.lr, None, None, sum(m["flops"] for m in steps), seconds)
    return _stored(run, cell)


def _stored(run: Run, cell: PlannedRun) -> Trial:
    """A trained trial."""
    training = run.training() or TrainingRecord()
    validation = training["validation"]
    return Trial(run.id, cell.plan.lr, validation["accuracy"], validation["n"], training["flops"], training["seconds"])


def stored_choices(study: Study, cells: Sequence[PlannedRun], grid: LearningRateGrid) -> dict[str, Choice]:
    """Method -> choice, of the methods whose trials are all trained; reads what is stored, and trains nothing."""
    runs = {spec_id(c.spec): Run(study.store.folder / spec_id(c.spec)) for c in cells}
    found: dict[str, Choice] = {}
    for name in dict.fromkeys(c.method.name for c in cells):
        mine = [c for c in cells if c.method.name == name]
        if all(runs[spec_id(c.spec)].trained for c in mine):
            found[name] = Choice(name, tuple(_stored(runs[spec_id(c.spec)], c) for c in mine), grid, mine[0].plan.seed)
    return found


def same_training(arm: Record, trial: Record) -> bool:
    """Whether two specifications train the same weights: they differ in nothing but what the run is for."""
    return all(canonical(arm.get(k)) == canonical(trial.get(k)) for k in {*arm, *trial} - {"role", "tuned"})


def adopt(run: Run, trial: Run, training: Record) -> None:
    """Make the arm of the winning trial: the same weights and records, with what the arm says of them in addition.

    Raises:
        UsageError: the trial is damaged.
    """
    source = trial.model_path()
    write_bytes_atomic(
        run.path / "train.jsonl", b"".join((json.dumps(m, ensure_ascii=False) + "\n").encode() for m in trial.metrics())
    )
    if (trial.spec.get("selection") or {}).get("rule") == SPLITS:
        for folder in sorted((trial.path / CANDIDATES).glob("step-*")):
            with complete_folder(run.path / CANDIDATES / folder.name) as made:
                link_files(folder, made)
    run.finish(lambda folder: link_files(source, folder), {**(trial.training() or TrainingRecord()), **training})
