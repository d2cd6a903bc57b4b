"""The runs of one or several plans on an executor.

Starts come before what begins from them. A run whose process dies is done once more, and stops no other. Whatever ends
this, the same command goes on with what is not done.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from rim_bench.engine.execution import ALONE, ExecutionContext
from rim_bench.runs.executors import Executor, open_engine
from rim_bench.runs.forecast import cells_of
from rim_bench.runs.job import Job, JobResult
from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import Plan, PlannedRun, arms, at_choices, starts, trials
from rim_bench.runs.training import check_budget, check_start, evaluate, is_evaluated, note_data, run_plan, train
from rim_bench.runs.tuning import Choice, Trial, choose, run_trial
from rim_bench.storage.records import TrainingRecord
from rim_bench.storage.run_folder import Run, RunInUse
from rim_bench.util.errors import UsageError
from rim_bench.util.progress import Reporter, Silent, duration, outlook

if TYPE_CHECKING:
    from rim_bench.evaluate.options import EvaluationSets

ATTEMPTS = 2
AGAIN = 5.0  # seconds between two looks at runs that other processes work on


@dataclass(frozen=True)
class Failure:
    """A cell without a result, and why."""

    label: str
    run: str
    state: Literal["refused", "failed", "not started"]
    reason: str
    attempts: int
    trace: str = ""


def labels_among(plans: Sequence[Plan]) -> Callable[[PlannedRun], str]:
    """What a run is called among those of all plans: with its task and budget, where the plans differ in them."""
    studies = [plan[0].study for plan in plans]
    tasks = len({study.task.name for study in studies}) > 1
    budgets = len({_budget(study.options) for study in studies}) > 1

    def label(planned: PlannedRun) -> str:
        text = planned.label + (f", {planned.study.task.name}" if tasks else "")
        return text + (f", {_budget(planned.study.options)}" if budgets and not planned.is_start else "")

    return label


def _budget(options: Options) -> str:
    if options.train_flops is not None:
        return f"train-flops={options.train_flops:.4g}"
    return "the recipe's examples" if options.examples is None else f"examples={options.examples}"


class Runner:
    """Runs plans on an executor; what has no result is in `failures`, by run id.

    Args:
        sets: further evaluation sets of every arm, which its own process evaluates.
        threads: of torch in each process; None: as many as it takes by itself.
    """

    def __init__(
        self,
        engine: Executor,
        reporter: Reporter,
        *,
        evaluation: bool = True,
        sets: EvaluationSets | None = None,
        threads: int | None = None,
    ) -> None:
        self.engine, self.reporter, self.evaluation, self.threads = engine, reporter, evaluation, threads
        self.sets = sets if sets is not None and sets.any else None
        self.label: Callable[[PlannedRun], str] = lambda planned: planned.label
        self.failures: dict[str, Failure] = {}
        self.trials: dict[str, Trial] = {}
        self.done: set[str] = set()
        self.noted: set[str] = set()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *error: object) -> None:
        self.engine.close()

    @property
    def code(self) -> int:
        """The exit code of it all: 0, 2 where the user can act on every failure, 70 where a process died."""
        states = {f.state for f in self.failures.values()}
        return 70 if "failed" in states else 2 if states else 0

    def run(self, plans: Sequence[Plan]) -> list[list[Run]]:
        """Train and evaluate every run that is not done yet; returns each plan's finished arms.

        Raises:
            UsageError: what is refused before anything trains.
        """
        self.label = labels_among(plans)
        for plan in plans:
            note_data(plan[0].study, self.reporter, evaluation=self.evaluation)
            check_budget(plan)
        if tuned := [plan for plan in plans if trials(plan)]:
            self._work(planned for plan in tuned for planned in (*starts(plan), *trials(plan)))
            plans = [self._choose(plan) if trials(plan) else plan for plan in plans]
        every = [planned for plan in plans for planned in plan if planned.role != "trial"]
        self._work(planned for planned in every if not (planned.is_start and planned.id in self.done))
        return [[planned.run for planned in arms(plan) if planned.id in self.done] for plan in plans]

    def _choose(self, plan: Plan) -> Plan:
        """The plan with what the trials chose for every method; the arms of a method without one are not started."""
        choices: dict[str, Choice] = {}
        without: dict[str, str] = {}
        for name in dict.fromkeys(planned.method.name for planned in trials(plan)):
            tried = tuple(planned for planned in trials(plan) if planned.method.name == name)
            if any(planned.id not in self.trials for planned in tried):
                without[name] = "one of its trials has no result"
                continue
            try:
                choices |= choose(tried, self.trials, self.reporter)
            except UsageError as error:  # all of them diverged
                without[name] = str(error)
        plan = at_choices(plan, choices)
        for planned in arms(plan):
            if (reason := without.get(planned.method.name)) is not None:
                self._fail(planned, "not started", reason, 0)
        return plan

    def _work(self, runs: Iterable[PlannedRun]) -> None:
        """Bring every run to an end, each once."""
        every: dict[str, PlannedRun] = {}
        for planned in runs:
            every.setdefault(planned.id, planned)
        waiting = {i: p for i, p in every.items() if i not in self.failures and not self._settled(p)}
        busy: dict[str, PlannedRun] = {}
        attempts: Counter[str] = Counter()
        total = len(waiting)
        took: list[float] = []  # seconds of the cells that ended
        for planned in waiting.values():
            self.reporter.note(f"queued: {self.label(planned)} ({planned.id})")
        while waiting or busy:
            for planned in list(waiting.values()):
                parent = None if planned.parent is None else planned.parent.id
                if parent in self.failures:
                    del waiting[planned.id]
                    self._fail(planned, "not started", f"{self.failures[parent].label} has no result", 0)
                elif self.engine.room and parent not in waiting and parent not in busy and not self._in_use(planned):
                    del waiting[planned.id]
                    if self._settled(planned):  # by another process meanwhile
                        continue
                    busy[planned.id] = planned
                    label, run, together = self.label(planned), planned.run, self.engine.together
                    job = Job(planned, label, Path.cwd(), self.evaluation, self.sets, self.threads, together)
                    self.engine.start(job)
                    attempts[planned.id] += 1
                    self.reporter.note(f"running: {label}{', ' + _from_where(run) if run.latest_checkpoint() else ''}")
            if not busy:
                time.sleep(AGAIN if waiting else 0)
            for job, result in self.engine.wait() if busy else ():
                planned, attempt = busy.pop(job.run), attempts[job.run]
                if result.state == "put off":
                    attempts[job.run] -= 1
                    waiting[planned.id] = planned
                    self._note_once(f"put off: {job.label}: {result.reason}")
                elif result.state == "failed" and attempt < ATTEMPTS:
                    self.reporter.note(f"died: {job.label}: {result.reason}; once more {_from_where(planned.run)}")
                    attempts[job.run] += 1
                    busy[planned.id] = planned
                    self.engine.start(job)
                else:
                    left = len(waiting) + len(busy)
                    took.append(result.seconds)
                    about = sum(took) / len(took) * left / max(1, min(left, len(busy) + 1))
                    time_left = f", about {duration(about)} left in all" if left else ""
                    self._ended(planned, result, attempt, f"{total - left} of {total}{time_left}")

    def _in_use(self, planned: PlannedRun) -> bool:
        """Whether another process works on a run; it is noted once which."""
        sentence = planned.run.in_use()
        if sentence is not None:
            self._note_once(f"put off: {self.label(planned)}: {sentence}")
        return sentence is not None

    def _note_once(self, text: str) -> None:
        if text not in self.noted:
            self.noted.add(text)
            self.reporter.note(text)

    def _ended(self, planned: PlannedRun, result: JobResult, attempts: int, count: str) -> None:
        if result.state in ("refused", "failed"):
            return self._fail(planned, result.state, result.reason, attempts, result.trace)
        if result.trial is not None:
            self.trials[planned.id] = result.trial
        validation, share = (planned.run.training() or TrainingRecord()).validation, ""
        if validation is not None:
            share = f", {100 * validation.accuracy:.1f} % on validation (n = {validation.n})"
        self.reporter.note(f"done: {self.label(planned)}{share}, {result.seconds:.0f} s ({count})")
        for line in result.notes:
            self.reporter.note(f"  {line}")
        self._finished(planned)

    def _finished(self, planned: PlannedRun) -> None:
        """A run has its result; a start is looked at before anything begins from it."""
        try:
            if planned.is_start:
                check_start(planned, planned.run, Silent())  # its accuracy was noted
        except UsageError as error:
            return self._fail(planned, "refused", str(error), 1)
        self.done.add(planned.id)

    def _fail(
        self,
        planned: PlannedRun,
        state: Literal["refused", "failed", "not started"],
        reason: str,
        attempts: int,
        trace: str = "",
    ) -> None:
        label = self.label(planned)
        self.failures[planned.id] = Failure(label, planned.id, state, reason, attempts, trace)
        self.reporter.note(f"{state}: {label}: {reason}")

    def _settled(self, planned: PlannedRun) -> bool:
        """Whether nothing is left to do for a run but what takes no time, which is then done: it gets no process."""
        try:
            if not planned.run.trained:
                return False
            if planned.role == "trial":
                self.trials[planned.id] = run_trial(planned, lambda p: train(p, self.reporter), self.reporter)
            elif planned.is_start or not self.evaluation:
                train(planned, self.reporter)
            elif self.sets is None and is_evaluated(planned):
                train(planned, self.reporter)
                evaluate(planned, self.reporter)
            else:
                return False
        except RunInUse:
            return False
        except UsageError as error:
            self._fail(planned, "refused", str(error), 1)
            return True
        self._finished(planned)
        return True


def _from_where(run: Run) -> str:
    if run.trained:
        return "with the trained weights"
    checkpoint = run.latest_checkpoint()
    return "from the beginning" if checkpoint is None else f"from step {checkpoint[0]}"


def open_runner(
    name: str,
    workers: int | None,
    settings: Mapping[str, Any],
    plans: Sequence[Plan],
    reporter: Reporter,
    *,
    sets: EvaluationSets | None = None,
    evaluation: bool = True,
) -> Runner:
    """A runner of these plans on the executor of that name."""
    study = plans[0][0].study
    device, cuda = study.options.device, study.device.startswith("cuda")
    gpus = visible_gpus(torch.cuda.device_count()) if cuda and name == "local" and device in (None, "cuda") else []
    if not cuda and name != "local" and device is None:
        reporter.note(
            "the cells compute on cpu, as this machine has no GPU: --device cuda is for a cluster that has some"
        )
    engine = open_engine(
        name, workers, settings, folder=study.options.out / "submitit", gpu=cuda, gpus=gpus, note=reporter.note
    )
    threads = None if engine.elsewhere or cuda else max(1, min(torch.get_num_threads(), cores() // max(1, engine.room)))
    return Runner(engine, reporter, evaluation=evaluation, sets=sets, threads=threads)


def run_plans(
    plans: Sequence[Plan], runner: Runner | None, reporter: Reporter, execution: ExecutionContext = ALONE
) -> list[list[Run]]:
    """Each plan's runs: on the runner, or in this process one plan after the other."""
    if runner is not None:
        return runner.run(plans)
    with outlook(lambda: cells_of(plans)):
        return [run_plan(plan, reporter, execution=execution) for plan in plans]


def visible_gpus(count: int) -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    named = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    return named[:count] if named else [str(i) for i in range(count)]


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
