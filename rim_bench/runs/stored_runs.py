"""One more evaluation of a stored run: what `rim-bench eval` and `sweep` ask of it.

Further evaluation sets of trained runs: planned before anything is trained, evaluated one by one, what is done not done
    again.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rim_bench.data.suites import asked, readable
from rim_bench.data.task import Task, load_task, task_names
from rim_bench.engine.devices import pick_device
from rim_bench.engine.execution import ALONE, ExecutionContext
from rim_bench.engine.generate import Sampling
from rim_bench.engine.trained_model import TrainedModel, load_trained
from rim_bench.evaluate.evaluation import EvaluationRequest, evaluate_run, evaluated
from rim_bench.evaluate.self_consistency import votes_record
from rim_bench.evaluate.vocabulary_check import CannotBeAsked, about
from rim_bench.runs.options import QUICK_ROWS, Options
from rim_bench.storage.records import EvaluationRecord
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError
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

    def told(self, name: str, questions: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """What a summary says of an evaluation on another task than the run's
        (`rim_bench.evaluate.vocabulary_check.about`).
        """
        return about(self.trained.backbone, self.run.spec, name, questions, self.data)


def told_of(run: Run, trained: TrainedModel, request: EvaluationRequest, data: Path | None) -> dict[str, Any]:
    """The same of a request; nothing where it is the run's own task."""
    if request.task.name == run.spec.task.name:
        return {}
    questions = [(e.id, e.question) for e in request.dataset().examples]
    return about(trained.backbone, run.spec, request.task.title, questions, data)


def stored_request(run: Run, options: Options, split: str = "test") -> EvaluationRequest:
    """The evaluation that `rim-bench run` makes of a run, or that of another task with the same options."""
    trained_on = run.spec.task
    task = load_task(options.task or trained_on.name)
    own, quick = task.name == trained_on.name, options.quick or run.spec.quick
    limit = options.limit if options.limit is not None or not own else trained_on.limit
    if limit is None and quick:
        limit = QUICK_ROWS
    cap = options.max_tokens or int(task.recipe.get("max_tokens", 128))
    steps = trained_on.steps if own else options.steps  # else the data's hash would differ from the run's
    device = pick_device(options.device).type
    return EvaluationRequest(
        task,
        options.data,
        options.files,
        steps,
        limit,
        split,
        None,
        cap,
        options.eval_batch_size,
        quick,
        device=device,
        allow_changed=options.allow_changed_data,
    )


def evaluate_stored(
    run: Run,
    options: Options,
    effort: int | None,
    split: str,
    reporter: Reporter,
    *,
    sampling: Sampling | None = None,
    split_passes: bool = False,
    repeat: bool = False,
    subject: LoadedRun | None = None,
    turned: bool = True,
    execution: ExecutionContext = ALONE,
) -> EvaluationRecord:
    """`rim-bench eval`: one more evaluation of a trained run, on its own task unless another is named.

    `subject` is the run once loaded, where several evaluations share it. Another cap than the task's recipe has is a
    knob that was turned, or (`turned` False) the setting of a whole comparison, as in `rim-bench run --max-tokens`.
    """
    if split != "validation" and (reason := run.spec.kept_apart):
        raise CannotBeAsked(
            f"run {run.id} is not evaluated on {split}: {reason.value}; `rim-bench run` makes runs that are"
        )
    began = time.perf_counter()
    request = stored_request(run, options, split)
    usual = int(request.task.recipe.get("max_tokens", 128))
    drawn = {} if sampling is None else votes_record(sampling)
    capped = turned and request.max_tokens != usual
    request = dataclasses.replace(
        request, effort=effort, capped=capped, split_passes=split_passes, repeat=repeat, **drawn
    )
    with run.lock():
        stored = evaluated(run, request)
        if stored is None:
            subject = subject or LoadedRun(run, options.device, options.data, execution)
            told = told_of(run, subject.trained, request, options.data)
            label = f"{run.id} on {request.task.name}" if told else run.id
            stored = evaluate_run(
                run, subject.trained, request, lambda done, total: reporter.evaluating(label, done, total), told
            )
            reporter.finished(label)
    logger.info("evaluated %s in %.1f s", run.id, time.perf_counter() - began)
    return stored


