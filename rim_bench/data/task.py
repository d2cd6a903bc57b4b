"""A task's YAML, read and checked; `!function` tags stay text, and nothing heavy is imported."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from rim_bench.data.answers import Kind
from rim_bench.data.numbers import parse_number
from rim_bench.data.options import Steps
from rim_bench.data.rows import FIELDS
from rim_bench.util.errors import UsageError, check_name, unknown
from rim_bench.util.own_files import OwnFile, allow, allowed_tasks, read_own, refusal


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
    file_sha256: str | None = None  # of its YAML; None: it is shipped

    @property
    def ood_levels(self) -> tuple[str, ...]:
        """Levels that training never shows."""
        return tuple(map(str, self.metadata.get("ood", ())))

    @property
    def kind(self) -> Kind:
        """How answers compare (`rim_bench.data.answers.score`)."""
        kind: Kind = self.metadata.get("kind", "number")
        return kind

    @property
    def generated_training(self) -> bool:
        """Whether training examples are generated beside published files, where no file has any."""
        return "generator" in self.metadata and self.metadata["source"] != "generator"

    @property
    def form(self) -> str:
        """How an item is asked: "generate" an answer, or "choice", the more likely of the item's choices."""
        return str(self.metadata.get("form", "generate"))

    @property
    def asked(self) -> str:
        """The task whose test questions this one asks: itself, or the one that its YAML names."""
        return str(self.metadata.get("test_of", self.name))

    @property
    def tolerance(self) -> float:
        """Largest absolute difference of equal numbers."""
        return float(self.metadata.get("tolerance", 0))

    def tolerance_at(self, reference: str) -> float:
        """The largest difference from this reference: the tolerance, or the relative one where that is smaller.

        So distinct whole numbers never count as equal, however large, and 0 is not equal to 0.0000004.
        """
        relative, value = self.metadata.get("relative_tolerance"), parse_number(reference)
        if relative is None or value is None:
            return self.tolerance
        return min(self.tolerance, float(relative) * abs(float(value)))

    @property
    def recipe(self) -> dict[str, Any]:
        """Training defaults of this task."""
        return dict(self.metadata.get("recipe", {}))

    @property
    def token_pattern(self) -> str | None:
        """A generated task's own pieces of text, as a regular expression that a from-scratch tokenizer splits by."""
        name = self.metadata.get("generator")
        pattern: str | None = getattr(generator_of(self), "TOKEN_PATTERN", None) if name else None
        return pattern

    def lm_eval_metadata(
        self,
        data: Path | None = None,
        steps: Steps = "equations",
        limit: int | None = None,
        files: Mapping[str, Path | str | None] | None = None,
        allow_changed: bool = False,
    ) -> dict[str, Any]:
        """What `lm_eval.tasks.TaskManager(metadata=...)` needs so that lm-eval reads the same rows as this process."""
        return {
            "rim_bench_data": None if data is None else str(data),
            "rim_bench_steps": steps,
            "rim_bench_limit": limit,
            "rim_bench_files": {k: str(v) for k, v in (files or {}).items() if v is not None},
            "rim_bench_allow_changed": allow_changed,
        }


def tasks_folder() -> Path:
    return Path(next(iter(importlib.import_module("rim_bench.tasks").__path__)))


def task_names() -> list[str]:
    """The shipped tasks."""
    return sorted(path.stem for path in tasks_folder().glob("*.yaml"))


