"""Tasks and their data: published files, hub rows or a generator become hashed, split-checked sets of examples.

A task is one YAML file in `tasks/` (or anywhere, given by its path): a complete lm-eval task whose `metadata.rim_bench` block
says where the rows are and how to read them. Training never opens the test split. Imports no torch, transformers,
lm_eval or datasets.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, get_args

import yaml

from rim_bench.errors import UsageError, unknown
from rim_bench.method import Example
from rim_bench.sources import Fields, Hub, Row, Steps, read_file, read_hub, to_example
from rim_bench.tasks.answers import Kind

DATA_VARIABLE: Final = "RIM_BENCH_DATA"
"""Environment variable with the folder of the published files, for calls that name none."""
VALIDATION_SEED: Final = "rim-bench validation 1"
"""Decides which training rows are held out; no run's seed has a part in it."""
VALIDATION_ROWS: Final = 500

Split = Literal["train", "validation", "test"]
_SPLITS: Final = ("train", "validation", "test")
_SOURCES: Final = ("annotated", "rows", "generator")
_KINDS: Final = ("number", "text", "auto")
_KEYS: Final = {
    "title": str,
    "summary": str,
    "licence": str,
    "note": str,
    "prediction": str,
    "source": str,
    "folder": str,
    "files": dict,
    "hub": dict,
    "fields": dict,
    "generator": str,
    "sizes": dict,
    "levels": dict,
    "ood": list,
    "validation": int,
    "kind": str,
    "tolerance": (int, float),
    "tokenizer": str,
    "recipe": dict,
}


@dataclass(frozen=True)
class Dataset:
    """Examples in a fixed order; `sha256` covers every field of every example in that order, and nothing else."""

    examples: tuple[Example, ...]
    sha256: str
    source: str  # where the rows came from, for people
    split: str
    notes: tuple[str, ...] = ()  # what a reader of a result must know about these rows


@dataclass(frozen=True)
class Task:
    """An evaluation set and how to read it; `metadata` is the `rim_bench` block of its YAML."""

    name: str  # "gsm8k": the file's stem
    lm_eval_name: str  # "rimbench_gsm8k"
    title: str
    summary: str
    path: Path
    metadata: dict[str, Any]
    version: int

    @property
    def ood_levels(self) -> tuple[str, ...]:
        """Levels that training never shows."""
        return tuple(map(str, self.metadata.get("ood", ())))

    @property
    def kind(self) -> Kind:
        """How answers compare (`rim_bench.tasks.answers.score`)."""
        kind: Kind = self.metadata.get("kind", "number")
        return kind

    @property
    def tolerance(self) -> float:
        """Largest absolute difference of equal numbers."""
        return float(self.metadata.get("tolerance", 0))

    @property
    def recipe(self) -> dict[str, Any]:
        """Training defaults of this task."""
        return dict(self.metadata.get("recipe", {}))

    @property
    def token_pattern(self) -> str | None:
        """A generated task's own pieces of text, as a regular expression that a from-scratch tokenizer splits by."""
        name = self.metadata.get("generator")
        pattern: str | None = getattr(_generator(self), "TOKEN_PATTERN", None) if name else None
        return pattern

    def lm_eval_metadata(
        self,
        data: Path | None = None,
        steps: Steps = "equations",
        limit: int | None = None,
        files: Mapping[str, Path | str | None] | None = None,
    ) -> dict[str, Any]:
        """What `lm_eval.tasks.TaskManager(metadata=...)` needs so that lm-eval reads the same rows as this process."""
        return {
            "rim_bench_data": None if data is None else str(data),
            "rim_bench_steps": steps,
            "rim_bench_limit": limit,
            "rim_bench_files": {k: str(v) for k, v in (files or {}).items() if v is not None},
        }


def _tasks_folder() -> Path:
    return Path(next(iter(importlib.import_module("rim_bench.tasks").__path__)))


def task_names() -> list[str]:
    """The shipped tasks."""
    return sorted(path.stem for path in _tasks_folder().glob("*.yaml"))


