"""Invented evaluations that the gate takes: of the present scorer, with marks that their outputs deserve, and dated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import fabricated

from rim_bench.data.answers import EVALUATOR_VERSION
from rim_bench.storage.records import EvaluationRecord, ItemRecord
from rim_bench.storage.run_folder import Run
from rim_bench.util.environment import moment


def evaluate(run: Run, correct: Sequence[bool], **how: Any) -> None:
    """Stores an evaluation: `fabricated.evaluate`."""
    present = {"evaluator_version": EVALUATOR_VERSION, "scoring": {"kind": "number"}, "date": moment()}
    fabricated.evaluate(run, correct, **{**present, **how})


def answering(run: Run, task: str, asked: Mapping[str, Any]) -> tuple[EvaluationRecord, list[ItemRecord]]:
    """What an engine would answer now that answers as the newest stored evaluation of the run that is no repeat."""
    stored = [(summary.date or "", key, summary) for key, summary in run.evaluations().items() if not summary.repeat]
    _, key, summary = max(stored, key=lambda known: known[:2])
    return replace(summary, stored_items=None), run.read_items(key)
