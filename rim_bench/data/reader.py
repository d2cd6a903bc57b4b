"""The splits of a task as checked examples: from given files, a folder, beside the YAML, the hub or a generator."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from rim_bench.data.answers import MARK, Kind, kind_of, scorable
from rim_bench.data.numbers import parse_number
from rim_bench.data.options import Steps
from rim_bench.data.question_ids import Placed, listed, numbered, registered_hash
from rim_bench.data.rows import (
    Hub,
    SourceRow,
    fields_of,
    fitting,
    read_file,
    read_hub,
    read_problems,
    read_step_text,
    read_text,
    to_example,
    with_field,
)
from rim_bench.data.task import Task, generator_of, module_of
from rim_bench.data.task_file import SPLITS, forms
from rim_bench.methods.method import Example
from rim_bench.util.errors import UsageError, cannot_apply, unknown

DATA_VARIABLE: Final = "RIM_BENCH_DATA"
"""Environment variable with the folder of the published files, for calls that name none."""
_SEVERAL: Final = re.compile(r";| \(")  # in an answer whose unit was taken off: more than one number
SplitName = Literal["train", "validation", "test"]
Files = Mapping[str, Path | str | None]


class NoSplit(UsageError):
    """A task that has no such split, or whose file for it is not there."""


class ChangedData(UsageError):
    """Rows that are not those that the task's YAML registers."""