def load_task(name: str) -> Task:
    """A shipped task by name, or any task by the path of its YAML (what ends in `.yaml` or `.yml` is a path).

    Raises:
        UsageError: no such task or file, or a file that is not a task; all problems of its `rim_bench` block together.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise UsageError(f"task file {name!r} does not exist: give the path of a YAML file, or one of {', '.join(task_names())}")
    elif name in (names := task_names()):
        path = _tasks_folder() / f"{name}.yaml"
    else:
        raise unknown("task", name, names)
    config = _load_yaml(path)
    metadata = config.get("metadata")
    block = metadata.get("rim_bench") if isinstance(metadata, dict) else None
    if not isinstance(config.get("task"), str) or not isinstance(metadata, dict) or not isinstance(block, dict):
        raise UsageError(
            f"task file {str(path)!r} needs the keys task (a name) and metadata.rim_bench (what rim-bench reads): see {name!r}"
        )
    _check(block, metadata, path)
    title = str(block.get("title", path.stem))
    return Task(path.stem, config["task"], title, str(block["summary"]), path, block, metadata["version"])


class _Loader(yaml.SafeLoader):
    """YAML with lm-eval's `!function` tags read as plain text: nothing is imported to list tasks."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"task file {str(path)!r} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"task file {path}{line}: not YAML ({getattr(error, 'problem', None) or 'malformed'})") from None
    if not isinstance(config, dict):
        raise UsageError(f"task file {str(path)!r} must hold one mapping")
    return config


def _check(block: dict[str, Any], metadata: dict[str, Any], path: Path) -> None:
    """Refuse what is missing, unknown or of the wrong type, all together."""
    problems = [str(unknown("key", key, _KEYS)) for key in block if key not in _KEYS]
    for key, kind in _KEYS.items():
        if key in block and (not isinstance(block[key], kind) or isinstance(block[key], bool)):  # type: ignore[arg-type]
            problems.append(f"{key} is {type(block[key]).__name__}, which is the wrong type")
    problems += [f"{key} is missing" for key in ("summary", "source") if key not in block]
    if not isinstance(metadata.get("version"), int):
        problems.append("metadata.version must be a whole number")
    if "source" in block and block["source"] not in _SOURCES:
        problems.append(str(unknown("source", str(block["source"]), _SOURCES)))
    if "kind" in block and block["kind"] not in _KINDS:
        problems.append(str(unknown("kind", str(block["kind"]), _KINDS)))
    nested = {"files": _SPLITS, "fields": tuple(Fields.__dataclass_fields__), "hub": ("path", "config", *_SPLITS)}
    for key, allowed in (nested | {"sizes": _SPLITS, "levels": _SPLITS}).items():
        inner = block.get(key)
        problems += [str(unknown(f"key of {key}", str(k), allowed)) for k in inner if k not in allowed] if isinstance(inner, dict) else []
    if isinstance(block.get("hub"), dict) and not isinstance(block["hub"].get("path"), str):
        problems.append("hub.path is missing")
    for key, value in block["fields"].items() if isinstance(block.get("fields"), dict) else ():
        names = value if isinstance(value, list) and key == "question" else [value]
        if not names or not all(isinstance(name, str) for name in names):
            problems.append(f"fields.{key} must name a field" + (", or a list of fields" if key == "question" else ""))
    if block.get("source") == "generator":
        problems += [f"{key} is missing" for key in ("generator", "levels", "sizes") if key not in block]
    if problems:
        raise UsageError(f"task file {path}, metadata.rim_bench: {'; '.join(problems)}")


class NoSplit(UsageError):
    """A task that has no such split, or whose file for it is not there."""


Files = Mapping[str, Path | str | None]


def training_data(
    task: Task,
    *,
    data: Path | None = None,
    steps: Steps = "equations",
    seed: int = 0,
    limit: int | None = None,
    files: Files | None = None,
) -> tuple[Dataset, Dataset]:
    """The training and the validation set. The test split is not opened.

    Validation is the task's own validation file where there is one; else it is carved from training: those rows (500, at
    most a tenth) whose questions have the smallest keyed hashes, so that neither a run's seed nor row order matters and no
    question is on both sides.

    Args:
        data: folder of the published files (`DATA/gsm8k/train.jsonl` or `DATA/train.jsonl`); None: `$RIM_BENCH_DATA`,
            then files beside the task's YAML, then (where that variable is not set) the hub.
        steps: the calculator annotations, or the prose without them (annotated sources only).
        seed: of generated training examples; leave it 0 for runs that shall share their data. Rows from files ignore it.
        limit: keep the first N training rows and at most N validation rows, after carving.
        files: split -> file; where given, nothing else is read, `data` included.

    Raises:
        UsageError: a bad limit, missing or malformed files, an unreachable hub.
    """
    _check_request(task, steps, limit)
    if task.metadata["source"] == "generator":
        return _generated(task, "train", seed, limit), _generated(task, "validation", 0, limit)
    places = _Places(task, data, files)
    _refuse_test_file(places)
    examples, source, notes = places.load("train", steps)
    try:
        held, held_source, held_notes = places.load("validation", steps)
        kept = examples
    except NoSplit:
        kept, held = _carve(task, examples)
        held_source, held_notes = f"{source}, {len(held)} rows held out", ()
    kept, held = kept[:limit], held[:limit]
    if not kept or not held:
        raise UsageError(f"task {task.name}: {len(examples)} training rows are too few: at least 2 are needed (one is held out)")
    notes = (*notes, *_notes(kept, task, steps))
    return make_dataset(kept, source, "train", notes), make_dataset(held, held_source, "validation", held_notes)


