"""Tasks and their data: published files, hub rows or a generator become hashed, split-checked sets of examples.

A task is one YAML file in `tasks/` (or anywhere, given by its path): a complete lm-eval task whose `metadata.rim_bench`
block says where the rows are and how to read them. Training never opens the test split. Imports no torch, transformers,
lm_eval or datasets.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, get_args

from rim_bench.data.reader import ChangedData, Files, NoSplit, SplitName, TaskReader, refuse_test_file
from rim_bench.data.rows import Steps
from rim_bench.data.task import Task, generator_of, load_task
from rim_bench.methods.method import Example
from rim_bench.util.errors import UsageError, unknown

VALIDATION_SEED: Final = "rim-bench validation 1"
"""Decides which training rows are held out; no run's seed has a part in it."""
VALIDATION_ROWS: Final = 500


@dataclass(frozen=True)
class Dataset:
    """Examples in a fixed order; `sha256` covers every field of every example in that order, and nothing else."""

    examples: tuple[Example, ...]
    sha256: str
    source: str  # where the rows came from, for people
    split: str
    notes: tuple[str, ...] = ()  # what a reader of a result must know about these rows
    registered: bool | None = (
        None  # whether the whole split is the one whose hash the YAML has; None where it has none of such a set
    )


def training_data(
    task: Task,
    *,
    data: Path | None = None,
    steps: Steps = "equations",
    seed: int = 0,
    limit: int | None = None,
    files: Files | None = None,
    allow_changed: bool = False,
) -> tuple[Dataset, Dataset]:
    """The training and the validation set. The test split is not opened.

    Validation is the task's own validation file where there is one; else it is carved from training: those rows (500,
    at most a tenth) whose questions have the smallest keyed hashes, so that neither a run's seed nor row order matters
    and no question is on both sides.

    Args:
        data: folder of the published files (`DATA/gsm8k/train.jsonl` or `DATA/train.jsonl`); None: `$RIM_BENCH_DATA`,
            then files beside the task's YAML, then (where that variable is not set) the hub.
        steps: the calculator annotations, or the prose without them (annotated sources only).
        seed: of generated training examples; leave it 0 for runs that shall share their data. Rows from files ignore
            it.
        limit: keep the first N training rows and at most N validation rows, after carving.
        files: split -> file; where given, nothing else is read, `data` included.
        allow_changed: take rows whose hash is not the registered one; the datasets say so.

    Raises:
        NoSplit: a set that has no training rows.
        ChangedData: rows that are not the registered ones.
        UsageError: a bad limit, missing or malformed files, an unreachable hub.
    """
    _check_request(task, steps, limit)
    if task.metadata["source"] == "generator":
        return _generated(task, "train", seed, limit, allow_changed), _generated(
            task, "validation", 0, limit, allow_changed
        )
    places = _places(task, data, files, allow_changed)
    if task.generated_training and places.find("train") is None:
        return _generated_beside_files(task, places, steps, seed, limit)
    if places.evaluation_only and "train" not in places.given:
        raise NoSplit(
            f"task {task.name} is for evaluation only, it has no training rows: train on another task, such as gsm8k, "
            "and evaluate "
            f"that run with `rim-bench eval RUN --task {task.name}`"
        )
    refuse_test_file(places)
    rows = places.load("train", steps)
    try:
        held = places.load("validation", steps)
        kept, rest, held_source, held_notes, held_registered = (
            rows.examples,
            held.examples,
            held.source,
            held.notes,
            held.registered,
        )
    except NoSplit:
        kept, rest = _carve(task, rows.examples)
        held_source, held_notes, held_registered = f"{rows.source}, {len(rest)} rows held out", (), rows.registered
    kept, rest = kept[:limit], rest[:limit]
    if not kept or not rest:
        raise UsageError(
            f"task {task.name}: {len(rows.examples)} training rows are too few: at least 2 are needed (one is held out)"
        )
    notes = (*rows.notes, *_notes(kept, task, steps))
    train = make_dataset(kept, rows.source, "train", notes, rows.registered)
    return train, make_dataset(rest, held_source, "validation", held_notes, held_registered)


def _generated_beside_files(
    task: Task, places: TaskReader, steps: Steps, seed: int, limit: int | None
) -> tuple[Dataset, Dataset]:
    """Generated training examples where no file has any; what is evaluated comes from files all the same."""
    refuse_test_file(places)
    held = _validation_file(places, steps, limit)
    made = _generated(task, "train", seed, limit, places.allow_changed)
    note = (
        f"no training file was given: {len(made.examples)} training examples are generated, validation and test are "
        "the published files"
    )
    return replace(made, notes=(note, *made.notes)), held


def _validation_file(places: TaskReader, steps: Steps, limit: int | None) -> Dataset:
    rows = places.load("validation", steps)
    return make_dataset(rows.examples[:limit], rows.source, "validation", rows.notes, rows.registered)


