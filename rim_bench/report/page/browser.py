"""The questions of a group with everything that its rows answered, as columns that pack well."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rim_bench.data.datasets import evaluation_data
from rim_bench.data.licences import passed_on, question_records
from rim_bench.data.reader import DATA_VARIABLE
from rim_bench.data.task import load_task, task_names
from rim_bench.evidence.rows import Evaluation, Group
from rim_bench.report.page.records import QuestionColumns
from rim_bench.storage.questions import QuestionStore, asked
from rim_bench.storage.records import ItemRecord, QuestionRecord
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError
from rim_bench.util.text import escape_terminal

FLAGS = {"unparseable": 1, "empty": 2, "capped": 4, "overlong": 8}  # fields of an item


@dataclass(frozen=True)
class TextSource:
    """Where the texts of questions come from: beside the runs, else from the task itself."""

    runs: Mapping[str, Run]  # by id
    data: Path | None = None  # folder of the published files
    every: bool = False  # also sets whose licence does not let them be passed on

    def read(self, group: Group) -> tuple[dict[str, QuestionRecord], str]:
        """The texts of a group's questions by id, and why there are none."""
        first, problems = group.rows[0].first, []
        for folder in dict.fromkeys(self.runs[p.run].results for row in group.rows for p in row.parts):
            try:
                stored = QuestionStore(folder).read(first.summary.data_sha256)
            except UsageError as error:
                problems.append(str(error))
                continue
            if any(record.question is not None for record in stored.values()):
                return stored, ""
        texts, why = self._from_task(first)
        return texts, "; ".join([*problems, *([why] if why else [])])

    def _from_task(self, e: Evaluation) -> tuple[dict[str, QuestionRecord], str]:
        """Those of a shipped task, whose sha256 must be that of the evaluation. Asks no network."""
        summary, name = e.summary, str(e.summary.task)
        if name not in task_names():
            return {}, f"the texts are not stored beside the runs, and {name} is no task that comes with rim-bench"
        task = load_task(name)
        licence = task.metadata.get("licence", "not stated")
        if not (passed_on(task) or self.every):
            return {}, f"the licence of {name} ({licence}) does not let its texts be passed on (--all-texts shows them)"
        folder = self.data or (Path(named) if (named := os.environ.get(DATA_VARIABLE)) else None)
        if task.metadata["source"] != "generator" and folder is None:
            return {}, f"the texts of {name} are not stored beside the runs: --data DIR reads them from published files"
        split: Any = summary.split
        settings: dict[str, Any] = {"limit": summary.limit, "split": split, "allow_changed": True}
        try:
            read = evaluation_data(task, data=folder, steps=e.spec.task.steps or "equations", **settings)
        except UsageError as error:
            return {}, f"the texts of {name} cannot be read: {error}"
        if read.sha256 != summary.data_sha256:
            return (
                {},
                f"the questions of {name} that are here are not those that were asked (sha256 {read.sha256[:12]})",
            )
        return {record.id: record for record in question_records(read.examples, texts=True)}, ""


def question_columns(group: Group, source: TextSource) -> QuestionColumns:
    """Every question of a group, with the answers of all rows and seeds."""
    first = group.rows[0].first
    items, (texts, note) = list(first.items.values()), source.read(group)
    known = [texts.get(item.id) if asked(item, texts.get(item.id)) else None for item in items]
    if texts and (missing := sum(record is None for record in known)):
        note = f"{missing:,} questions have no stored text, or another one than was asked"
    pool: dict[str, int] = {}

    def place(text: str | None) -> int:
        return -1 if text is None else pool.setdefault(escape_terminal(text), len(pool))

    places = {item.id: k for k, item in enumerate(items)}
    answers = []
    for number, row in enumerate(group.rows):
        for part in row.parts:
            mine = [part.items[item.id] for item in items]
            column: dict[str, Any] = {
                "row": number,
                "seed": part.seed,
                "correct": "".join(str(int(i.correct)) for i in mine),
                "flags": [sum(bit for name, bit in FLAGS.items() if getattr(i, name)) for i in mine],
                "answer": [place(i.answer) for i in mine],
                "output": [place(i.output) for i in mine],
                "tokens": [i.generated_tokens for i in mine],
            }
            if any(i.blocks for i in mine):
                column["blocks"] = [_blocks(i, place) for i in mine]
            answers.append(column)
    choices = tuple(tuple(map(escape_terminal, r.choices)) if r is not None else () for r in known)
    return QuestionColumns(
        tuple(escape_terminal(item.id) for item in items),
        tuple(escape_terminal(str(item.level or "")) for item in items),
        tuple(tuple(places[i] for i in scope.ids) for scope in group.scopes),
        tuple("" if r is None else escape_terminal(str(r.question)) for r in known) if any(known) else (),
        tuple(escape_terminal(str(item.reference)) if item.reference is not None else "" for item in items),
        choices if any(choices) else (),
        note,
        tuple(pool),
        tuple(answers),
    )


def _blocks(item: ItemRecord, place: Any) -> list[int]:
    """The answer after each block and whether it is right, alternately."""
    return [number for block in item.blocks for number in (place(block.answer), int(block.correct))]
