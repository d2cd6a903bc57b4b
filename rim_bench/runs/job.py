"""One run of a grid in a process of its own: its planned run goes there, its result comes back.

The process does what `rim-bench run` does for this run, under the run's lock, so that the stored run is the same
wherever it was made.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rim_bench.engine.execution import ExecutionContext
from rim_bench.runs.planned_run import PlannedRun
from rim_bench.storage.run_folder import RunInUse
from rim_bench.util.errors import lacks_memory, sentence
from rim_bench.util.progress import Silent

if TYPE_CHECKING:
    from rim_bench.evaluate.options import EvaluationSets
    from rim_bench.runs.tuning import Trial

UNKNOWN = 0  # runs on a machine, where a queue places them


@dataclass(frozen=True)
class Job:
    """One run for a process.

    Attributes:
        label: what the run is called among those of its grid.
        folder: where relative paths of the request begin.
        sets: further evaluation sets.
        threads: of torch; None: as many as it takes by itself.
        together: runs that may compute on its machine at a time; UNKNOWN where that is not known.
    """

    planned: PlannedRun
    label: str
    folder: Path
    evaluation: bool = True
    sets: EvaluationSets | None = None
    threads: int | None = None
    together: int = 1

    @property
    def run(self) -> str:
        """The run's id."""
        return self.planned.id


@dataclass(frozen=True)
class JobResult:
    """What a process says at the end, or what is said of one that cannot.

    Attributes:
        state: "refused" is bad input or a full disk, which another attempt would not change; "put off": it is to be
            tried again later, as another process works on the run or a queue is full.
        trial: of a trial of a learning rate.
    """

    state: Literal["done", "refused", "failed", "put off"]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    reason: str = ""
    trace: str = ""
    trial: Trial | None = None


class RecordingReporter(Silent):
    """Keeps the notes. Progress is not kept, since several processes would talk at once."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def execute(job: Job) -> JobResult:
    """The job's run, trained and evaluated as far as that is not done; raises only where the process is to end."""
    notes, began = RecordingReporter(), time.monotonic()
    try:
        os.chdir(job.folder)
        try:
            trial = _work(job, notes)
        finally:  # until this process gets another run, others may need the GPU's memory
            import torch

            if torch.cuda.is_initialized():
                gc.collect()
                torch.cuda.empty_cache()
    except RunInUse as error:
        return JobResult("put off", tuple(notes.lines), time.monotonic() - began, str(error))
    except Exception as error:
        known, took = sentence(error), time.monotonic() - began
        if known is not None and not lacks_memory(error):  # which may have been another process's
            return JobResult("refused", tuple(notes.lines), took, known)
        first = (str(error).splitlines() or [""])[0]
        reason = known or f"{type(error).__name__}: {first}"
        return JobResult("failed", tuple(notes.lines), took, reason, traceback.format_exc())
    return JobResult("done", tuple(notes.lines), time.monotonic() - began, trial=trial)


def _work(job: Job, notes: RecordingReporter) -> Trial | None:
    import torch

    from rim_bench.evaluate.stored_runs import evaluate_sets, plan_sets
    from rim_bench.runs.training import evaluate, train
    from rim_bench.runs.tuning import run_trial

    if job.threads is not None:
        torch.set_num_threads(job.threads)
    execution = ExecutionContext(runs_at_a_time=job.together)
    planned = job.planned
    planned.check_here()
    if planned.role == "trial":
        return run_trial(planned, lambda trial: train(trial, notes, execution), notes)
    run = train(planned, notes, execution)
    if job.evaluation and not planned.is_start:
        evaluate(planned, notes, execution)
        if job.sets is not None:
            options = dataclasses.replace(planned.study.options, device=planned.study.device)
            sets = plan_sets(job.sets, options, Silent())  # what cannot be evaluated was said before anything began
            evaluate_sets([run], sets, options, notes, turned=False, execution=execution)
    return None