def evaluation_data(
    task: Task,
    *,
    data: Path | None = None,
    steps: Steps = "equations",
    limit: int | None = None,
    split: Literal["validation", "test"] = "test",
    files: Files | None = None,
    allow_changed: bool = False,
) -> Dataset:
    """The test set, or the validation set that `training_data` holds out; arguments and errors as there."""
    if split not in ("validation", "test"):
        raise unknown("split", split, ("validation", "test"))
    _check_request(task, steps, limit)
    if task.metadata["source"] == "generator":
        return _generated(task, split, 0, limit, allow_changed)
    if split == "validation":
        places = _places(task, data, files, allow_changed)
        refuse_test_file(places)
        with contextlib.suppress(NoSplit):
            return _validation_file(places, steps, limit)
        return training_data(task, data=data, steps=steps, limit=limit, files=files, allow_changed=allow_changed)[1]
    source = task if task.asked == task.name or (files or {}).get("test") else load_task(task.asked)
    rows = _places(source, data, files, allow_changed).load("test", steps)
    return make_dataset(rows.examples[:limit], rows.source, "test", rows.notes, rows.registered)


def _places(task: Task, data: Path | None, files: Files | None, allow_changed: bool) -> TaskReader:
    return TaskReader(task.name, task.path, task.metadata, data, files, allow_changed)


def overlap(train: Iterable[Example], test: Iterable[Example]) -> int:
    """How many test examples ask a question that training shows, compared word for word (white space aside)."""
    shown = {" ".join(example.question.split()) for example in train}
    return sum(" ".join(example.question.split()) in shown for example in test)


def make_dataset(
    examples: Iterable[Example], source: str, split: str, notes: Iterable[str] = (), registered: bool | None = None
) -> Dataset:
    """A Dataset of these examples, with its hash."""
    rows = tuple(examples)
    text = json.dumps([_hashed(row) for row in rows], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return Dataset(rows, hashlib.sha256(text.encode()).hexdigest(), source, split, tuple(notes), registered)


def _hashed(example: Example) -> dict[str, Any]:
    """What a hash covers: fields that came later only where they say something, so that sets without them keep their
    hashes.
    """
    told = {field: getattr(example, field) for field in Example.__dataclass_fields__}
    return {k: v for k, v in told.items() if v or k not in ("cluster", "choices")}


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


def _carve(task: Task, examples: tuple[Example, ...]) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(training, validation), each in published order."""

    def key(example: Example) -> bytes:
        return hashlib.sha256(f"{VALIDATION_SEED}\n{example.question}".encode()).digest()

    size = min(int(task.metadata.get("validation", VALIDATION_ROWS)), max(1, len(examples) // 10))
    questions = {example.question for example in sorted(examples, key=key)[:size]}
    held = tuple(example for example in examples if example.question in questions)
    return tuple(example for example in examples if example.question not in questions), held


def _notes(examples: tuple[Example, ...], task: Task, steps: str) -> tuple[str, ...]:
    """What training rows have that a reader would not expect."""
    notes = []
    bare = sum(not example.steps for example in examples)
    if bare:
        what = "equation annotations" if task.metadata["source"] == "annotated" and steps == "equations" else "steps"
        notes.append(
            f"{bare} of {len(examples)} training rows have no {what}: they are kept and train their answer alone"
        )
    again = len(examples) - len({example.question for example in examples})
    if again:
        notes.append(f"{again} of {len(examples)} training rows repeat an earlier question")
    return tuple(notes)


def _generated(task: Task, split: SplitName, seed: int, limit: int | None, allow_changed: bool) -> Dataset:
    """A generated set: `sizes` says how many examples (train: in all; others: per level), `levels` of which levels.

    Where the YAML publishes the hash of a set of this size with seed 0 (`generated`), the set is held to it: a
    generator that drifts, or another Python that draws otherwise, is refused like a changed file.

    Raises:
        ChangedData: another set than the published one, and that was not allowed.
    """
    levels = list(task.metadata["levels"].get(split, ()))
    size = int(task.metadata["sizes"].get(split, 0)) * (1 if split == "train" else len(levels))
    size = size if limit is None else min(size, limit)
    if size < 1:
        raise NoSplit(f"task {task.name} generates no {split} examples: its YAML gives no levels or sizes for them")
    examples = _cached_generation(generator_of(task).generate, size, tuple(levels), seed, split)
    made = make_dataset(examples, f"generated by {task.metadata['generator']}, seed {seed}", split)
    published = task.metadata.get("generated", {}).get(split)
    if published is None or seed or published["n"] != len(examples):
        return made
    if made.sha256 == published["sha256"]:
        return replace(made, registered=True)
    maker = task.metadata["generator"]
    told = (
        f"the {len(examples):,} {split} examples that {maker} generates are not those registered for task "
        f"{task.name}: sha256 "
    )
    told += (
        f"{made.sha256[:12]} instead of {published['sha256'][:12]}, so the generator, or the levels in the YAML, "
        "have changed"
    )
    if not allow_changed:
        raise ChangedData(f"{told}: restore them, or take these with --allow-changed-data, which every table says")
    return replace(made, notes=(told,), registered=False)


@lru_cache(maxsize=8)
def _cached_generation(
    generate: Callable[[int, list[str], int, str], Iterable[Example]],
    size: int,
    levels: tuple[str, ...],
    seed: int,
    split: str,
) -> tuple[Example, ...]:
    try:
        return tuple(generate(size, list(levels), seed, split))
    except ValueError as error:
        raise UsageError(str(error)) from None


GUESS = "a guess among the choices"
