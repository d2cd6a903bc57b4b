"""One more evaluation of a stored run: what `rim-bench eval` and `sweep` ask of it."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from rim_bench.data import load_task
from rim_bench.evaluate import Request, evaluate_run, evaluated
from rim_bench.generate import Sampling
from rim_bench.run_options import QUICK_ROWS, Options, Reporter
from rim_bench.selection import kept_apart
from rim_bench.store import Run
from rim_bench.trained import Trained, load_trained, pick_device
from rim_bench.unseen import CannotBeAsked, about
from rim_bench.votes import votes_record

logger = logging.getLogger(__name__)


class Subject:
    """A trained run, loaded when it is first needed."""

    def __init__(self, run: Run, device: str | None, data: Path | None) -> None:
        self.run, self.device, self.data = run, pick_device(device), data

    @cached_property
    def trained(self) -> Trained:
        """The model, its weights verified."""
        return load_trained(self.run, device=self.device)

    def told(self, name: str, questions: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """What a summary says of an evaluation on another task than the run's (`rim_bench.unseen.about`)."""
        return about(self.trained.backbone, self.run.spec, name, questions, self.data)


def told_of(run: Run, trained: Trained, request: Request, data: Path | None) -> dict[str, Any]:
    """The same of a request; nothing where it is the run's own task."""
    if request.task.name == run.spec["task"]["name"]:
        return {}
    questions = [(e.id, e.question) for e in request.dataset().examples]
    return about(trained.backbone, run.spec, request.task.title, questions, data)


def stored_request(run: Run, options: Options, split: str = "test") -> Request:
    """The evaluation that `rim-bench run` makes of a run, or that of another task with the same options."""
    given = run.spec["task"]
    task = load_task(options.task or given["name"])
    own, quick = task.name == given["name"], options.quick or bool(run.spec.get("quick"))
    limit = options.limit if options.limit is not None or not own else given.get("limit")
    if limit is None and quick:
        limit = QUICK_ROWS
    cap = options.max_tokens or int(task.recipe.get("max_tokens", 128))
    steps = given["steps"] if own else options.steps  # else the data's hash would differ from the run's
    device = pick_device(options.device).type
    return Request(
        task, options.data, options.files, steps, limit, split, None, cap, options.eval_batch_size, quick, device=device,
        allow_changed=options.allow_changed_data,
    )  # fmt: skip


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
    subject: Subject | None = None,
    turned: bool = True,
) -> dict[str, Any]:
    """`rim-bench eval`: one more evaluation of a trained run, on its own task unless another is named.

    `subject` is the run once loaded, where several evaluations share it. Another cap than the task's recipe has is a knob that was turned,
    or (`turned` False) the setting of a whole comparison, as in `rim-bench run --max-tokens`.
    """
    if split != "validation" and (reason := kept_apart(run.spec)):
        raise CannotBeAsked(f"run {run.id} is not evaluated on {split}: {reason}; `rim-bench run` makes runs that are")
    began = time.perf_counter()
    request = stored_request(run, options, split)
    usual = int(request.task.recipe.get("max_tokens", 128))
    drawn = {} if sampling is None else votes_record(sampling)
    capped = turned and request.max_tokens != usual
    request = dataclasses.replace(request, effort=effort, capped=capped, split_passes=split_passes, repeat=repeat, **drawn)
    with run.lock():
        stored = evaluated(run, request)
        if stored is None:
            subject = subject or Subject(run, options.device, options.data)
            told = told_of(run, subject.trained, request, options.data)
            label = f"{run.id} on {request.task.name}" if told else run.id
            stored = evaluate_run(run, subject.trained, request, lambda done, total: reporter.evaluating(label, done, total), told)
            reporter.finished(label)
    logger.info("evaluated %s in %.1f s", run.id, time.perf_counter() - began)
    return stored


def accuracy_text(run: Run, summary: Mapping[str, Any]) -> str:
    """A stored evaluation's accuracy in words."""
    key = next(key for key, stored in run.evaluations().items() if stored == summary)
    correct = sum(bool(item["correct"]) for item in run.read_items(key))
    return f"{100 * correct / summary['n']:.2f} % of {summary['n']} ({summary['task_title']}, {summary['split']})"
