"""The cells of one or several studies on an engine: starts before what begins from them, each cell once more if it
dies, none because
another did. Whatever ends this, the same command goes on with what is not done.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch

from rim_bench.runs.executors import Executor, open_engine
from rim_bench.runs.job import Job, JobResult, RecordingReporter
from rim_bench.runs.options import Options
from rim_bench.runs.planned_run import PlannedRun
from rim_bench.runs.study import Study
from rim_bench.runs.tuning import Choice, Trial, run_trials, train_trial
from rim_bench.storage.records import TrainingRecord, spec_id
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError
from rim_bench.util.progress import Reporter

if TYPE_CHECKING:
    from rim_bench.runs.stored_runs import EvaluationSets

ATTEMPTS = 2


@dataclass(frozen=True)
class Failure:
    """A cell without a result, and why."""

    label: str
    run: str
    state: Literal["refused", "failed", "not started"]
    reason: str
    attempts: int
    trace: str = ""


@dataclass(frozen=True)
class Node:
    """A cell in its place: the request it belongs to, and what it is called among all of them."""

    study: Study
    cell: PlannedRun
    id: str
    label: str

    @property
    def parent(self) -> str | None:
        """The run that must be trained before."""
        return None if self.cell.parent is None else spec_id(self.cell.parent.spec)

    @property
    def run(self) -> Run:
        """The cell's run, whether its folder exists or not."""
        return Run(self.study.store.folder / self.id)


def nodes(studies: Sequence[Study], cells: Iterable[tuple[Study, PlannedRun]]) -> list[Node]:
    """The cells, each run once; a label names task and budget where the studies differ in them."""
    tasks = len({s.task.name for s in studies}) > 1
    budgets = len({_budget(s.options) for s in studies}) > 1
    out: dict[str, Node] = {}
    for study, cell in cells:
        label = cell.label + (f", {study.task.name}" if tasks else "")
        label += f", {_budget(study.options)}" if budgets and not cell.is_start else ""
        run = spec_id(cell.spec)
        out.setdefault(run, Node(study, cell, run, label))
    return list(out.values())


def _budget(options: Options) -> str:
    if options.train_flops is not None:
        return f"train-flops={options.train_flops:.4g}"
    return "the recipe's examples" if options.examples is None else f"examples={options.examples}"


