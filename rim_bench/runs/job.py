"""One cell of a grid in a process of its own: what that process is told, what it does, and what it says at the end.

It does what `rim-bench run` does for this cell, under the run's lock, so that the stored run is the same wherever it
was made.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rim_bench.runs.options import Options
from rim_bench.util.errors import UsageError, sentence
from rim_bench.util.progress import TrainingStep

if TYPE_CHECKING:
    from rim_bench.engine.execution import ExecutionContext
    from rim_bench.runs.stored_runs import EvaluationSets
    from rim_bench.runs.study import Study
    from rim_bench.runs.tuning import Choice, Trial

UNKNOWN = 0  # cells on a machine, where a queue places them


@dataclass(frozen=True)
class Job:
    """What a process is told: the request, and which of its runs is meant."""

    options: Options
    run: str  # its id
    label: str
    folder: Path  # where relative paths of the request begin
    evaluation: bool = True
    choices: Mapping[str, Choice] = field(default_factory=dict)  # learning rates that trials have found, by method
    sets: EvaluationSets | None = None  # further evaluation sets
    threads: int | None = None  # of torch; None: as many as it takes by itself
    together: int = 1  # cells that may compute on its machine at a time; UNKNOWN where that is not known


@dataclass(frozen=True)
class JobResult:
    """What a process says at the end, or what is said of one that cannot."""

    state: Literal[
        "done", "refused", "failed"
    ]  # refused: bad input or a full disk, which another attempt would not change
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    reason: str = ""
    trace: str = ""
    trial: Trial | None = None  # of a trial of a learning rate


class RecordingReporter:
    """A reporter that keeps what is worth a line: progress is not, since several processes would talk at once."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def training(self, run: str, progress: TrainingStep) -> None:
        pass

    def evaluating(self, run: str, done: int, total: int) -> None:
        pass

    def finished(self, run: str) -> None:
        pass


def execute(job: Job) -> JobResult:
    """Train and evaluate the job's cell, as far as that is not done; never raises but where the process is to end."""
    notes, began = RecordingReporter(), time.monotonic()
    try:
        os.chdir(job.folder)
        try:
            trial = _work(job, notes)
        finally:
            _free()
    except Exception as error:
        known, took = sentence(error), time.monotonic() - began
        if known is not None and type(error).__name__ != "OutOfMemoryError":  # memory may have been another process's
            return JobResult("refused", tuple(notes.lines), took, known)
        first = (str(error).splitlines() or [""])[0]
        return JobResult(
            "failed", tuple(notes.lines), took, known or f"{type(error).__name__}: {first}", traceback.format_exc()
        )
    return JobResult("done", tuple(notes.lines), time.monotonic() - began, trial=trial)


def _work(job: Job, notes: RecordingReporter) -> Trial | None:
    import torch

    from rim_bench.engine.execution import ExecutionContext
    from rim_bench.runs.stored_runs import EvalOptions, evaluate_sets, plan_sets
    from rim_bench.runs.tuning import train_trial
    from rim_bench.storage.records import spec_id

    if job.threads is not None:
        torch.set_num_threads(job.threads)
    execution = ExecutionContext(runs_at_a_time=job.together)
    study = _study(job.options, execution)
    study.choose(job.choices)
    cell = next((c for c in (*study.cells, *study.trials) if spec_id(c.spec) == job.run), None)
    if cell is None:
        raise UsageError(
            f"run {job.run} is not among those that this process makes of the same request: it needs the same version "
            "of rim-bench, "
            "the same data and the same files as the process that started it"
        )
    if cell.role == "trial":
        return train_trial(study, cell, notes)
    run = study.train(cell, notes)
    if job.evaluation and not cell.is_start:
        study.evaluate(cell, run, notes)
        if job.sets is not None:
            sets = plan_sets(
                job.sets, job.options, RecordingReporter()
            )  # what cannot be evaluated was said before anything began
            evaluate_sets([run], sets, job.options, notes, EvalOptions(turned=False), execution)
    return None


def _free() -> None:
    """Give the GPU's memory back: until this process gets another cell, others may need it."""
    import gc

    import torch

    if torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


_last: Study | None = None  # a process may do several cells of one request: the data are read once


def _study(options: Options, execution: ExecutionContext) -> Study:
    global _last
    from rim_bench.runs.study import Study

    if _last is None or (_last.options, _last.execution) != (options, execution):
        _last = Study(options, execution=execution)
    return _last
