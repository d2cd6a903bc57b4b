"""Where the rows of a task's splits are, and how they become examples: given files, a folder, beside the YAML, or the
hub.

Imports no torch, transformers, lm_eval or datasets.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from rim_bench.data.answers import Kind
from rim_bench.data.question_ids import Placed, by_answer, by_field, numbered, registered_hash, selected
from rim_bench.data.rows import (
    Fields,
    Hub,
    Row,
    Steps,
    fields_of,
    fitting,
    read_file,
    read_hub,
    read_step_text,
    read_text,
    to_example,
)
from rim_bench.data.task import SPLITS, forms, module_of
from rim_bench.methods.method import Example
from rim_bench.util.errors import UsageError, unknown

DATA_VARIABLE: Final = "RIM_BENCH_DATA"
"""Environment variable with the folder of the published files, for calls that name none."""
SplitName = Literal["train", "validation", "test"]
Files = Mapping[str, Path | str | None]


class NoSplit(UsageError):
    """A task that has no such split, or whose file for it is not there."""


class ChangedData(UsageError):
    """Rows that are not those that the task's YAML registers."""


@dataclass(frozen=True)
class Split:
    """All examples of a split, in order."""

    examples: tuple[Example, ...]
    source: str  # where the rows came from, for people
    notes: tuple[str, ...]
    registered: bool | None  # whether they are the registered rows; None where the YAML registers none