def load_task(name: str) -> Task:
    """A shipped task by name, or any task by the path of its YAML (what ends in `.yaml` or `.yml` is a path).

    Raises:
        UsageError: no such task or file, or a file that is not a task; all problems of its `rim_bench` block together.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).expanduser().is_file():
            raise UsageError(
                f"task file {name!r} does not exist: give the path of a YAML file, or one of {', '.join(task_names())}"
            )
        return _task_in(allow(read_own(name)))
    if name not in (names := task_names()):
        raise unknown("task", name, names)
    return _task_in(read_own(tasks_folder() / f"{name}.yaml"))


def task_of(name: str, file: Mapping[str, Any] | None = None) -> Task:
    """The task that a run was trained on, by its name: a shipped one, or one's own, found again by its content.

    Args:
        file: path and sha256 of its YAML, as the run's folder has them; None: the name alone says which.

    Raises:
        UsageError: it is not shipped, and no such file was given to this process.
    """
    if name in task_names():
        return load_task(name)
    recorded = {k: v for k in ("path", "sha256") if isinstance(v := (file or {}).get(k), str)}
    for own in allowed_tasks(name):
        if recorded.get("sha256") in (None, own.sha256):
            return _task_in(own)
    who = f"a run was trained on task {name!r} of somebody's own"
    raise refusal(who, recorded.get("path", f"{name}.yaml"), recorded.get("sha256"))


def _task_in(file: OwnFile) -> Task:
    path = file.path
    check_name("task", path.stem)
    config = load_yaml(path)
    metadata = config.get("metadata")
    block = metadata.get("rim_bench") if isinstance(metadata, dict) else None
    if not isinstance(config.get("task"), str) or not isinstance(metadata, dict) or not isinstance(block, dict):
        raise UsageError(
            f"task file {str(path)!r} needs the keys task (a name) and metadata.rim_bench (what rim-bench reads): see "
            f"{str(tasks_folder() / 'gsm8k.yaml')!r}"
        )
    check(block, metadata, path)
    title = str(block.get("title", path.stem))
    sha256 = None if path.parent == tasks_folder().resolve() else file.sha256
    return Task(path.stem, config["task"], title, str(block["summary"]), path, block, metadata["version"], sha256)


def generator_of(task: Task) -> Any:
    return module_of(task.metadata["generator"], task.name, "generator")


SPLITS: Final = ("train", "validation", "test")
_SOURCES: Final = ("annotated", "rows", "generator")
_KINDS: Final = ("number", "text", "auto")
_FORMS: Final = ("generate", "choice")
_IDS: Final = ("place", "question")
_ANSWER_RULES: Final = ("number", "whole")
_SUBSET: Final = ("questions", "answer", "field", "keep", "drop")
_KEYS: Final = {
    "title": str,
    "summary": str,
    "licence": str,
    "note": str,
    "overlap": str,  # known rows in common with another task's
    "prediction": str,  # what theory says of a generated family, written before it was measured
    "size": dict,  # split -> questions, as published
    "source": str,
    "folder": str,
    "files": dict,
    "hub": dict,
    "fields": (dict, list),  # one form of the rows, or several: the first that fits the first row
    "ids": str,  # place (the row's number, the default) or question (its hash: the same whatever the order of the rows)
    "subset": dict,
    "registered": dict,  # split -> sha256 of the rows as published, steps aside
    "test_of": str,  # the task whose test split this one is evaluated on
    "generator": str,
    "reader": str,  # the module that reads the files (`parse`) or completes their examples (`complete`)
    "form": str,
    "sizes": dict,
    # split -> {n, sha256} of the set that `sizes`, `levels` and seed 0 give; sets of another size are not held to it
    "generated": dict,
    "levels": dict,
    "ood": list,
    "validation": int,
    "kind": str,
    "tolerance": (int, float),
    "relative_tolerance": (int, float),
    "tokenizer": str,
    "recipe": dict,
}
_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, ten times as fast, where it was built


class _Loader(_Safe):  # type: ignore[misc]
    """YAML with lm-eval's `!function` tags read as plain text: nothing is imported to list tasks."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        UsageError: a file that cannot be read, is not YAML (with the line), or holds something else.
    """
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))  # a SafeLoader
        node = loader.get_single_node()
        _refuse_repeated(node)
        config = None if node is None else loader.construct_document(node)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"task file {str(path)!r} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UsageError(
            f"task file {path}{line}: not YAML ({getattr(error, 'problem', None) or 'malformed'})"
        ) from None
    if not isinstance(config, dict):
        raise UsageError(f"task file {str(path)!r} must hold one mapping")
    return config


def _refuse_repeated(node: Any) -> None:
    """Raises yaml.MarkedYAMLError where a mapping has a key twice: YAML forbids it, and the reader keeps the last."""
    waiting, visited = [node], set()
    while waiting:
        node = waiting.pop()
        if id(node) in visited or not isinstance(node, yaml.CollectionNode):
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        keys = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in keys and key.value != "<<":
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            keys.add(key.value if isinstance(key, yaml.ScalarNode) else None)
            waiting += [key, value]


def check(block: dict[str, Any], metadata: dict[str, Any], path: Path) -> None:
    """Refuse what is missing, unknown or of the wrong type in a task's `rim_bench` block, all together.

    Raises:
        UsageError: one sentence with every problem.
    """
    problems = [str(unknown("key", key, _KEYS)) for key in block if key not in _KEYS]
    for key, kind in _KEYS.items():
        fits = key not in block or isinstance(block[key], kind)  # type: ignore[arg-type]
        if not fits or isinstance(block.get(key), bool):
            problems.append(f"{key} is {type(block[key]).__name__}, which is the wrong type")
    problems += [f"{key} is missing" for key in ("summary", "source") if key not in block]
    if not isinstance(metadata.get("version"), int):
        problems.append("metadata.version must be a whole number")
    for key, names in (("source", _SOURCES), ("kind", _KINDS), ("ids", _IDS), ("form", _FORMS)):
        if key in block and block[key] not in names:
            problems.append(str(unknown(key, str(block[key]), names)))
    nested = {
        "files": SPLITS,
        "hub": ("path", "config", *SPLITS),
        "subset": _SUBSET,
        "size": SPLITS,
        "registered": SPLITS,
    }
    for key, allowed in (nested | {"sizes": SPLITS, "levels": SPLITS}).items():
        inner = block.get(key)
        problems += (
            [str(unknown(f"key of {key}", str(k), allowed)) for k in inner if k not in allowed]
            if isinstance(inner, dict)
            else []
        )
    if isinstance(block.get("hub"), dict) and not isinstance(block["hub"].get("path"), str):
        problems.append("hub.path is missing")
    problems += [problem for form in forms(block) for problem in _form_problems(form)]
    problems += _subset_problems(block["subset"]) if isinstance(block.get("subset"), dict) else []
    for split, digest in block["registered"].items() if isinstance(block.get("registered"), dict) else ():
        if not re.fullmatch("[0-9a-f]{64}", str(digest)):
            problems.append(f"registered.{split} must be a sha256 of 64 digits")
    for split, entry in block["generated"].items() if isinstance(block.get("generated"), dict) else ():
        if split not in SPLITS:
            problems.append(str(unknown("key of generated", str(split), SPLITS)))
        elif not isinstance(entry, dict) or set(entry) != {"n", "sha256"} or type(entry["n"]) is not int:
            problems.append(f"generated.{split} needs n (a number of examples) and sha256, and nothing else")
        elif not re.fullmatch("[0-9a-f]{64}", str(entry["sha256"])):
            problems.append(f"generated.{split}.sha256 must be a sha256 of 64 digits")
    if block.get("source") == "generator" or "generator" in block:
        problems += [f"{key} is missing" for key in ("generator", "levels", "sizes") if key not in block]
    if problems:
        raise UsageError(f"task file {path}, metadata.rim_bench: {'; '.join(problems)}")


def forms(block: dict[str, Any]) -> list[Any]:
    """The forms that a set's rows may have, in the order in which they are tried."""
    fields = block.get("fields", {})
    return fields if isinstance(fields, list) else [fields]


