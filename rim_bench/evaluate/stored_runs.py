"""One more evaluation of a stored run: what `rim-bench eval` and `sweep` ask of it.

Further sets are planned before anything is trained and evaluated one by one; what is done is not done again.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rim_bench.data.leakage import count_overlap
from rim_bench.data.reader import Files
from rim_bench.data.suites import asked, readable
from rim_bench.data.task import Task, load_task, task_names, task_of
from rim_bench.engine.devices import pick_device
from rim_bench.engine.execution import ALONE, ExecutionContext
from rim_bench.engine.trained_model import TrainedModel, load_trained
from rim_bench.evaluate.evaluation import EvaluationRequest, evaluate, evaluate_run, evaluated
from rim_bench.evaluate.options import LM_EVAL, QUICK_ROWS, EvaluationSets, StoredRunOptions, usual_tokens
from rim_bench.evaluate.self_consistency import votes_record
from rim_bench.evaluate.vocabulary_check import CannotBeAsked, about, training_rows
from rim_bench.methods.registry import method_of
from rim_bench.storage.records import EvaluationRecord, ItemRecord, LmEvalRecord, OverlapRecord
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError
from rim_bench.util.flags import refuse_unused
from rim_bench.util.progress import Reporter

if TYPE_CHECKING:
    from rim_bench.evaluate.lm_eval_tasks import LmEvalTask

logger = logging.getLogger(__name__)


class LoadedRun:
    """A trained run, loaded when it is first needed."""

    def __init__(self, run: Run, device: str | None, data: Path | None, execution: ExecutionContext = ALONE) -> None:
        self.run, self.device, self.data, self.execution = run, pick_device(device), data, execution

    @cached_property
    def trained(self) -> TrainedModel:
        """The model, its weights verified."""
        return load_trained(self.run, device=self.device, execution=self.execution)

    def unload(self) -> None:
        """Let go of the model; it is loaded again when it is needed again."""
        self.__dict__.pop("trained", None)

    def about(self, name: str, questions: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """What a summary says of an evaluation on another task than the run's (`vocabulary_check.about`)."""
        return about(self.trained.backbone, self.run.spec, name, questions, self.data)

    def overlap(self, questions: Sequence[str], files: Files | None = None) -> OverlapRecord | None:
        """The questions that stand in the run's training and validation rows; None where these are not there."""
        spec = self.run.spec
        rows = training_rows(spec, self.data, files)
        return None if rows is None else count_overlap(task_of(spec.task.name, self.run.task_file), *rows, questions)

    def evaluate(self, request: EvaluationRequest, label: str, reporter: Reporter) -> EvaluationRecord:
        """The stored record of a request, which is evaluated where it is not stored yet."""
        if (stored := evaluated(self.run, request)) is not None:
            return stored
        examples, own = request.dataset().examples, request.task.name == self.run.spec.task.name
        more: dict[str, Any] = {}
        if not own:
            more = self.about(request.task.title, [(e.id, e.question) for e in examples])
        if not request.curve:  # a point of a curve has its run's default evaluation beside it, which says it
            more["overlap"] = self.overlap([e.question for e in examples], request.files if own else None)
        stored = evaluate_run(
            self.run, self.trained, request, lambda done, total: reporter.evaluating(label, done, total), more
        )
        reporter.finished(label)
        return stored

    def evaluate_lm_eval(self, task: LmEvalTask, options: StoredRunOptions, reporter: Reporter) -> LmEvalRecord:
        """The stored record on one of lm-eval's tasks, which is evaluated where it is not stored yet."""
        from rim_bench.evaluate.lm_eval_tasks import LmEvalRequest

        run, quick = self.run, options.quick or self.run.spec.quick
        note_quick(run, options, reporter)
        limit = QUICK_ROWS if options.limit is None and quick else options.limit
        drawn = {} if options.sampling is None else votes_record(options.sampling)
        request = LmEvalRequest(
            task,
            limit,
            quick=quick,
            effort=options.effort,
            split_passes=options.split_passes,
            votes=tuple(drawn.items()),
            max_tokens=options.max_tokens,
            batch_size=options.eval_batch_size,
            device=self.device.type,
        )
        with run.lock():
            if (stored := request.stored(run)) is not None:
                return stored
            questions, label = task.questions(limit), f"{run.id} on {task.name}"
            more = self.about(task.name, questions)
            if (shared := self.overlap([text for _, text in questions])) is not None:
                more["overlap"] = shared
            stored = request.evaluate(
                run, self.trained, lambda done, total: reporter.evaluating(label, done, total), **more
            )
            reporter.finished(label)
            return stored