class TaskReader:
    """Where a task's splits are.

    Args:
        name: of the task; ids begin with it (or, where they are made of the questions, with the set's folder).
        path: of its YAML.
        block: the YAML's `rim_bench` block.
        data: folder of the published files; None: `$RIM_BENCH_DATA`, then files beside the YAML, then the hub.
        files: split -> file; where given, nothing else is read.
        allow_changed: take rows that are not the registered ones.

    Raises:
        UsageError: an unknown split, or a folder that is none.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        block: Mapping[str, Any],
        data: Path | None,
        files: Files | None,
        allow_changed: bool = False,
    ) -> None:
        for split in files or {}:
            if split not in SPLITS:
                raise unknown("split", split, SPLITS)
        self.name, self.path, self.block = name, path, block
        self.allow_changed = allow_changed
        self.given = {k: Path(v).expanduser() for k, v in (files or {}).items() if v is not None}
        self.explicit = data is not None
        named = data if data is not None else os.environ.get(DATA_VARIABLE) or None
        self.folder = None if named is None or self.given else Path(named).expanduser()
        if self.folder is not None and not self.folder.is_dir():
            what = "is not a folder" if self.folder.exists() else "does not exist"
            raise UsageError(
                f"data folder {str(self.folder)!r} {what}: give the folder that holds {self._example_file()}"
            )
        hub = block.get("hub")
        self.hub = Hub(hub["path"], hub.get("config"), {s: hub[s] for s in SPLITS if s in hub}) if hub else None
        self.forms = [fields_of(form) for form in forms(dict(block))]
        self.kind: Kind = block.get("kind", "number")

    @cached_property
    def reader(self) -> Any:
        """The module that reads the files; None where they are read as they are.

        Raises:
            UsageError: it cannot be imported.
        """
        return module_of(self.block["reader"], self.name, "reader") if "reader" in self.block else None

    @property
    def evaluation_only(self) -> bool:
        """Whether the set has no training rows: it declares files or hub splits, and none for training."""
        files, hub = self.block.get("files"), self.hub
        declared = files is not None or (hub is not None and bool(hub.splits))
        return (
            declared
            and "train" not in (files or {})
            and not (hub is not None and ("train" in hub.splits or not hub.splits))
        )

    def _names(self, split: str) -> list[str]:
        """File names a split may have; a set that declares none is a user's own."""
        files = self.block.get("files")
        if files is None:
            return [f"{split}.jsonl", f"{split}.json"]
        name = files.get(split)
        return [] if name is None else [name] if isinstance(name, str) else list(name)

    def _example_file(self) -> str:
        folder = self.block.get("folder", "")
        return "/".join(
            part for part in (folder, (self._names("train") or self._names("test") or ["test.jsonl"])[0]) if part
        )

    def candidates(self, split: str) -> list[Path]:
        """The files that could hold a split, in the order of preference."""
        if self.given:
            return [self.given[split]] if split in self.given else []
        places = [] if self.folder is None else [self.folder / self.block.get("folder", ""), self.folder]
        if not self.explicit:
            places.append(self.path.parent)
        return list(dict.fromkeys(place / name for place in places for name in self._names(split)))

    def find(self, split: str) -> Path | None:
        """The file that holds a split, None where there is none."""
        return next((path for path in self.candidates(split) if path.is_file()), None)

    def load(self, split: SplitName, steps: Steps) -> Split:
        """The examples of one split. Opens nothing that belongs to another split.

        Raises:
            NoSplit: there is no such split, or its file is not there.
            ChangedData: the rows are not the registered ones, and that was not allowed.
            UsageError: a malformed row, or a hub out of reach.
        """
        path = self.find(split)
        if path is not None:
            rows, source = self._read(path), str(path)
        elif (
            self.folder is None
            and not self.given
            and self.hub is not None
            and (split != "validation" or split in self.hub.splits)
        ):
            rows = read_hub(
                self.hub,
                split,
                f"give the folder of the published files with --data DIR ({self._example_file()} in it)",
            )
            source = f"hub {self.hub.path}" + (f" ({self.hub.config})" if self.hub.config else "")
        else:
            raise self._missing(split)
        examples, notes = self._examples(rows, split, steps, source)
        size = (self.block.get("size") or {}).get(split)
        wanted = (self.block.get("registered") or {}).get(split)
        if wanted is None:
            # where a rule on answers leaves rows out, the published size is that before it
            if (
                size is not None
                and (len(rows) if "answer" in (self.block.get("subset") or {}) else len(examples)) != size
            ):
                notes.append(
                    f"{len(examples):,} questions of {source}; the set as published has {size:,}, and no hash of it is "
                    "registered"
                )
            return Split(examples, source, tuple(notes), None)
        found = registered_hash(examples)
        if found != wanted:
            told = (
                f"the {split} rows of {source} are not those registered for task {self.name}: {len(examples):,} "
                "questions"
            )
            told += (
                "" if size is None else f" (registered: {size:,})"
            ) + f", sha256 {found[:12]} instead of {wanted[:12]}"
            if not self.allow_changed:
                raise ChangedData(
                    f"{told}: give the set as published, or take these with --allow-changed-data, which every table "
                    "says"
                )
            notes.append(told)
        return Split(examples, source, tuple(notes), found == wanted)

    def _read(self, path: Path) -> list[Row]:
        """The rows of a file: what the task's reader makes of its text (`parse`), else those of JSON or of step
        text.
        """
        parse = getattr(self.reader, "parse", None)
        if parse is None:
            return read_step_text(path) if path.suffix == ".txt" else read_file(path)
        try:
            rows = [Row(f"{path}, {where}", fields) for where, fields in parse(read_text(path))]
        except ValueError as error:
            raise UsageError(f"{path}, {error}") from None
        if not rows:
            raise UsageError(f"data file {str(path)!r} is empty")
        return rows

    def _example(self, row: Row, fields: Fields, steps: Steps, name: str) -> Example:
        """A row as an example, with what the task's reader adds to it (`complete`): choices, levels."""
        example = to_example(row, fields, self.block["source"], steps, name, self.kind)
        complete = getattr(self.reader, "complete", None)
        try:
            return example if complete is None else complete(example)
        except ValueError as error:
            raise UsageError(f"{row.place}: {error}") from None

    def _examples(
        self, rows: list[Row], split: str, steps: Steps, source: str
    ) -> tuple[tuple[Example, ...], list[str]]:
        """Examples with their ids, and what a subset left out."""
        subset, notes = self.block.get("subset") or {}, []
        if "field" in subset:
            rows, note = by_field(rows, subset["field"], subset["keep"], subset["drop"])
            notes.append(note)
        fields = fitting(rows[0], self.forms) if rows else self.forms[0]
        named = ((row, f"{self.name}/{split}/{i}") for i, row in enumerate(rows))
        placed: Sequence[Placed] = [(row.place, self._example(row, fields, steps, name)) for row, name in named]
        if "questions" in subset:
            placed, note = selected(placed, self.path.parent / subset["questions"], source)
            notes.append(note)
        if "answer" in subset:
            placed, note = by_answer(placed, subset["answer"])
            notes.append(note)
        if self.block.get("ids") == "question":
            return numbered(placed, self.block.get("folder") or self.name, self.kind), notes
        examples = tuple(example for _, example in placed)
        if fields.id is not None:
            twice = [i for i, n in Counter(example.id for example in examples).items() if n > 1]
            if twice:
                raise UsageError(
                    f"task {self.name}, {split}: {len(twice)} ids occur more than once, the first is {twice[0]!r}: ids "
                    "must be unique"
                )
        return examples, notes

    def _missing(self, split: str) -> NoSplit:
        tried = self.candidates(split)
        if tried and (self.folder is not None or self.given):
            return NoSplit(f"task {self.name}: its {split} file is not there: looked for {', '.join(map(str, tried))}")
        if not self.given and tried:
            return NoSplit(
                f"task {self.name} reads your own files: give the folder that holds {self._names(split)[0]} with "
                "--data DIR, "
                "or name the files"
            )
        return NoSplit(f"task {self.name} has no {split} split: none of its files is for it")


def refuse_test_file(places: TaskReader) -> None:
    """Training must not read the test file under another name. Compares paths; opens nothing."""
    test = places.find("test")
    for split in ("train", "validation"):
        path = places.find(split)
        if path is not None and test is not None and path.samefile(test):
            raise UsageError(
                f"task {places.name}: the {split} file {str(path)!r} is also the test file: a test split is never "
                "trained on"
            )