def _form_problems(form: Any) -> list[str]:
    if not isinstance(form, dict):
        return ["each form of fields must be a mapping"]
    problems = []
    for key, value in form.items():
        if key not in FIELDS:
            problems.append(str(unknown("key of fields", str(key), FIELDS)))
        elif key in ("sentences", "unit"):
            if not isinstance(value, bool):
                problems.append(f"fields.{key} must be true or false")
        else:
            names = value if isinstance(value, list) and key == "question" else [value]
            if not names or not all(isinstance(name, str) for name in names):
                problems.append(
                    f"fields.{key} must name a field" + (", or a list of fields" if key == "question" else "")
                )
    return problems


def _subset_problems(subset: dict[str, Any]) -> list[str]:
    """A subset is given by a list of questions, by a rule on answers, or by the values of a field."""
    ways = [key for key in ("questions", "answer", "field") if key in subset]
    if len(ways) != 1:
        return ["subset needs one of questions, answer and field"]
    if ways == ["answer"] and subset["answer"] not in _ANSWER_RULES:
        return [str(unknown("rule of subset.answer", str(subset["answer"]), _ANSWER_RULES))]
    if ways == ["field"] and not all(isinstance(subset.get(key), list) for key in ("keep", "drop")):
        return ["subset.field needs the lists keep and drop: together all values that the field may have"]
    return [] if isinstance(subset[ways[0]], str) else [f"subset.{ways[0]} must be text"]


def module_of(module: str, name: str, role: str) -> Any:
    """A module that a task's YAML names.

    Raises:
        UsageError: it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"task {name}: its {role} {module!r} cannot be imported: {error}") from None
