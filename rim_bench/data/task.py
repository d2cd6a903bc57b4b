"""Tasks by name or by the path of their YAML. Nothing heavy is imported."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rim_bench.data.answers import Kind, tolerance_at
from rim_bench.data.options import Steps
from rim_bench.data.task_file import block_problems, lm_eval_problems, parse_yaml, with_included
from rim_bench.util.errors import UsageError, check_name, unknown
from rim_bench.util.own_files import OwnFile, allow, allowed_tasks, read_own, refusal

Features = Callable[[str], Mapping[str, str]]
"""A question -> its shallow features, by name."""


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

    @property
    def relative_tolerance(self) -> float | None:
        """The same as a share of the reference; None where there is none."""
        relative = self.metadata.get("relative_tolerance")
        return None if relative is None else float(relative)

    def tolerance_at(self, reference: str) -> float:
        """The largest difference from this reference: the tolerance, or the relative one where that is smaller.

        So distinct whole numbers never count as equal, however large, and 0 is not equal to 0.0000004.
        """
        return tolerance_at(reference, self.tolerance, self.relative_tolerance)

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

    @property
    def shortcuts(self) -> Features | None:
        """What says of a question which shallow features it has, by name; None where the task's code says nothing.

        Raises:
            UsageError: the name is taken by something else.
        """
        for role in (role for role in PARTS if role in self.metadata):
            if (features := getattr(module_of(self, role), "shortcuts", None)) is not None:
                if not callable(features):
                    raise UsageError(
                        f"task {self.name}: shortcuts of its {role} {self.metadata[role]!r} is no function"
                    )
                return features  # type: ignore[no-any-return]
        return None

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
    """Where the shipped tasks lie."""
    return Path(next(iter(importlib.import_module("rim_bench.tasks").__path__)))


def task_names() -> list[str]:
    """The shipped tasks."""
    return sorted(path.stem for path in tasks_folder().glob("*.yaml"))


def load_task(name: str) -> Task:
    """A shipped task by name, or any task by the path of its YAML (what ends in `.yaml` or `.yml` is a path).

    Raises:
        UsageError: no such task or file, or a file that is not a task; all problems of it together.
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
    if name in task_names() and file is None:
        return load_task(name)
    check_name("task", name)
    recorded = {k: v for k in ("path", "sha256") if isinstance(v := (file or {}).get(k), str)}
    for own in allowed_tasks(name):
        if recorded.get("sha256") in (None, own.sha256):
            return _task_in(own)
    who = f"a run was trained on task {name!r} of somebody's own"
    raise refusal(who, recorded.get("path", f"{name}.yaml"), recorded.get("sha256"))


def _task_in(file: OwnFile) -> Task:
    """The task of a YAML, checked whole. Modules that it names are imported where it is not shipped."""
    path, shipped = file.path, file.path.parent == tasks_folder().resolve()
    check_name("task", path.stem)
    config, problems = with_included(parse_yaml(file.source, path), path, tasks_folder() / "lm.py")
    metadata = config.get("metadata")
    block = metadata.get("rim_bench") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(block, dict) or "task" not in config:
        raise UsageError(
            f"task file {str(path)!r} needs the keys task (a name) and metadata.rim_bench (what rim-bench reads): see "
            f"{str(tasks_folder() / 'gsm8k.yaml')!r}"
        )
    ours = block_problems(block, task_names())
    if type(metadata.get("version")) is not int:
        ours.append("metadata.version must be a whole number")
    if not shipped and not problems:  # a missing include lacks everything
        problems += lm_eval_problems(config, str(block.get("form", "generate")))
    if ours or problems:
        problems += [f"metadata.rim_bench: {'; '.join(ours)}"] if ours else []
        raise UsageError(f"task file {path}: {'; '.join(problems)}")
    title = str(block.get("title", path.stem))
    sha256 = None if shipped else file.sha256
    task = Task(path.stem, config["task"], title, str(block["summary"]), path, block, metadata["version"], sha256)
    if not shipped:
        for role in ("generator", "reader"):
            if role in block:
                module_of(task, role)
    return task


def generator_of(task: Task) -> Any:
    return module_of(task, "generator")


PARTS: Final = {"generator": ("generate",), "reader": ("parse", "complete")}
"""The functions of the modules that a YAML may name, of which one is enough."""


def module_of(task: Task, role: str) -> Any:
    """The module that a task's YAML names as its generator or reader.

    Raises:
        UsageError: it cannot be imported, or has no function for this.
    """
    name, where = task.metadata[role], f"task {task.name}: its {role} {task.metadata[role]!r}"
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # what a module of somebody's own raises
        said = " ".join(str(error).split())
        raise UsageError(f"{where} cannot be imported: {type(error).__name__}: {said}") from None
    if not any(callable(getattr(module, part, None)) for part in PARTS[role]):
        raise UsageError(f"{where} has no function {' or '.join(PARTS[role])}")
    return module