def evaluation_data(
    task: Task,
    *,
    data: Path | None = None,
    steps: Steps = "equations",
    limit: int | None = None,
    split: Literal["validation", "test"] = "test",
    files: Files | None = None,
) -> Dataset:
    """The test set, or the validation set that `training_data` holds out; arguments and errors as there."""
    if split == "validation":
        return training_data(task, data=data, steps=steps, limit=limit, files=files)[1]
    if split != "test":
        raise unknown("split", split, ("validation", "test"))
    _check_request(task, steps, limit)
    if task.metadata["source"] == "generator":
        return _generated(task, "test", 0, limit)
    examples, source, notes = _Places(task, data, files).load("test", steps)
    return make_dataset(examples[:limit], source, "test", notes)


def overlap(train: Iterable[Example], test: Iterable[Example]) -> int:
    """How many test examples ask a question that training shows, compared word for word (white space aside)."""
    shown = {" ".join(example.question.split()) for example in train}
    return sum(" ".join(example.question.split()) in shown for example in test)


def make_dataset(examples: Iterable[Example], source: str, split: str, notes: Iterable[str] = ()) -> Dataset:
    """A Dataset of these examples, with its hash."""
    rows = tuple(examples)
    text = json.dumps([_hashed(row) for row in rows], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return Dataset(rows, hashlib.sha256(text.encode()).hexdigest(), source, split, tuple(notes))


def _hashed(example: Example) -> dict[str, Any]:
    """What a hash covers: fields that came later only where they say something, so that sets without them keep their hashes."""
    return {k: v for k, v in asdict(example).items() if v or k not in ("cluster", "choices")}


def _check_request(task: Task, steps: str, limit: int | None) -> None:
    if steps not in get_args(Steps):
        raise unknown("kind of steps", steps, get_args(Steps))
    if steps == "prose" and task.metadata["source"] != "annotated":
        raise UsageError(
            f"task {task.name} has one kind of steps: steps 'prose' is for sets whose solutions are annotated prose, such as gsm8k"
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
        notes.append(f"{bare} of {len(examples)} training rows have no {what}: they are kept and train their answer alone")
    again = len(examples) - len({example.question for example in examples})
    if again:
        notes.append(f"{again} of {len(examples)} training rows repeat an earlier question")
    return tuple(notes)


def _generator(task: Task) -> Any:
    name = task.metadata["generator"]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"task {task.name}: its generator {name!r} cannot be imported: {error}") from None


def _generated(task: Task, split: Split, seed: int, limit: int | None) -> Dataset:
    """A generated set: `sizes` says how many examples (train: in all; others: per level), `levels` of which levels."""
    levels = list(task.metadata["levels"].get(split, ()))
    size = int(task.metadata["sizes"].get(split, 0)) * (1 if split == "train" else len(levels))
    size = size if limit is None else min(size, limit)
    if size < 1:
        raise NoSplit(f"task {task.name} generates no {split} examples: its YAML gives no levels or sizes for them")
    examples = _cached_generation(_generator(task).generate, size, tuple(levels), seed, split)
    return make_dataset(examples, f"generated by {task.metadata['generator']}, seed {seed}", split)


@lru_cache(maxsize=8)
def _cached_generation(
    generate: Callable[[int, list[str], int, str], Iterable[Example]], size: int, levels: tuple[str, ...], seed: int, split: str
) -> tuple[Example, ...]:
    try:
        return tuple(generate(size, list(levels), seed, split))
    except ValueError as error:
        raise UsageError(str(error)) from None


class _Places:
    """Where a task's splits are: given files, a folder, beside the YAML, or the hub."""

    def __init__(self, task: Task, data: Path | None, files: Files | None) -> None:
        for split in files or {}:
            if split not in _SPLITS:
                raise unknown("split", split, _SPLITS)
        self.task = task
        self.given = {k: Path(v).expanduser() for k, v in (files or {}).items() if v is not None}
        self.explicit = data is not None
        named = data if data is not None else os.environ.get(DATA_VARIABLE) or None
        self.folder = None if named is None or self.given else Path(named).expanduser()
        if self.folder is not None and not self.folder.is_dir():
            what = "is not a folder" if self.folder.exists() else "does not exist"
            raise UsageError(f"data folder {str(self.folder)!r} {what}: give the folder that holds {self._example_file()}")
        hub = task.metadata.get("hub")
        self.hub = Hub(hub["path"], hub.get("config"), {s: hub[s] for s in _SPLITS if s in hub}) if hub else None
        fields = dict(task.metadata.get("fields", {}))
        question = fields.pop("question", "question")
        self.fields = Fields(question=tuple([question] if isinstance(question, str) else question), **fields)

    def _names(self, split: str) -> list[str]:
        """File names a split may have; a set that declares none is a user's own."""
        files = self.task.metadata.get("files")
        if files is None:
            return [f"{split}.jsonl", f"{split}.json"]
        name = files.get(split)
        return [] if name is None else [name] if isinstance(name, str) else list(name)

    def _example_file(self) -> str:
        folder = self.task.metadata.get("folder", "")
        return "/".join(part for part in (folder, (self._names("train") or self._names("test") or ["test.jsonl"])[0]) if part)

    def candidates(self, split: str) -> list[Path]:
        """The files that could hold a split, in the order of preference."""
        if self.given:
            return [self.given[split]] if split in self.given else []
        places = [] if self.folder is None else [self.folder / self.task.metadata.get("folder", ""), self.folder]
        if not self.explicit:
            places.append(self.task.path.parent)
        return list(dict.fromkeys(place / name for place in places for name in self._names(split)))

    def find(self, split: str) -> Path | None:
        """The file that holds a split, None where there is none."""
        return next((path for path in self.candidates(split) if path.is_file()), None)

    def load(self, split: Split, steps: Steps) -> tuple[tuple[Example, ...], str, tuple[str, ...]]:
        """The examples of one split, where they came from, and notes. Opens nothing that belongs to another split."""
        path = self.find(split)
        if path is not None:
            rows, source = read_file(path), str(path)
        elif self.folder is None and not self.given and self.hub is not None and (split != "validation" or split in self.hub.splits):
            rows = read_hub(self.hub, split, f"give the folder of the published files with --data DIR ({self._example_file()} in it)")
            source = f"hub {self.hub.path}" + (f" ({self.hub.config})" if self.hub.config else "")
        else:
            raise self._missing(split)
        return self._examples(rows, split, steps), source, ()

    def _examples(self, rows: list[Row], split: str, steps: Steps) -> tuple[Example, ...]:
        name, source = self.task.name, self.task.metadata["source"]
        examples = tuple(
            to_example(row, self.fields, source, steps, f"{name}/{split}/{index}", self.task.kind) for index, row in enumerate(rows)
        )
        if self.fields.id is not None:
            twice = [i for i, n in Counter(example.id for example in examples).items() if n > 1]
            if twice:
                raise UsageError(
                    f"task {name}, {split}: {len(twice)} ids occur more than once, the first is {twice[0]!r}: ids must be unique"
                )
        return examples

    def _missing(self, split: str) -> NoSplit:
        tried = self.candidates(split)
        if tried and (self.folder is not None or self.given):
            return NoSplit(f"task {self.task.name}: its {split} file is not there: looked for {', '.join(map(str, tried))}")
        if not self.given and tried:
            return NoSplit(
                f"task {self.task.name} reads your own files: give the folder that holds {self._names(split)[0]} with --data DIR, "
                "or name the files"
            )
        return NoSplit(f"task {self.task.name} has no {split} split: none of its files is for it")


def _refuse_test_file(places: _Places) -> None:
    """Training must not read the test file under another name. Compares paths; opens nothing."""
    test = places.find("test")
    for split in ("train", "validation"):
        path = places.find(split)
        if path is not None and test is not None and path.samefile(test):
            raise UsageError(
                f"task {places.task.name}: the {split} file {str(path)!r} is also the test file: a test split is never trained on"
            )
