"""What of a task is trained on, what is held out, and what is tested. Training never opens the test split."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal, get_args

from rim_bench.data.options import Steps
from rim_bench.data.reader import Files, NoSplit, Split, TaskReader, Where
from rim_bench.data.task import Task, load_task
from rim_bench.methods.method import Example
from rim_bench.util.errors import UsageError, unknown

VALIDATION_SEED: Final = "rim-bench validation 1"
"""Decides which training rows are held out; no run's seed has a part in it."""
VALIDATION_ROWS: Final = 500
GUESS: Final = "a guess among the choices"
"""What a floor is called where items offer choices."""


def training_data(
    task: Task,
    *,
    data: Path | None = None,
    steps: Steps = "equations",
    seed: int = 0,
    limit: int | None = None,
    files: Files | None = None,
    allow_changed: bool = False,
) -> tuple[Split, Split]:
    """The training and the validation set. The test split is not opened.

    Validation is the task's own validation file where there is one; else it is carved from training: those rows (500,
    at most a tenth) whose questions have the smallest keyed hashes, so that neither a run's seed nor row order matters
    and no question is on both sides.

    Args:
        data: folder of the published files (`DATA/gsm8k/train.jsonl` or `DATA/train.jsonl`); None: `$RIM_BENCH_DATA`,
            then files beside the task's YAML, then (where that variable is not set) the hub.
        steps: the calculator annotations, or the prose without them (annotated sources only).
        seed: of generated training examples; runs that share their data leave it 0. Rows from files ignore it.
        limit: keep the first N training rows and at most N validation rows, after carving.
        files: split -> file; where given, nothing else is read, `data` included.
        allow_changed: take rows whose hash is not the registered one; the splits say so.

    Raises:
        NoSplit: a set that has no training rows.
        ChangedData: rows that are not the registered ones.
        UsageError: a bad limit, missing or malformed files, an unreachable hub.
    """
    _check_request(task, steps, limit)
    reader = TaskReader(task, Where(data, files, steps, allow_changed))
    if reader.generated:
        return reader.generate("train", seed, limit), reader.generate("validation", 0, limit)
    if task.generated_training and reader.find("train") is None:
        reader.refuse_test_file()
        held = reader.split("validation").first(limit)
        train = reader.generate("train", seed, limit)
        note = (
            f"no training file was given: {len(train.examples)} training examples are generated, validation and test "
            "are the published files"
        )
        return replace(train, notes=(note, *train.notes)), held
    if reader.evaluation_only and "train" not in reader.files:
        raise NoSplit(
            f"task {task.name} is for evaluation only, it has no training rows: train on another task, such as gsm8k, "
            f"and evaluate that run with `rim-bench eval RUN --task {task.name}`"
        )
    reader.refuse_test_file()
    published = reader.split("train")
    try:
        train, held = published, reader.split("validation")
    except NoSplit:
        rows = published.examples
        size = min(int(task.metadata.get("validation", VALIDATION_ROWS)), max(1, len(rows) // 10))
        keys = {e.question: hashlib.sha256(f"{VALIDATION_SEED}\n{e.question}".encode()).digest() for e in rows}
        questions = {e.question for e in sorted(rows, key=lambda e: keys[e.question])[:size]}
        train = replace(published, examples=tuple(e for e in rows if e.question not in questions))
        out = tuple(e for e in rows if e.question in questions)
        source = f"{published.source}, {len(out)} rows held out"
        held = Split(out, source, "validation", (), published.registered)
    train, held = train.first(limit), held.first(limit)
    if not train.examples or not held.examples:
        raise UsageError(
            f"task {task.name}: {len(published.examples)} training rows are too few: at least 2 are needed (one is "
            "held out)"
        )
    # what a reader would not expect of training rows
    n, surprises = len(train.examples), []
    if bare := sum(not example.steps for example in train.examples):
        missing = "equation annotations" if task.metadata["source"] == "annotated" and steps == "equations" else "steps"
        surprises.append(f"{bare} of {n} training rows have no {missing}: they are kept and train their answer alone")
    if again := n - len({example.question for example in train.examples}):
        surprises.append(f"{again} of {n} training rows repeat an earlier question")
    return replace(train, notes=(*train.notes, *surprises)), held


def evaluation_data(
    task: Task,
    *,
    data: Path | None = None,
    steps: Steps = "equations",
    limit: int | None = None,
    split: Literal["validation", "test"] = "test",
    files: Files | None = None,
    allow_changed: bool = False,
) -> Split:
    """The test set, or the validation set that `training_data` holds out; arguments and errors as there."""
    if split not in ("validation", "test"):
        raise unknown("split", split, ("validation", "test"))
    _check_request(task, steps, limit)
    own_questions = split == "validation" or task.asked == task.name or (files or {}).get("test")
    generated = task.metadata["source"] == "generator"
    reader = TaskReader(
        task if own_questions or generated else load_task(task.asked), Where(data, files, steps, allow_changed)
    )
    if generated:
        return reader.generate(split, 0, limit)
    if split == "validation":
        reader.refuse_test_file()
        with contextlib.suppress(NoSplit):
            return reader.split("validation").first(limit)
        return training_data(task, data=data, steps=steps, limit=limit, files=files, allow_changed=allow_changed)[1]
    return reader.split("test").first(limit)


def overlap(train: Iterable[Example], test: Iterable[Example]) -> int:
    """How many test examples ask a question that training shows, compared word for word (white space aside)."""
    shown = {" ".join(example.question.split()) for example in train}
    return sum(" ".join(example.question.split()) in shown for example in test)


def _check_request(task: Task, steps: str, limit: int | None) -> None:
    if steps not in get_args(Steps):
        raise unknown("kind of steps", steps, get_args(Steps))
    if steps == "prose" and task.metadata["source"] != "annotated":
        raise UsageError(
            f"task {task.name} has one kind of steps: steps 'prose' is for sets whose solutions are annotated prose, "
            "such as gsm8k"
        )
    if limit is not None and limit < 1:
        raise UsageError(f"limit {limit} leaves no rows: give a whole number of at least 1")
