"""Published numbers beside measured ones, in panels of their own: read from `references.yaml`, never ranked.

A published number is somebody's account of other items, another evaluator and other training; it may be read first or
second hand, and several of the same thing may contradict each other. All of that stands beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from rim_bench.evidence.rows import Group
from rim_bench.util.errors import UsageError, unknown
from rim_bench.util.files import read_whole
from rim_bench.util.table import Panel

READINGS = ("primary", "secondary")
UNITS = {"accuracy": "%", "ttft_ms": "ms to first token", "full_ms": "ms to full answer"}
REQUIRED = ("paper", "source", "reading", "backbone", "training", "metric", "values")
OPTIONAL = ("spread_kind", "note")
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)(?: ± (\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class Reference:
    """One published number; accuracies and spreads in per cent, times in milliseconds.

    Texts as they are to be shown.
    """

    paper: str
    source: str  # where it was read: table, section, address
    reading: str  # of READINGS
    method: str
    backbone: str
    training: str
    task: str
    metric: str  # of UNITS
    value: float
    spread: float | None
    spread_kind: str
    note: str

    @property
    def subject(self) -> tuple[str, ...]:
        """What it is a number of: others of the same subject should say the same."""
        return self.task, self.method, self.backbone, self.training, self.metric

    @property
    def text(self) -> str:
        """The value with its spread and unit."""
        spread = "" if self.spread is None else f" ± {self.spread:g}"
        return f"{self.value:.1f}{spread} {UNITS[self.metric]}"


@dataclass(frozen=True)
class References:
    """All published numbers, and the names of our tasks that ask the questions of a published set."""

    values: tuple[Reference, ...]
    tasks: Mapping[str, tuple[str, ...]]

    def of(self, *names: str) -> list[Reference]:
        """Those of the task that has one of these names (case and punctuation aside)."""
        wanted = {_plain(n) for n in names}
        sets = {name for name, ours in self.tasks.items() if wanted & {_plain(n) for n in ours}}
        return [r for r in self.values if r.task in sets]

    def conflicts(self, reference: Reference) -> list[Reference]:
        """Others of the same subject with another value (by more than rounding to one decimal)."""
        return [r for r in self.values if r.subject == reference.subject and abs(r.value - reference.value) > 0.05]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


# Reading
@cache
def shipped() -> References:
    """The numbers that come with the package."""
    return parse(files("rim_bench").joinpath("report/references.yaml").read_text("utf-8"), "references.yaml")


def load(path: Path) -> References:
    """Those of another file.

    Raises:
        UsageError: it cannot be read, or does not hold what `parse` wants.
    """
    try:
        return parse(read_whole(path).decode("utf-8"), str(path))
    except OSError as error:
        raise UsageError(f"references {str(path)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"references {str(path)!r} is not a text file") from None


def parse(text: str, name: str) -> References:
    """Published numbers from YAML.

    Raises:
        UsageError: the first thing that is wrong, by name and place: unknown or missing keys, an empty source, a value
            that is no number, a spread without its kind, a task without names.
    """
    import yaml

    where = f"references {name!r}"
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UsageError(f"{where} is no YAML" + (f" (line {mark.line + 1})" if mark else "")) from None
    if not isinstance(document, dict):
        raise UsageError(f"{where} holds no entries")
    for key in document:
        if key not in ("tasks", "entries"):
            raise UsageError(f"{where}: {unknown('key', str(key), ('tasks', 'entries'))}")
    tasks, entries = document.get("tasks"), document.get("entries")
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{where} holds no entries")
    if not isinstance(tasks, dict) or not all(
        isinstance(names, list) and names and all(isinstance(n, str) for n in names) for names in tasks.values()
    ):
        raise UsageError(f"{where}: tasks must be a table from each published set to a list of task names")
    values = [r for k, entry in enumerate(entries, 1) for r in _entry(entry, f"{where}, entry {k}", tasks)]
    return References(tuple(values), {str(task): tuple(names) for task, names in tasks.items()})


def _entry(entry: Any, where: str, tasks: Mapping[str, Any]) -> Iterator[Reference]:
    if not isinstance(entry, dict):
        raise UsageError(f"{where}, is no table")
    for key in entry:
        if key not in (*REQUIRED, *OPTIONAL):
            raise UsageError(f"{where}: {unknown('key', str(key), (*REQUIRED, *OPTIONAL))}")
    for key in (*REQUIRED, *OPTIONAL):
        if key == "values" or (key in OPTIONAL and key not in entry):
            continue
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise UsageError(f"{where}: {key} is missing or no text; every number needs it")
    for key, allowed in (("reading", READINGS), ("metric", tuple(UNITS))):
        if entry[key] not in allowed:
            raise UsageError(f"{where}: {unknown(key, entry[key], allowed)}")
    values = entry.get("values")
    if not isinstance(values, dict) or not values or not all(isinstance(v, dict) and v for v in values.values()):
        raise UsageError(f"{where}: values is missing or no table of tasks, each a table of methods")
    shared = {k: entry[k] for k in REQUIRED if k != "values"} | {k: entry.get(k, "") for k in OPTIONAL}
    for task, methods in values.items():
        if task not in tasks:
            raise UsageError(f"{where}: {unknown('task', str(task), tuple(tasks))}")
        for method, numbers in methods.items():
            subject = f"{where}: {task}, {method}"
            for number in numbers if isinstance(numbers, list) and numbers else [numbers]:
                value, spread = _number(number, subject, entry["metric"])
                if spread is not None and not shared["spread_kind"]:
                    raise UsageError(f"{subject} has a spread, but spread_kind does not say of what")
                yield Reference(task=str(task), method=str(method), value=value, spread=spread, **shared)


def _number(cell: Any, where: str, metric: str) -> tuple[float, float | None]:
    """Value and spread."""
    text = str(cell) if isinstance(cell, int | float | str) and not isinstance(cell, bool) else ""
    if (match := _NUMBER.fullmatch(text)) is None:
        raise UsageError(f'{where} is {cell!r}: give a number, or "value ± spread", or a list of those that conflict')
    value = float(match[1])
    if metric == "accuracy" and value > 100:
        raise UsageError(f"{where} is {cell!r}: an accuracy is at most 100 %")
    return value, None if match[2] is None else float(match[2])


# Showing
CAPTION = "Published values: not measured here, other items, training and evaluators; never ranked with the rows above"


def section(group: Group, known: References) -> tuple[list[Panel], list[str]]:
    """The published numbers of a group's task as panels of their own, with notes; only a note where there are none."""
    first = group.rows[0].first
    names = [str(n) for n in (first.summary.task, first.summary.task_title) if n]
    published = known.of(*names)
    if not published:
        return [], [f"Published values: none of task {names[0] if names else group.facts.task!r} is known."]
    measured = {r.method for r in group.rows}
    published.sort(key=lambda r: r.method not in measured)  # stable: methods with a row first
    lines, short = [], []
    for r in published:
        others = ", ".join(dict.fromkeys(f"{other.value:.1f}" for other in known.conflicts(r))) or "-"
        kind = "" if r.spread is None or not r.spread_kind else f"± {r.spread_kind}"
        source = "; ".join(filter(None, (r.source, r.note, kind)))
        lines.append((r.paper, r.method, r.backbone, r.training, r.text, r.reading, others, source))
        short.append((r.method, r.backbone, r.text, r.reading, others))
    columns = ("paper", "method", "backbone", "training data", "value", "reading", "conflicts with", "source")
    brief = ("method", "backbone", "value", "reading", "conflicts with")
    panels = [
        Panel(CAPTION, columns, tuple(lines), False),
        Panel("Published values, never ranked (sources: --format markdown)", brief, tuple(short), True),
    ]
    notes = [
        "Published values: secondary = read in somebody else's account, not in the authors' text; many chose "
        "checkpoints on the test set."
    ]
    if any(known.conflicts(r) for r in published):
        notes.append(
            "Conflicting published values of one method, backbone and training set stand side by side; none is "
            "preferred."
        )
    return panels, notes


def listing(known: References) -> dict[str, str]:
    """One line for each paper, backbone and metric: its tasks, methods, and how it was read."""
    groups: dict[str, list[Reference]] = {}
    for r in known.values:
        groups.setdefault(f"{r.paper} [{r.backbone}, {r.metric}]", []).append(r)
    out = {}
    for name, values in groups.items():
        tasks, methods = dict.fromkeys(r.task for r in values), dict.fromkeys(r.method for r in values)
        out[name] = f"{', '.join(tasks)}: {', '.join(methods)}; {values[0].reading}"
    return out
