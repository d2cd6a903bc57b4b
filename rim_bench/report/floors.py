"""The floors of a task before anyone trains: what each shortcut gets on its questions, by level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rim_bench.data.datasets import evaluation_data, training_data
from rim_bench.data.options import DataOptions
from rim_bench.data.reader import NoSplit, Split
from rim_bench.data.shortcuts import ANSWERS, ROWS, shortcut_scores
from rim_bench.data.task import Task
from rim_bench.evidence.floors import FloorKind, constant_floor, with_shortcuts
from rim_bench.evidence.stats.intervals import wilson
from rim_bench.storage.records import ShortcutRecord
from rim_bench.util.errors import UsageError
from rim_bench.util.files import Record
from rim_bench.util.table import Panel, Section, Table
from rim_bench.util.text import format_interval, format_percent, natural_key

NOTE = (
    "Shortcuts are classifiers of a question's surface, fitted on training rows alone: the most frequent answer to "
    "each value of a feature that the task's code names, and multinomial naive Bayes on counts of words and of "
    f"bigrams (first {ROWS:,} rows, {ANSWERS} most frequent answers). The constant answer is the best one to these "
    "questions. The best of several is a little too high by chance."
)
COLUMNS = ("task", "split", "trained_on", "set", "ood", "name", "right", "n", "accuracy", "ci_low", "ci_high", "floor")
Level = tuple[bool, str]  # whether training never shows it, and its name


def floors_table(task: Task, trained_on: Task, options: DataOptions, split: str) -> Table:
    """The floors of a task's test or validation set for runs that are trained on a task.

    Raises:
        UsageError: rows that cannot be read, or a task without training rows.
    """
    where: dict[str, Any] = {"data": options.data, "limit": options.limit, "allow_changed": options.allow_changed_data}
    of_task = {**where, "steps": options.steps, "files": options.files}
    asked = evaluation_data(task, split="validation" if split == "validation" else "test", **of_task)
    try:
        train, _ = training_data(trained_on, **(of_task if trained_on.name == task.name else where))
    except NoSplit as error:
        raise UsageError(f"{error}; here: name the task that is trained on, such as --trained-on gsm8k") from None
    return _table(task, asked, trained_on, train, shortcut_scores(task, asked, trained_on, train))


def _table(task: Task, asked: Split, trained_on: Task, train: Split, scores: Sequence[ShortcutRecord]) -> Table:
    sets = _sets(task, asked)
    names = list(dict.fromkeys(score.name for score in scores))
    rows, records = [], []
    cells: dict[str, list[tuple[float, str]]] = {name: [] for name in names}
    for title, levels in sets.items():
        examples = [e for e in asked.examples if (e.level in task.ood_levels, e.level) in levels]
        chances = [1 / len(e.choices) if e.choices else 0.0 for e in examples]
        constant = constant_floor([e.answer for e in examples], chances)
        floor, n = with_shortcuts(constant, [scores], levels), len(examples)
        best = f"{format_percent(floor.value)} {format_interval(*floor.interval)}"
        rows.append((title, f"{n:,}", best, floor.text(), f"{format_percent(constant.value)} ({constant.name})"))
        best_name = floor.name if floor.kind is FloorKind.SHORTCUT else constant.text()
        right: dict[str, float] = {constant.text(): constant.value * n}
        for score in scores:
            if (score.ood, score.level) in levels:
                right[score.name] = right.get(score.name, 0) + score.right
        for name, count in right.items():
            low, high = wilson(min(n, count), n)
            record: Record = {
                "task": task.name, "split": asked.split, "trained_on": trained_on.name, "set": title,
                "ood": all(ood for ood, _ in levels), "name": name, "right": count, "n": n, "accuracy": count / n,
                "ci_low": low, "ci_high": high, "floor": name == best_name,
            }  # fmt: skip
            records.append(record)
            if name in cells:
                cells[name].append((count / n, f"{format_percent(count / n)} {format_interval(low, high)}"))
    columns = ("shortcut", *sets)
    panels = [
        Panel(
            "Floors, % with Wilson 95 % intervals",
            ("set", "n", "floor", "it is", "constant"),
            tuple(rows),
            align="lrrll",
        ),
        Panel("Shortcuts, %", columns, tuple((k, *(text for _, text in v)) for k, v in cells.items()), short=False),
        Panel(
            "Shortcuts, %",
            columns,
            tuple((k, *(format_percent(x) for x, _ in v)) for k, v in cells.items()),
            short=True,
        ),
    ]
    head = f"{asked.source}, data {asked.sha256[:8]}; trained on {trained_on.title}, {len(train.examples):,} rows"
    title = f"Floors of {task.title}, {asked.split}"
    return Table(
        title, False, (Section(head, tuple(panels), (NOTE,)),), tuple(records), COLUMNS, file="the markdown form"
    )


def _sets(task: Task, asked: Split) -> dict[str, set[Level]]:
    """The sets of questions that an accuracy is stated for, as in a comparison: name -> the levels in it."""
    levels = {(e.level in task.ood_levels, e.level) for e in asked.examples}
    inside = {level for level in levels if not level[0]}
    sets = {"in distribution": inside, "OOD": levels - inside} if inside and inside != levels else {"all": levels}
    if len(levels) > 1:
        ordered = sorted(levels, key=lambda level: (level[0], natural_key(level[1])))
        sets |= {f"{name} (OOD)" if ood else name: {(ood, name)} for ood, name in ordered}
    return sets
