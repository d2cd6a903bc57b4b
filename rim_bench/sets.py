"""Further evaluation sets of trained runs: planned before anything is trained, evaluated one by one, what is done not done again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rim_bench.data import Task, load_task, task_names
from rim_bench.errors import UsageError
from rim_bench.generate import Sampling
from rim_bench.omitted import record_omitted
from rim_bench.run_options import QUICK_ROWS, Options, Reporter
from rim_bench.store import Run
from rim_bench.stored import Subject, accuracy_text, evaluate_stored
from rim_bench.suites import asked, readable
from rim_bench.unseen import CannotBeAsked
from rim_bench.votes import votes_record

if TYPE_CHECKING:
    from rim_bench.lm_eval_tasks import LmEvalTask

PREFIX = "lm-eval:"
"""In front of a name: lm-eval's task of that name, where rim-bench has one of its own (`lm-eval:gsm8k`)."""


@dataclass(frozen=True)
class Wanted:
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
class Sets:
    """Sets that can be evaluated, and name -> reason of those that cannot."""

    ours: tuple[Task, ...]
    theirs: tuple[LmEvalTask, ...]
    missing: dict[str, str]
    strict: bool


def plan_sets(wanted: Wanted, options: Options, reporter: Reporter, split: str = "test") -> Sets:
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
        raise UsageError(f"lm-eval chooses the documents of its tasks itself: leave out --split {split}, or the task {foreign[0]!r}")
    tasks = {task.name: task for task in map(load_task, mine)}
    limit = QUICK_ROWS if options.limit is None and options.quick else options.limit
    where: dict[str, Any] = {"data": options.data, "steps": options.steps, "allow_changed": options.allow_changed_data}
    found, missing = readable(tasks.values(), limit=limit, split=split, **where)
    theirs: list[LmEvalTask] = []
    if foreign:
        from rim_bench.lm_eval_tasks import load_lm_eval_tasks

        theirs, unloaded = load_lm_eval_tasks(foreign, wanted.include_path)
        missing |= {PREFIX + name: reason for name, reason in unloaded.items()}
    if wanted.strict and missing:
        raise UsageError("not every set can be evaluated: " + "; ".join(f"{name}: {reason}" for name, reason in missing.items()))
    for name, reason in missing.items():
        reporter.note(f"{name} will not be evaluated: {reason}")
    return Sets(tuple(task for task, _ in found), tuple(theirs), missing, wanted.strict)


@dataclass(frozen=True)
class How:
    """How the sets are evaluated, equal for all of them."""

    split: str = "test"
    effort: int | None = None
    sampling: Sampling | None = None
    split_passes: bool = False
    repeat: bool = False
    turned: bool = True  # whether a cap of tokens is a knob that was turned; else it is the setting of all runs


def evaluate_sets(runs: Iterable[Run], sets: Sets, options: Options, reporter: Reporter, how: How | None = None) -> list[str]:
    """Every run on every set but its own task; a line about each stored evaluation.

    Raises:
        UsageError: with `strict`, a set that a run cannot be asked; a repeat of one of lm-eval's own tasks, whose order is lm-eval's.
    """
    how, lines = how or How(), []
    if how.repeat and sets.theirs:
        raise UsageError(f"--repeat is for rim-bench's own tasks: lm-eval orders the documents of {sets.theirs[0].name!r} itself")
    for run in runs:
        subject = Subject(run, options.device, options.data)
        missing, evaluated = dict(sets.missing), []
        own = _asked_anyway(run, how.split)
        missing = {name: reason for name, reason in missing.items() if name not in own}
        asked_of: list[tuple[str, Task | LmEvalTask]] = [(t.name, t) for t in sets.ours if not {t.name, _asked(t, how.split)} & own]
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
        record_omitted(run, missing, evaluated)
    return lines


def _asked_anyway(run: Run, split: str) -> set[str]:
    """A run's own task, and the one whose questions that asks."""
    name = run.spec["task"]["name"]
    return {name} | ({_asked(load_task(name), split)} if name in task_names() else set())


def _asked(task: Task, split: str) -> str:
    return task.asked if split == "test" else task.name


def _ours(run: Run, task: Task, options: Options, reporter: Reporter, how: How, subject: Subject) -> str:
    """One of our own sets; returns its accuracy in words."""
    steps: Any = options.steps if task.metadata["source"] == "annotated" else "equations"
    shipped = task.name in task_names() and load_task(task.name).path == task.path
    asked_of = dataclasses.replace(options, task=task.name if shipped else str(task.path), files=None, steps=steps)
    summary = evaluate_stored(
        run, asked_of, how.effort, how.split, reporter, sampling=how.sampling, split_passes=how.split_passes, subject=subject,
        turned=how.turned, repeat=how.repeat,
    )  # fmt: skip
    return accuracy_text(run, summary)


def _theirs(run: Run, one: LmEvalTask, options: Options, reporter: Reporter, how: How, subject: Subject) -> str:
    """One of lm-eval's tasks; returns its metrics in words."""
    from rim_bench.lm_eval_tasks import LmEvalRequest

    quick = options.quick or bool(run.spec.get("quick"))
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
            stored = request.evaluate(run, subject.trained, lambda n, total: reporter.evaluating(label, n, total), **about)
            reporter.finished(label)
    told = ", ".join(f"{name.removesuffix(',none')} {value:.4f}" for name, value in stored["metrics"].items() if value is not None)
    return f"{told} on {stored['documents']} ({one.name}, lm-eval's own scorers)"