def accuracy_text(run: Run, summary: EvaluationRecord) -> str:
    """A stored evaluation's accuracy in words."""
    key = next(key for key, stored in run.evaluations().items() if stored == summary)
    correct = sum(item.correct for item in run.read_items(key))
    return f"{100 * correct / summary.n:.2f} % of {summary.n} ({summary.task_title}, {summary.split})"


PREFIX = "lm-eval:"
"""In front of a name: lm-eval's task of that name, where rim-bench has one of its own (`lm-eval:gsm8k`)."""


@dataclass(frozen=True)
class EvaluationSets:
    """What the command line asks for beside a run's own task."""

    suites: tuple[str, ...] = ()
    names: tuple[str, ...] = ()  # of rim-bench's tasks, YAML files, or lm-eval's tasks
    include_path: Path | None = None
    strict: bool = False  # a set that cannot be evaluated is an error

    @property
    def any(self) -> bool:
        """Whether there is anything."""
        return bool(self.suites or self.names)


@dataclass(frozen=True)
class EvaluationPlan:
    """Sets that can be evaluated, and name -> reason of those that cannot."""

    ours: tuple[Task, ...]
    theirs: tuple[LmEvalTask, ...]
    missing: dict[str, str]
    strict: bool


def plan_sets(wanted: EvaluationSets, options: Options, reporter: Reporter, split: str = "test") -> EvaluationPlan:
    """Read every set once, before anything is trained; a line for each that cannot be evaluated.

    Raises:
        UsageError: a suite or a task that does not exist; with `strict`, any set that cannot be evaluated.
    """
    names = asked(wanted.suites, wanted.names)
    known = task_names()
    mine = [n for n in names if n in known or n.endswith((".yaml", ".yml"))]
    foreign = [n.removeprefix(PREFIX) for n in names if n not in mine]
    if wanted.include_path is not None and not foreign:
        raise UsageError("--include-path is for lm-eval tasks: name one with --eval-tasks, or leave it out")
    if foreign and split != "test":
        raise UsageError(
            f"lm-eval chooses the documents of its tasks itself: leave out --split {split}, or the task {foreign[0]!r}"
        )
    tasks = {task.name: task for task in map(load_task, mine)}
    limit = QUICK_ROWS if options.limit is None and options.quick else options.limit
    where: dict[str, Any] = {"data": options.data, "steps": options.steps, "allow_changed": options.allow_changed_data}
    found, missing = readable(tasks.values(), limit=limit, split=split, **where)
    theirs: list[LmEvalTask] = []
    if foreign:
        from rim_bench.evaluate.lm_eval_tasks import load_lm_eval_tasks

        theirs, unloaded = load_lm_eval_tasks(foreign, wanted.include_path)
        missing |= {PREFIX + name: reason for name, reason in unloaded.items()}
    if wanted.strict and missing:
        raise UsageError(
            "not every set can be evaluated: " + "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        )
    for name, reason in missing.items():
        reporter.note(f"{name} will not be evaluated: {reason}")
    return EvaluationPlan(tuple(task for task, _ in found), tuple(theirs), missing, wanted.strict)


@dataclass(frozen=True)
class EvalOptions:
    """How the sets are evaluated, equal for all of them."""

    split: str = "test"
    effort: int | None = None
    sampling: Sampling | None = None
    split_passes: bool = False
    repeat: bool = False
    turned: bool = True  # whether a cap of tokens is a knob that was turned; else it is the setting of all runs


def evaluate_sets(
    runs: Iterable[Run],
    sets: EvaluationPlan,
    options: Options,
    reporter: Reporter,
    how: EvalOptions | None = None,
    execution: ExecutionContext = ALONE,
) -> list[str]:
    """Every run on every set but its own task; a line about each stored evaluation.

    Raises:
        UsageError: with `strict`, a set that a run cannot be asked; a repeat of one of lm-eval's own tasks, whose order
            is lm-eval's.
    """
    how, lines = how or EvalOptions(), []
    if how.repeat and sets.theirs:
        raise UsageError(
            f"--repeat is for rim-bench's own tasks: lm-eval orders the documents of {sets.theirs[0].name!r} itself"
        )
    for run in runs:
        subject = LoadedRun(run, options.device, options.data, execution)
        missing, evaluated = dict(sets.missing), []
        own = _asked_anyway(run, how.split)
        missing = {name: reason for name, reason in missing.items() if name not in own}
        asked_of: list[tuple[str, Task | LmEvalTask]] = [
            (t.name, t) for t in sets.ours if not {t.name, _asked(t, how.split)} & own
        ]
        asked_of += [(PREFIX + t.name, t) for t in sets.theirs]
        for name, one in asked_of:
            try:
                given = (options, reporter, how, subject)
                text = _ours(run, one, *given) if isinstance(one, Task) else _theirs(run, one, *given)
                lines.append(f"{run.id}: {text}")
                evaluated.append(name)
            except CannotBeAsked as error:
                if sets.strict:
                    raise
                missing[name] = str(error)
                reporter.note(str(error))
        run.record_not_evaluated(missing, evaluated)
    return lines


def _asked_anyway(run: Run, split: str) -> set[str]:
    """A run's own task, and the one whose questions that asks."""
    name = run.spec.task.name
    return {name} | ({_asked(load_task(name), split)} if name in task_names() else set())


def _asked(task: Task, split: str) -> str:
    return task.asked if split == "test" else task.name


def _ours(run: Run, task: Task, options: Options, reporter: Reporter, how: EvalOptions, subject: LoadedRun) -> str:
    """One of our own sets; returns its accuracy in words."""
    steps: Any = options.steps if task.metadata["source"] == "annotated" else "equations"
    shipped = task.name in task_names() and load_task(task.name).path == task.path
    asked_of = dataclasses.replace(options, task=task.name if shipped else str(task.path), files=None, steps=steps)
    summary = evaluate_stored(
        run,
        asked_of,
        how.effort,
        how.split,
        reporter,
        sampling=how.sampling,
        split_passes=how.split_passes,
        subject=subject,
        turned=how.turned,
        repeat=how.repeat,
    )
    return accuracy_text(run, summary)


def _theirs(
    run: Run, one: LmEvalTask, options: Options, reporter: Reporter, how: EvalOptions, subject: LoadedRun
) -> str:
    """One of lm-eval's tasks; returns its metrics in words."""
    from rim_bench.evaluate.lm_eval_tasks import LmEvalRequest

    quick = options.quick or run.spec.quick
    limit = QUICK_ROWS if options.limit is None and quick else options.limit
    drawn = {} if how.sampling is None else votes_record(how.sampling)
    given: dict[str, Any] = {"effort": how.effort, "split_passes": how.split_passes, "votes": tuple(drawn.items())}
    given |= {"max_tokens": options.max_tokens, "batch_size": options.eval_batch_size, "device": subject.device.type}
    request = LmEvalRequest(one, limit, quick=quick, **given)
    with run.lock():
        stored = request.stored(run)
        if stored is None:
            about = subject.told(one.name, one.questions(limit))
            label = f"{run.id} on {one.name}"
            stored = request.evaluate(
                run, subject.trained, lambda n, total: reporter.evaluating(label, n, total), **about
            )
            reporter.finished(label)
    told = ", ".join(
        f"{name.removesuffix(',none')} {value:.4f}" for name, value in stored.metrics.items() if value is not None
    )
    return f"{told} on {stored.documents} ({one.name}, lm-eval's own scorers)"