def note_quick(run: Run, options: StoredRunOptions, reporter: Reporter) -> None:
    """Says that a plumbing check is asked few questions, where that was not asked for."""
    if run.spec.quick and not options.quick and options.limit is None and run.spec.task.limit is None:
        reporter.note(
            f"{run.id} was trained with --quick, a plumbing check: it is asked the first {QUICK_ROWS} questions, and "
            "--limit N more of them"
        )


def stored_request(run: Run, options: StoredRunOptions) -> EvaluationRequest:
    """The evaluation that `rim-bench run` makes of a run, or that of another task with the same options."""
    own_task = run.spec.task
    task = load_task(options.task) if options.task else task_of(own_task.name, run.task_file)
    own, quick = task.name == own_task.name, options.quick or run.spec.quick
    limit = options.limit if options.limit is not None or not own else own_task.limit
    if limit is None and quick:
        limit = QUICK_ROWS
    return EvaluationRequest(
        task,
        options.data,
        options.files,
        own_task.steps if own else options.steps,  # else the data's hash would differ from the run's
        limit,
        options.split,
        max_tokens=options.max_tokens or usual_tokens(task, method_of(run.spec.method)),
        batch_size=options.eval_batch_size,
        quick=quick,
        device=pick_device(options.device).type,
        allow_changed=options.allow_changed_data,
    )


def check_used(runs: Sequence[Run], options: StoredRunOptions, *, sets: bool = False) -> None:
    """Refuses options that no evaluation of these runs has a use for.

    Args:
        sets: further sets are evaluated; the runs' own tasks then are not, unless `options` names a task.

    Raises:
        UsageError: one was given.
    """
    if sets and not options.task:
        refuse_unused(options, "files", "further sets are evaluated, and the files are one task's (--task)")
        return
    writes = any(method_of(run.spec.method).writes_steps for run in runs)
    if options.task:  # before the runs' own are looked for: it may be the file of one
        asked = [load_task(options.task)]
    else:
        asked = [task_of(run.spec.task.name, run.task_file) for run in runs]
    if all(task.metadata["source"] == "generator" for task in asked):
        refuse_unused(options, "files", "the task is generated and reads no file")
        others = {run.spec.task.name for run in runs} - {task.name for task in asked}  # whose training rows are read
        shipped = task_names()
        if not sets and all(n in shipped and load_task(n).metadata["source"] == "generator" for n in others):
            refuse_unused(options, "data", "these tasks are generated and read no file")
    for run, task in zip(runs, asked * len(runs) if options.task else asked, strict=True):
        if task.name == run.spec.task.name and options.steps != run.spec.task.steps:
            refuse_unused(options, "steps", f"run {run.id} is asked its own task as it was trained on it")
    if not sets and not writes and all(task.form == "choice" for task in asked):
        refuse_unused(options, "max_tokens", "the questions are multiple choice, and none of these runs writes steps")