class Runner:
    """Runs studies on an engine; what has no result is in `failures`, by run id.

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
        self.failures: dict[str, Failure] = {}
        self.trials: dict[str, Trial] = {}
        self.done: set[str] = set()

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.engine.close()

    @property
    def code(self) -> int:
        """The exit code of it all: 0, 2 where the user can act on every failure, 70 where a process died."""
        states = {f.state for f in self.failures.values()}
        return 70 if "failed" in states else 2 if states else 0

    def run(self, studies: Sequence[Study]) -> list[list[Run]]:
        """Train and evaluate every cell that is not done yet; returns each study's finished arms.

        Raises:
            UsageError: what is refused before anything trains.
        """
        for study in studies:
            study.warn(self.reporter, self.evaluation)
            study.check_budget()
        if tuned := [s for s in studies if s.options.tune is not None]:
            self._work(
                nodes(studies, [(s, c) for s in tuned for c in (*(c for c in s.cells if c.is_start), *s.trials)])
            )
            for study in tuned:
                self._choose(study)
        arms = nodes(studies, [(s, c) for s in studies for c in s.cells])
        self._work([n for n in arms if not (n.cell.is_start and n.id in self.done)])
        return [
            [Run(s.store.folder / i) for c in s.cells if not c.is_start and (i := spec_id(c.spec)) in self.done]
            for s in studies
        ]

    def _choose(self, study: Study) -> None:
        """Every method's learning rate, from its trials; the arms of a method without one are not started."""
        grid = study.options.tune
        assert grid is not None
        choices: dict[str, Choice] = {}
        without: dict[str, str] = {}
        for name in dict.fromkeys(c.method.name for c in study.trials):
            cells = [c for c in study.trials if c.method.name == name]
            if any(spec_id(c.spec) not in self.trials for c in cells):
                without[name] = "a trial of its learning rate has no result"
                continue
            try:
                choices |= run_trials(study, cells, grid, self.reporter, self.trials)
            except UsageError as error:  # all of them diverged
                without[name] = str(error)
        study.choose(choices)
        for node in nodes([study], [(study, c) for c in study.cells if not c.is_start and c.method.name in without]):
            self._fail(node, "not started", without[node.cell.method.name], 0)

    # The cells

    def _work(self, given: Sequence[Node]) -> None:
        """Bring every cell to an end."""
        waiting = {n.id: n for n in given if n.id not in self.failures and not self._settled(n)}
        busy: dict[str, tuple[Node, int]] = {}
        total = len(waiting)
        for node in waiting.values():
            self.reporter.note(f"queued: {node.label} ({node.id})")
        while waiting or busy:
            for node in list(waiting.values()):
                if node.parent in self.failures:
                    del waiting[node.id]
                    self._fail(node, "not started", f"{self.failures[node.parent].label} has no result", 0)
                elif self.engine.room and node.parent not in waiting and node.parent not in busy:
                    busy[node.id] = (waiting.pop(node.id), 1)
                    self._start(node)
            for job, told in self.engine.wait() if busy else ():
                node, attempt = busy.pop(job.run)
                if told.state == "failed" and attempt < ATTEMPTS:
                    self.reporter.note(f"died: {node.label}: {told.reason}; once more {self._from(node)}")
                    busy[node.id] = (node, attempt + 1)
                    self.engine.start(job)
                else:
                    self._ended(node, told, attempt, f"{total - len(waiting) - len(busy)} of {total}")

    def _start(self, node: Node) -> None:
        study = node.study
        options = dataclasses.replace(
            study.options, device=study.options.device or study.device.type
        )  # as the specifications say
        given: dict[str, Any] = {
            "evaluation": self.evaluation,
            "choices": study.choices,
            "sets": self.sets,
            "threads": self.threads,
        }
        given["together"] = self.engine.together
        self.engine.start(Job(options, node.id, node.label, Path.cwd(), **given))
        self.reporter.note(f"running: {node.label}{', ' + self._from(node) if node.run.latest_checkpoint() else ''}")

    @staticmethod
    def _from(node: Node) -> str:
        found = None if node.run.trained else node.run.latest_checkpoint()
        return (
            "with the trained weights"
            if node.run.trained
            else f"from step {found[0]}"
            if found
            else "from the beginning"
        )

    def _ended(self, node: Node, told: JobResult, attempts: int, count: str) -> None:
        if told.state == "done":
            if told.trial is not None:
                self.trials[node.id] = told.trial
            validation = (node.run.training() or TrainingRecord()).get("validation")
            share = (
                ""
                if validation is None
                else f", {100 * validation['accuracy']:.1f} % on validation (n = {validation['n']})"
            )
            self.reporter.note(f"done: {node.label}{share}, {told.seconds:.0f} s ({count})")
            for line in told.notes:
                self.reporter.note(f"  {line}")
            self._finished(node)
        else:
            self._fail(node, told.state, told.reason, attempts, told.trace)

    def _finished(self, node: Node) -> None:
        """A cell has its result; a start is looked at before anything begins from it."""
        if node.cell.is_start:
            try:
                node.study.check_start(node.cell, node.run, RecordingReporter())  # its accuracy was told
            except UsageError as error:
                self._fail(node, "refused", str(error), 1)
                return
        self.done.add(node.id)

    def _fail(
        self,
        node: Node,
        state: Literal["refused", "failed", "not started"],
        reason: str,
        attempts: int,
        trace: str = "",
    ) -> None:
        self.failures[node.id] = Failure(node.label, node.id, state, reason, attempts, trace)
        self.reporter.note(f"{state}: {node.label}: {reason}")

    def _settled(self, node: Node) -> bool:
        """Whether nothing is left to do for a cell but what takes no time, which is then done: it gets no process."""
        study, cell, run = node.study, node.cell, node.run
        try:
            if not run.trained:
                return False
            if cell.role == "trial":
                self.trials[node.id] = train_trial(study, cell, self.reporter)
            elif cell.is_start or not self.evaluation:
                study.train(cell, self.reporter)
            elif self.sets is None and study.evaluated(cell, run):
                study.train(cell, self.reporter)
                study.evaluate(cell, run, self.reporter)
            else:
                return False
        except UsageError as error:
            self._fail(node, "refused", str(error), 1)
            return True
        self._finished(node)
        return True


def open_runner(
    name: str,
    workers: int | None,
    settings: Mapping[str, Any],
    studies: Sequence[Study],
    reporter: Reporter,
    *,
    sets: EvaluationSets | None = None,
    evaluation: bool = True,
) -> Runner:
    """A runner of these studies on the engine of that name."""
    first = studies[0]
    cuda = first.device.type == "cuda"
    if cuda and name == "local" and first.options.device in (None, "cuda"):
        gpus = visible_gpus(torch.cuda.device_count())
    else:
        gpus = []
    if not cuda and name != "local" and first.options.device is None:
        reporter.note(
            "the cells compute on cpu, as this machine has no GPU: --device cuda is for a cluster that has some"
        )
    engine = open_engine(name, workers, settings, folder=first.options.out / "submitit", gpu=cuda, gpus=gpus)
    threads = None if engine.elsewhere or cuda else max(1, min(torch.get_num_threads(), cores() // max(1, engine.room)))
    return Runner(engine, reporter, evaluation=evaluation, sets=sets, threads=threads)


def visible_gpus(count: int) -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    named = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    return named[:count] if named else [str(i) for i in range(count)]


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
