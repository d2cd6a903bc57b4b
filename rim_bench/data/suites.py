"""Suites: names for several evaluation sets at once, read from `tasks/suites.toml`. Imports no torch."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any

from rim_bench.data.datasets import evaluation_data
from rim_bench.data.options import Steps
from rim_bench.data.reader import Split
from rim_bench.data.task import Task, task_names
from rim_bench.util.errors import UsageError, unknown


@dataclass(frozen=True)
class Suite:
    """What an entry of the file says; `tasks` and `without` are names of tasks or patterns of them."""

    name: str
    summary: str
    tasks: tuple[str, ...]
    without: tuple[str, ...] = ()

    def members(self, names: Iterable[str] | None = None) -> tuple[str, ...]:
        """Its tasks among `names` (the shipped ones), each once, in the entry's order; those of one pattern by name.

        Raises:
            UsageError: an entry that fits no task.
        """
        known = sorted(task_names() if names is None else names)
        out: dict[str, None] = {}
        for entry in (*self.tasks, *self.without):
            fitting = [n for n in known if fnmatchcase(n, entry)]
            if not fitting:
                raise UsageError(
                    f"suite {self.name!r} names {entry!r}, which no task has: there are {', '.join(known) or 'none'}"
                )
            if entry in self.tasks:
                out.update(dict.fromkeys(fitting))
        return tuple(n for n in out if not any(fnmatchcase(n, entry) for entry in self.without))


def suites() -> dict[str, Suite]:
    """Name -> suite, in the order of the file."""
    read: dict[str, dict[str, Any]] = tomllib.loads((files("rim_bench") / "tasks" / "suites.toml").read_text("utf-8"))
    return {n: Suite(n, str(e["summary"]), tuple(e["tasks"]), tuple(e.get("without", ()))) for n, e in read.items()}


def load_suite(name: str) -> Suite:
    """A suite by its name.

    Raises:
        UsageError: no such suite.
    """
    known = suites()
    if name not in known:
        raise unknown("suite", name, known)
    return known[name]


def asked(suite: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
    """What `--suite` and `--eval-tasks` name, both with commas inside, as one list without repetitions.

    Raises:
        UsageError: no such suite, or one with an entry that fits no task.
    """
    out: dict[str, None] = {}
    for name in _parts(suite):
        out.update(dict.fromkeys(load_suite(name).members()))
    out.update(dict.fromkeys(_parts(names)))
    return tuple(out)


def _parts(lists: Iterable[str]) -> list[str]:
    return [part.strip() for text in lists for part in text.split(",") if part.strip()]


def readable(
    tasks: Iterable[Task],
    *,
    data: Path | None,
    steps: Steps,
    limit: int | None,
    split: str = "test",
    allow_changed: bool = False,
) -> tuple[list[tuple[Task, Split]], dict[str, str]]:
    """The sets whose rows can be read, and name -> reason of those whose rows cannot."""
    read, missing = [], {}
    for task in tasks:
        own: Steps = steps if task.metadata["source"] == "annotated" else "equations"
        chosen: Any = split
        try:
            questions = evaluation_data(
                task, data=data, steps=own, limit=limit, split=chosen, allow_changed=allow_changed
            )
            read.append((task, questions))
        except UsageError as error:
            missing[task.name] = str(error)
    return read, missing
