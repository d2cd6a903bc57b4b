"""What shortcuts get on the questions of an evaluation, fitted on the rows that the run was trained on."""

from __future__ import annotations

from pathlib import Path

from rim_bench.data.reader import Files, Split
from rim_bench.data.shortcuts import shortcut_scores
from rim_bench.data.task import Task, task_of
from rim_bench.evaluate.vocabulary_check import training_rows
from rim_bench.storage.records import ShortcutRecord
from rim_bench.storage.run_folder import Run

_known: dict[tuple[str | None, ...], tuple[ShortcutRecord, ...]] = {}


def measured_shortcuts(
    run: Run, task: Task, asked: Split, data: Path | None, files: Files | None
) -> tuple[ShortcutRecord, ...]:
    """`shortcut_scores` of a run's training rows, once a process for all runs that share them; none without the rows.

    Args:
        asked: questions of `task`.
        data: folder of the published files.
        files: those that the run was trained on, where they are not in that folder.
    """
    own = run.spec.task
    key = (own.name, own.train_sha256, task.name, task.file_sha256, asked.sha256)
    if key not in _known:
        if (rows := training_rows(run.spec, data, files)) is None:
            return ()
        _known[key] = shortcut_scores(task, asked, task_of(own.name, run.task_file), rows[0])
    return _known[key]