def evaluate_stored(
    run: Run,
    options: StoredRunOptions,
    reporter: Reporter,
    *,
    subject: LoadedRun | None = None,
    turned: bool = True,
    execution: ExecutionContext = ALONE,
) -> EvaluationRecord:
    """The stored record of one more evaluation of a trained run, on its own task unless another is named.

    Args:
        subject: the run once loaded, where several evaluations share it.
        turned: another cap of tokens than the recipe's is a knob that was turned; False: it is the setting of a whole
            comparison, as in `rim-bench run --max-tokens`.
    """
    if options.split != "validation" and (reason := run.spec.kept_apart):
        raise CannotBeAsked(
            f"run {run.id} is not evaluated on {options.split}: {reason.value}; `rim-bench run` makes runs that are"
        )
    began = time.perf_counter()
    request = stored_request(run, options)
    drawn = {} if options.sampling is None else votes_record(options.sampling)
    subject = subject or LoadedRun(run, options.device, options.data, execution)
    request = dataclasses.replace(
        request,
        effort=options.effort,
        capped=turned and request.max_tokens != usual_tokens(request.task, method_of(run.spec.method)),
        split_passes=options.split_passes,
        repeat=options.repeat,
        **drawn,
    )
    label = run.id if request.task.name == run.spec.task.name else f"{run.id} on {request.task.name}"
    note_quick(run, options, reporter)
    with run.lock():
        stored = subject.evaluate(request, label, reporter)
    logger.info("evaluated %s in %.1f s", run.id, time.perf_counter() - began)
    return stored


Evaluated = tuple[EvaluationRecord, list[ItemRecord]]


def evaluate_now(
    run: Run,
    task: str,
    asked: Mapping[str, Any],
    options: StoredRunOptions,
    reporter: Reporter,
    execution: ExecutionContext = ALONE,
) -> Evaluated:
    """Summary and items of an evaluation that is made now, whatever is stored, and is not stored.

    Args:
        task: its name; where it is a file of one's own, `options` name that.
        asked: fields of `EvaluationRequest` beside the task.

    Raises:
        UsageError: a run without weights, or questions that cannot be read or asked.
    """
    if asked["split"] != "validation" and (reason := run.spec.kept_apart):
        raise CannotBeAsked(f"run {run.id} is not evaluated on {asked['split']}: {reason.value}")
    own = run.spec.task.name == task
    request = stored_request(run, dataclasses.replace(options, task=options.task or ("" if own else task)))
    fields = {name: value for name, value in asked.items() if value is not None} | {"limit": asked["limit"]}
    request = dataclasses.replace(request, **fields)
    subject = LoadedRun(run, options.device, options.data, execution)
    if not own:
        subject.about(request.task.title, [(e.id, e.question) for e in request.dataset().examples])
    items, summary = evaluate(subject.trained, request, lambda done, total: reporter.evaluating(run.id, done, total))
    reporter.finished(run.id)
    return summary, items


def accuracy_text(run: Run, summary: EvaluationRecord) -> str:
    """A stored evaluation's accuracy in words."""
    key = next(key for key, stored in run.evaluations().items() if stored == summary)
    correct = sum(item.correct for item in run.read_items(key))
    return f"{100 * correct / summary.n:.2f} % of {summary.n} ({summary.task_title}, {summary.split})"


@dataclass(frozen=True)
class EvaluationPlan:
    """Sets that can be evaluated, rim-bench's and lm-eval's, and name -> reason of those that cannot."""

    tasks: tuple[Task, ...]
    lm_eval_tasks: tuple[LmEvalTask, ...]
    missing: dict[str, str]
    strict: bool