@dataclass(frozen=True)
class Split:
    """Examples in a fixed order."""

    examples: tuple[Example, ...]
    source: str  # where the rows came from, for people
    split: str
    notes: tuple[str, ...] = ()  # what a reader of a result must know about these rows
    registered: bool | None = None  # whether the whole split is the registered one; None where the YAML registers none

    @cached_property
    def sha256(self) -> str:
        """Hash over every field of every example in order; fields that came later count only where they are set."""
        fields = Example.__dataclass_fields__
        rows = [
            {k: v for k in fields if (v := getattr(example, k)) or k not in ("cluster", "choices")}
            for example in self.examples
        ]
        text = json.dumps(rows, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def first(self, limit: int | None) -> Split:
        """Its first examples; all of them for None."""
        return replace(self, examples=self.examples[:limit])


@dataclass(frozen=True)
class Where:
    """Where rows are looked for, and which are taken."""

    data: Path | None = None  # folder of the published files; None: $RIM_BENCH_DATA, beside the YAML, then the hub
    files: Files | None = None  # split -> file; where given, nothing else is read
    steps: Steps = "equations"  # of annotated sources
    allow_changed: bool = False  # take rows that are not the registered ones, with a note


class TaskReader:
    """Reads a task's splits.

    Raises:
        UsageError: an unknown split among the files, or a data folder that is none.
    """

    def __init__(self, task: Task, where: Where) -> None:
        self.task, self.where, self.block = task, where, task.metadata
        self.generated = self.block["source"] == "generator"
        self.files = {k: Path(v).expanduser() for k, v in (where.files or {}).items() if v is not None}
        self.folder: Path | None = None
        hub = self.block.get("hub")
        self.hub = Hub(hub["path"], hub.get("config"), {s: hub[s] for s in SPLITS if s in hub}) if hub else None
        if self.generated:
            if self.files:
                split, path = next(iter(self.files.items()))
                raise cannot_apply(f"--file {split}={path}", f"task {task.name} is generated and reads no file")
            return
        for split in where.files or {}:
            if split not in SPLITS:
                raise unknown("split", split, SPLITS)
        for split, path in self.files.items():
            if path.is_dir():
                raise UsageError(f"{split} file {str(path)!r} is a folder: give a file")
            if not path.is_file():
                raise NoSplit(f"task {task.name}: its {split} file is not there: looked for {path}")
        named = where.data if where.data is not None else os.environ.get(DATA_VARIABLE) or None
        self.folder = None if named is None or self.files else Path(named).expanduser()
        if self.folder is not None and not self.folder.is_dir():
            problem = "is not a folder" if self.folder.exists() else "does not exist"
            raise UsageError(
                f"data folder {str(self.folder)!r} {problem}: give the folder that holds {self._example_file()}"
            )

    @cached_property
    def module(self) -> Any:
        """The module that reads the files or completes their examples; None where they are read as they are.

        Raises:
            UsageError: it cannot be imported.
        """
        return module_of(self.task, "reader") if "reader" in self.block else None

    @property
    def evaluation_only(self) -> bool:
        """Whether the set has no training rows: it declares files or hub splits, and none for training."""
        files, splits = self.block.get("files"), None if self.hub is None else self.hub.splits
        if files is None and not splits:
            return False
        on_hub = splits is not None and ("train" in splits or not splits)
        return "train" not in (files or {}) and not on_hub

    def _names(self, split: str) -> list[str]:
        """File names that a split may have; a set that declares none is a user's own."""
        files = self.block.get("files")
        if files is None:
            return [f"{split}.jsonl", f"{split}.json"]
        name = files.get(split)
        return [] if name is None else [name] if isinstance(name, str) else list(name)

    def _example_file(self) -> str:
        """A file that the data folder should hold, for error messages."""
        name = (self._names("train") or self._names("test") or ["test.jsonl"])[0]
        return "/".join(part for part in (self.block.get("folder", ""), name) if part)

    def _candidates(self, split: str) -> list[Path]:
        """The files that could hold a split, in the order of preference."""
        if self.files:
            return [self.files[split]] if split in self.files else []
        if self.block.get("beside"):
            return [self.task.path.parent / name for name in self._names(split)]
        folders = [] if self.folder is None else [self.folder / self.block.get("folder", ""), self.folder]
        if self.where.data is None:
            folders.append(self.task.path.parent)
        return list(dict.fromkeys(folder / name for folder in folders for name in self._names(split)))

    def find(self, split: str) -> Path | None:
        """The file that holds a split, None where there is none.

        Raises:
            UsageError: what was given for it is there, and is no file.
        """
        for path in self._candidates(split):
            if path.is_file():
                return path
            if path.exists():
                what = "a folder" if path.is_dir() else "no regular file"
                raise UsageError(f"the {split} file {str(path)!r} is {what}: give a file (a folder goes to --data)")
        return None

    def refuse_test_file(self) -> None:
        """Raises UsageError where training would read the test file under another name; compares paths only."""
        test = self.find("test")
        for split in ("train", "validation"):
            path = self.find(split)
            if path is not None and test is not None and path.samefile(test):
                raise UsageError(
                    f"task {self.task.name}: the {split} file {str(path)!r} is also the test file: a test split is "
                    "never trained on"
                )

    def split(self, split: SplitName) -> Split:
        """One split, read, selected, numbered and checked. Opens nothing that belongs to another split.

        Raises:
            NoSplit: there is no such split, or its file is not there.
            ChangedData: the rows are not the registered ones, and that was not allowed.
            UsageError: a malformed row, a subset that does not fit, or a hub out of reach.
        """
        block, name = self.block, self.task.name
        notes: list[str] = []
        rows, source = self._rows(split)
        published, subset = len(rows), block.get("subset") or {}

        # select by a field of the rows, make examples, select by their answers or questions
        if "field" in subset:
            rows = with_field(rows, subset["field"], subset["keep"], subset["drop"])
            values = " or ".join(subset["drop"])
            notes.append(
                f"{published - len(rows)} of {published} rows are left out by rule: their {subset['field']} is {values}"
            )
        possible = [fields_of(form) for form in forms(block)]
        fields = fitting(rows[0], possible) if rows else possible[0]
        complete = getattr(self.module, "complete", None)
        placed: list[Placed] = []
        for i, row in enumerate(rows):
            example = to_example(row, fields, block["source"], self.where.steps, f"{name}/{split}/{i}", self.task.kind)
            try:
                completed = example if complete is None else _checked(complete(example))
                placed.append((row.place, completed))
            except (Exception, SystemExit) as error:  # what a reader of somebody's own raises
                raise _refusal(f"{row.place}: ", error) from None
        if "questions" in subset:
            placed = listed(placed, self.task.path.parent / subset["questions"], source)
            questions = Path(subset["questions"]).name
            notes.append(f"{len(placed)} of {published} rows are taken: those whose questions {questions} lists")
        if "answer" in subset:
            whole = subset["answer"] == "whole"
            placed = [
                (place, example)
                for place, example in placed
                if (value := parse_number(example.answer)) is not None
                and (not whole or value.denominator == 1)
                and not (fields.unit and _SEVERAL.search(example.answer))
            ]
            notes.append(
                f"{published - len(placed)} of {published} rows are left out by rule: their answer is not "
                f"{'a whole number' if whole else 'one number'}"
            )

        for place, example in placed:
            _refuse_unscorable(example, self.task.kind, self.task.form, place)

        # ids
        examples = tuple(example for _, example in placed)
        if block.get("ids") == "question":
            examples = numbered(examples, block.get("folder") or name, self.task.kind)
        elif fields.id is not None:
            twice = [i for i, n in Counter(example.id for example in examples).items() if n > 1]
            if twice:
                raise UsageError(
                    f"task {name}, {split}: {len(twice)} ids occur more than once, the first is {twice[0]!r}: ids must "
                    "be unique"
                )

        # the registered hash, or where there is none the published size (before a rule on answers)
        size = (block.get("size") or {}).get(split)
        expected = (block.get("registered") or {}).get(split)
        if expected is None:
            if size is not None and (published if "answer" in subset else len(examples)) != size:
                notes.append(
                    f"{len(examples):,} questions of {source}; the set as published has {size:,}, and no hash of it is "
                    "registered"
                )
            return Split(examples, source, split, tuple(notes))
        actual = registered_hash(examples)
        if actual != expected:
            problem = (
                f"the {split} rows of {source} are not those registered for task {name}: {len(examples):,} questions"
                + ("" if size is None else f" (registered: {size:,})")
                + f", sha256 {actual[:12]} instead of {expected[:12]}"
            )
            if not self.where.allow_changed:
                raise ChangedData(
                    f"{problem}: give the set as published, or take these with --allow-changed-data, which every table "
                    "says"
                )
            notes.append(problem)
        return Split(examples, source, split, tuple(notes), actual == expected)

    def _rows(self, split: str) -> tuple[list[SourceRow], str]:
        """The rows of a split as published, and where they came from."""
        path = self.find(split)
        if path is not None:
            parse = getattr(self.module, "parse", None)
            if parse is None:
                read = {".txt": read_step_text, ".xml": read_problems}.get(path.suffix, read_file)
                return read(path), str(path)
            try:
                rows = [SourceRow(f"{path}, {place}", fields) for place, fields in parse(read_text(path))]
            except (Exception, SystemExit) as error:
                raise _refusal(f"{path}, ", error) from None
            if not rows:
                raise UsageError(f"data file {str(path)!r} is empty")
            return rows, str(path)
        name, tried, hub = self.task.name, self._candidates(split), self.hub
        elsewhere = self.folder is not None or bool(self.files) or bool(self.block.get("beside"))
        if not elsewhere and hub is not None and (split != "validation" or split in hub.splits):
            way_out = f"give the folder of the published files with --data DIR ({self._example_file()} in it)"
            return read_hub(hub, split, way_out), f"hub {hub.path}" + (f" ({hub.config})" if hub.config else "")
        if not tried:
            raise NoSplit(f"task {name} has no {split} split: none of its files is for it")
        if elsewhere:
            raise NoSplit(f"task {name}: its {split} file is not there: looked for {', '.join(map(str, tried))}")
        raise NoSplit(
            f"task {name} reads your own files: give the folder that holds {self._names(split)[0]} with --data DIR, or "
            "name the files"
        )

    def generate(self, split: SplitName, seed: int, limit: int | None) -> Split:
        """A generated split: the YAML's `sizes` (train: in all; others: per level) and `levels`, at most `limit`.

        Where the YAML publishes the hash of a set of this size with seed 0 (`generated`), the set is held to it: a
        generator that drifts, or another Python that draws otherwise, is refused like a changed file.

        Raises:
            NoSplit: the YAML gives no levels or sizes for it.
            ChangedData: another set than the published one, and that was not allowed.
        """
        name, maker, asked = self.task.name, self.block["generator"], (self.task.kind, self.task.form)
        levels = tuple(self.block["levels"].get(split, ()))
        size = int(self.block["sizes"].get(split, 0)) * (1 if split == "train" else len(levels))
        size = size if limit is None else min(size, limit)
        if size < 1:
            raise NoSplit(f"task {name} generates no {split} examples: its YAML gives no levels or sizes for them")
        examples = _generation(generator_of(self.task).generate, size, levels, seed, split, *asked)
        out = Split(examples, f"generated by {maker}, seed {seed}", split)
        published = self.block.get("generated", {}).get(split)
        if published is None or seed or published["n"] != len(examples):
            return out
        if out.sha256 == published["sha256"]:
            return replace(out, registered=True)
        problem = (
            f"the {len(examples):,} {split} examples that {maker} generates are not those registered for task {name}: "
            f"sha256 {out.sha256[:12]} instead of {published['sha256'][:12]}, so the generator, or the levels in the "
            "YAML, have changed"
        )
        if not self.where.allow_changed:
            raise ChangedData(
                f"{problem}: restore them, or take these with --allow-changed-data, which every table says"
            )
        return replace(out, notes=(problem,), registered=False)


def _refuse_unscorable(example: Example, kind: Kind, form: str, place: str) -> None:
    """Raises UsageError for an answer that, written as training teaches it, could not be scored right."""
    answer, chosen = example.answer, form != "choice" or example.answer in example.choices
    if chosen and scorable(answer, kind):
        return
    if not chosen:
        problem = f"is none of the choices: {', '.join(map(repr, example.choices)) or 'the row has none'}"
    elif MARK in answer:
        problem = f"holds {MARK!r}, the mark that stands before an answer: give only what follows it"
    elif kind_of(answer, kind) == "number":
        problem = "is not one number: expected one such as 72, -3.5 or 1,080"
    else:
        problem = "is nothing but white space and full stops, which do not count: no output could be right"
    raise UsageError(f"{place}: the answer {answer!r} {problem}")


@lru_cache(maxsize=8)
def _generation(
    generate: Callable[[int, list[str], int, str], Iterable[Example]],
    size: int,
    levels: tuple[str, ...],
    seed: int,
    split: str,
    kind: Kind,
    form: str,
) -> tuple[Example, ...]:
    """What a generator makes, its answers of this kind and form; kept for the next call with the same arguments."""
    try:
        examples = tuple(map(_checked, generate(size, list(levels), seed, split)))
        if len(examples) != size:
            raise ValueError(f"{len(examples):,} examples were made, and {size:,} were asked for")
    except (Exception, SystemExit) as error:
        raise _refusal(f"generator of {split} examples: ", error) from None
    for example in examples:
        _refuse_unscorable(example, kind, form, example.id)
    return examples


def _checked(example: Any) -> Example:
    """The same. Raises ValueError where it is no example whose parts are text: code of somebody's own made it."""
    if (
        not isinstance(example, Example)
        or not isinstance(example.steps, tuple)
        or not isinstance(example.choices, tuple)
    ):
        raise ValueError(f"{example!r} is no Example with tuples of steps and choices")
    texts = (example.id, example.question, example.answer, example.level, example.cluster)
    if not all(isinstance(text, str) for text in (*texts, *example.steps, *example.choices)):
        raise ValueError(f"{example!r} has parts that are no text")
    return example


def _refusal(place: str, error: BaseException) -> UsageError:
    """The error for what a reader or a generator raised."""
    if isinstance(error, UsageError):
        return error
    said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return UsageError(f"{place}{' '.join(said.split())}")