def plan_sets(wanted: EvaluationSets, options: StoredRunOptions, reporter: Reporter) -> EvaluationPlan:
    """Read every set once, before anything is trained; a line for each that cannot be evaluated.

    Raises:
        UsageError: a suite or a task that does not exist; with `strict`, any set that cannot be evaluated.
    """
    names, split = asked(wanted.suites, wanted.names), options.split
    known = task_names()
    own = [n for n in names if n in known or n.endswith((".yaml", ".yml"))]
    foreign = [n.removeprefix(LM_EVAL) for n in names if n not in own]
    if wanted.include_path is not None and not foreign:
        raise UsageError("--include-path is for lm-eval tasks: name one with --eval-tasks, or leave it out")
    if foreign and split != "test":
        raise UsageError(
            f"lm-eval chooses the documents of its tasks itself: leave out --split {split}, or the task {foreign[0]!r}"
        )
    tasks = {task.name: task for task in map(load_task, own)}
    limit = QUICK_ROWS if options.limit is None and options.quick else options.limit
    where: dict[str, Any] = {"data": options.data, "steps": options.steps, "allow_changed": options.allow_changed_data}
    sets, missing = readable(tasks.values(), limit=limit, split=split, **where)
    lm_eval_tasks: list[LmEvalTask] = []
    if foreign:
        from rim_bench.evaluate.lm_eval_tasks import load_lm_eval_tasks

        lm_eval_tasks, unloaded = load_lm_eval_tasks(foreign, wanted.include_path)
        missing |= {LM_EVAL + name: reason for name, reason in unloaded.items()}
    if wanted.strict and missing:
        raise UsageError(
            "not every set can be evaluated: " + "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        )
    for name, reason in missing.items():
        reporter.note(f"{name} will not be evaluated: {reason}")
    return EvaluationPlan(tuple(task for task, _ in sets), tuple(lm_eval_tasks), missing, wanted.strict)


def evaluate_sets(
    runs: Iterable[Run],
    sets: EvaluationPlan,
    options: StoredRunOptions,
    reporter: Reporter,
    *,
    turned: bool = True,
    execution: ExecutionContext = ALONE,
) -> list[str]:
    """Every run on every set but its own task; a line about each stored evaluation.

    Raises:
        UsageError: with `strict`, a set that a run cannot be asked; a repeat of one of lm-eval's own tasks, whose order
            is lm-eval's.
    """
    lines: list[str] = []
    if options.repeat and sets.lm_eval_tasks:
        name = sets.lm_eval_tasks[0].name
        raise UsageError(f"--repeat is for rim-bench's own tasks: lm-eval orders the documents of {name!r} itself")
    for run in runs:
        subject = LoadedRun(run, options.device, options.data, execution)
        own = {run.spec.task.name}  # the run's own task, and the one whose questions that asks
        if run.spec.task.name in task_names():
            own.add(_question_source(load_task(run.spec.task.name), options.split))
        missing = {name: reason for name, reason in sets.missing.items() if name not in own}
        evaluated = []
        left: list[tuple[str, Task | LmEvalTask]] = [
            (t.name, t) for t in sets.tasks if not {t.name, _question_source(t, options.split)} & own
        ]
        left += [(LM_EVAL + t.name, t) for t in sets.lm_eval_tasks]
        for name, task in left:
            try:
                if isinstance(task, Task):
                    steps = options.steps if task.metadata["source"] == "annotated" else "equations"
                    shipped = task.name in task_names() and load_task(task.name).path == task.path
                    where = task.name if shipped else str(task.path)
                    for_task = dataclasses.replace(options, task=where, files=None, steps=steps)
                    stored = evaluate_stored(run, for_task, reporter, subject=subject, turned=turned)
                    text = accuracy_text(run, stored)
                else:
                    measured = subject.evaluate_lm_eval(task, options, reporter)
                    scores = ", ".join(
                        f"{k.removesuffix(',none')} {v:.4f}" for k, v in measured.metrics.items() if v is not None
                    )
                    text = f"{scores} on {measured.documents} ({task.name}, lm-eval's own scorers)"
                lines.append(f"{run.id}: {text}")
                evaluated.append(name)
            except CannotBeAsked as error:
                if sets.strict:
                    raise
                missing[name] = str(error)
                reporter.note(str(error))
        run.record_not_evaluated(missing, evaluated)
    return lines


def _question_source(task: Task, split: str) -> str:
    """The name of the task whose questions a task asks."""
    return task.asked if split == "test" else task.name
